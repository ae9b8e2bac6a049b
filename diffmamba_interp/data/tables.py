"""Rows of Parquet and Arrow files: one column of text, read batch by batch without loading the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffmamba_interp.data.documents import DataError

_ROWS_PER_BATCH = 1024


def read_column(path: Path, column: str) -> Iterator[Any]:
    """The values of one column, in order; None for a null.

    Raises DataError if the file is damaged, no such table, or has no such column.
    """
    kind = path.suffix.lower().removeprefix(".")
    with _errors(path, kind):
        batches = _parquet_batches(path, column) if kind == "parquet" else _arrow_batches(path, column)
        for batch in batches:
            # A damaged offset must not be followed.
            batch.validate(full=True)
            yield from batch.column(0).to_pylist()


def _parquet_batches(path: Path, column: str) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        _require_column(path, column, file.schema_arrow.names)
        yield from file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=[column])


def _arrow_batches(path: Path, column: str) -> Iterator[Any]:
    """Of both layouts of Arrow files: a stream, as the `datasets` library writes, or a file with a footer."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        try:
            reader = pyarrow.ipc.open_stream(file)
            batches = iter(reader)
        except pyarrow.ArrowInvalid:
            reader = pyarrow.ipc.open_file(file)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        _require_column(path, column, reader.schema.names)
        for batch in batches:
            yield batch.select([column])


def _require_column(path: Path, column: str, names: list[str]) -> None:
    if column not in names:
        raise DataError(f"{path}: no field {column!r}; the fields are {', '.join(names)}: choose one with text_field.")
    if names.count(column) > 1:
        raise DataError(f"{path} has several fields named {column!r}: rename one.")


@contextmanager
def _errors(path: Path, kind: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except PermissionError as error:
        raise DataError(f"{path} may not be read ({error.strerror}): change its rights.") from error
    except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or no {kind} file: {error}") from error
