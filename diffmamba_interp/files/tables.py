"""Rows of plain values as a table in a file: Parquet, CSV or JSON, the last two also compressed; and back.

columns: name -> type, in the order in which they are written. A cell of a column of lists may be None, and a single
number stands for a list of one where a type is needed. The same rows give the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.checksums import DamagedFileError

Row = Mapping[str, Any]
Columns = Mapping[str, pa.DataType]

_SEPARATOR = "|"


def write_table(path: str | Path, rows: Sequence[Row], columns: Columns) -> None:
    """Write rows as .parquet, .csv, .csv.gz, .json or .json.gz. Raises ValueError for another suffix."""
    path = Path(path)
    suffix = _suffix(path)
    if suffix == ".parquet":
        table = pa.Table.from_pylist([_typed(row, columns) for row in rows], schema=pa.schema(list(columns.items())))
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        content = buffer.getvalue()
    elif suffix == ".csv":
        content = _to_csv(rows, columns).encode()
    else:
        content = "".join(("[\n", ",\n".join(json.dumps(row) for row in rows), "\n]\n")).encode()
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_table(path: str | Path, columns: Columns, *, kind: str = "table") -> list[dict[str, Any]]:
    """What `write_table` wrote. kind: what the file should be, for errors.

    Raises OSError; ValueError for another suffix; DamagedFileError for a file that is damaged or of another format.
    """
    path = Path(path)
    suffix = _suffix(path)
    content = path.read_bytes()
    try:
        return _rows(gzip.decompress(content) if path.suffix == ".gz" else content, suffix, columns)
    except (ValueError, OSError, EOFError, zlib.error, LookupError, TypeError, RecursionError, csv.Error) as error:
        raise DamagedFileError(f"{path} is no {kind}, or a damaged one: {error}") from error


def _rows(content: bytes, suffix: str, columns: Columns) -> list[dict[str, Any]]:
    if suffix == ".parquet":
        return pq.read_table(io.BytesIO(content), page_checksum_verification=True).to_pylist()
    if suffix == ".csv":
        lines = csv.DictReader(io.StringIO(content.decode()))
        return [{name: _cell(cell, columns[name]) for name, cell in line.items() if name in columns} for line in lines]
    return json.loads(content)


def _suffix(path: Path) -> str:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in (".parquet", ".csv", ".json") or path.suffix == ".gz" and suffix == ".parquet":
        raise ValueError(f"{path.name} is no name for a table: end it in .parquet, .csv, .csv.gz, .json or .json.gz.")
    return suffix


def _to_csv(rows: Sequence[Row], columns: Columns) -> str:
    """Lists are joined by "|"; an empty cell is None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = _typed(row, columns).values()
        writer.writerow([_SEPARATOR.join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells])
    return text.getvalue()


def _typed(row: Row, columns: Columns) -> dict[str, Any]:
    """The row's cells in the order of the columns, a single number of a column of lists as a list."""
    return {
        name: [row[name]] if pa.types.is_list(kind) and isinstance(row[name], float | int) else row[name]
        for name, kind in columns.items()
    }


def _cell(text: str, kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [_cell(part, kind.value_type) for part in text.split(_SEPARATOR)] if text else None
    return float(text) if pa.types.is_floating(kind) else int(text) if pa.types.is_integer(kind) else text
