"""Documents from local files: JSON lines, plain text, Parquet and Arrow.

    .jsonl .jsonl.gz .jsonl.zst    one document a line, in the field `text_field`
    .txt .txt.gz .txt.zst          one document a file
    .parquet .arrow                one document a row, in the column `text_field`

UTF-8; a byte-order mark at the start is passed over. Whatever is wrong is reported as a DataError with the file, and
the line or row where there is one.
"""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, cast, runtime_checkable

from diffmamba_interp.files.json_files import parse_json
from diffmamba_interp.text.documents import DataError, Document
from diffmamba_interp.text.locations import JSON_SUFFIXES, SUFFIXES, TABLE_SUFFIXES, TEXT_SUFFIXES

# What a packed file may unpack to unless told otherwise: so many bytes, or so many times its size where that is more.
# Text packs to a third or a tenth of its size; what packs to a thousandth is no text.
UNPACKED_BYTES = 256 * 2**20
UNPACKED_RATIO = 50
_BYTES_PER_REPORT = 256 * 2**20
_BLOCK_BYTES = 2**20
_ROWS_PER_BATCH = 1024
# Text may hold a stray zero byte; where more than one byte in so many is zero, it is no UTF-8 text.
_ZEROS_PART = 5
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

logger = logging.getLogger(__name__)


def read_file(
    path: str | Path, *, text_field: str = "text", skip_empty: bool = False, max_unpacked_gb: float | None = None
) -> Iterator[Document]:
    """The documents of one file, in its order; blank ones are left out.

    skip_empty, max_unpacked_gb: see `read_rows`.
    Raises FileNotFoundError if there is no such file; DataError if it is of no known kind, damaged, not
    UTF-8, unpacks to too much, or holds a line or row without `text_field`.
    """
    rows = read_rows(path, text_field=text_field, skip_empty=skip_empty, max_unpacked_gb=max_unpacked_gb)
    return (document for document in rows if document is not None)


def read_rows(
    path: str | Path, *, text_field: str = "text", skip_empty: bool = False, max_unpacked_gb: float | None = None
) -> Iterator[Document | None]:
    """As `read_file`, with None for each row that is passed over, so that they can be counted.

    skip_empty: pass over rows whose text is null or missing, too; otherwise they are an error.
    max_unpacked_gb: stop with an error when a packed file (.gz, .zst, a table) unpacks to more than so many GB of text
        (10^9 bytes); None: 0.27, or 50 times its packed size where that is more.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: check the path, or give a folder or a pattern.")
    name = path.name.lower()
    rows: Iterator[tuple[str, Any]]
    if name.endswith(JSON_SUFFIXES):
        rows = _json_rows(path, text_field, skip_empty, max_unpacked_gb)
    elif name.endswith(TEXT_SUFFIXES):
        rows = _whole_text(path, max_unpacked_gb)
    elif name.endswith(TABLE_SUFFIXES):
        rows = _table_rows(path, text_field, max_unpacked_gb)
    else:
        raise DataError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}. Convert or unpack it.")
    return (document_of_row(value, where, text_field=text_field, skip_empty=skip_empty) for where, value in rows)


def document_of_row(value: Any, where: str, *, text_field: str, skip_empty: bool) -> Document | None:
    """The document of a row whose text is `value`; None for a blank one, or for a null if these are passed over.

    where: file and line, or hub id and row. Raises DataError for what is no text.
    """
    if value is None and skip_empty:
        return None
    if not isinstance(value, str):
        hint = "pass over such rows with skip_empty" if value is None else "choose another field with text_field"
        kind = "null" if value is None else type(value).__name__
        raise DataError(f"{where}: the field {text_field!r} holds {kind}, not text: {hint}, or repair the row.")
    return Document(without_lone_surrogates(value), where) if value.strip() else None


def without_lone_surrogates(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON allows and UTF-8 does not, replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _json_rows(
    path: Path, text_field: str, skip_empty: bool, max_unpacked_gb: float | None
) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_lines(path, max_unpacked_gb), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            record = parse_json(line.decode("utf-8"), source=where)
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 ({error.reason}): convert the file to UTF-8.") from error
        except ValueError as error:
            raise DataError(f"{error} Repair or remove the line.") from error
        if not isinstance(record, dict):
            given = repr(record)[:60]
            raise DataError(f"{where}: expected a JSON object with a field {text_field!r}, not {given}.")
        if text_field not in record and not skip_empty:
            names = ", ".join(map(str, record)) or "none"
            raise DataError(f"{where}: no field {text_field!r}; the fields are {names}: choose one with text_field.")
        yield where, record.get(text_field)


def _whole_text(path: Path, max_unpacked_gb: float | None) -> Iterator[tuple[str, str]]:
    content = b"".join(_blocks(path, max_unpacked_gb))
    # UTF-16 and UTF-32 without a mark are valid UTF-8 where all letters are Latin, with zeros between them.
    if content.count(0) * _ZEROS_PART > len(content):
        raise DataError(f"{path} is full of zero bytes: it is UTF-16, UTF-32 or no text; convert the file to UTF-8.")
    try:
        yield str(path), content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}): convert the file to UTF-8.") from error


def _table_rows(path: Path, text_field: str, max_unpacked_gb: float | None) -> Iterator[tuple[str, Any]]:
    limit = _unpacked_limit(path, max_unpacked_gb)
    n_characters = 0
    for number, value in enumerate(_read_column(path, text_field), start=1):
        n_characters += len(value) if isinstance(value, str) else 0
        _require_within(path, n_characters, limit)
        yield f"{path}, row {number}", value


def _read_column(path: Path, column: str) -> Iterator[Any]:
    """The values of one column, in order; None for a null. Read batch by batch, without the other columns.

    Raises DataError if the file is damaged, no such table, or has no such column.
    """
    kind = path.suffix.lower().removeprefix(".")
    with _table_errors(path, kind):
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
def _table_errors(path: Path, kind: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except PermissionError as error:
        raise DataError(f"{path} may not be read ({error.strerror}): change its rights.") from error
    except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or no {kind} file: {error}") from error


def _lines(path: Path, max_unpacked_gb: float | None) -> Iterator[bytes]:
    """Lines without their line ends. A long line is put together once, when its end is there."""
    parts: list[bytes] = []
    for block in _blocks(path, max_unpacked_gb):
        first, *others = block.split(b"\n")
        parts.append(first)
        if others:
            yield b"".join(parts)
            yield from others[:-1]
            parts = [others[-1]]
    yield b"".join(parts)


def _blocks(path: Path, max_unpacked_gb: float | None) -> Iterator[bytes]:
    """The unpacked bytes without a byte-order mark. What is read of a large file is said in the log on the way."""
    is_packed = path.name.lower().endswith((".gz", ".zst"))
    limit = _unpacked_limit(path, max_unpacked_gb) if is_packed else math.inf
    n_bytes = n_reported = 0
    try:
        with _open(path) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block.removeprefix(_BYTE_ORDER_MARK) if n_bytes == 0 else block
                n_bytes += len(block)
                if n_bytes - n_reported >= _BYTES_PER_REPORT:
                    n_reported = n_bytes
                    logger.info("reading %s: %.2f GB so far", path, n_bytes / 1e9)
                _require_within(path, n_bytes, limit)
    except PermissionError as error:
        raise DataError(f"{path} may not be read ({error.strerror}): change its rights.") from error
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read to its end ({error}): it is damaged or was cut off; fetch it again."
        ) from error


def _unpacked_limit(path: Path, max_unpacked_gb: float | None) -> float:
    if max_unpacked_gb is not None:
        return max_unpacked_gb * 1e9
    return float(max(UNPACKED_BYTES, UNPACKED_RATIO * path.stat().st_size))


def _require_within(path: Path, n_bytes: int, limit: float) -> None:
    if n_bytes > limit:
        raise DataError(
            f"{path}, {path.stat().st_size:,} bytes, unpacks to more than {limit / 1e9:.2f} GB: check what it is; if "
            "it is right, allow more with max_unpacked_gb."
        )


def _open(path: Path) -> _ByteStream:
    name = path.name.lower()
    if name.endswith(".gz"):
        return cast(_ByteStream, gzip.open(path, "rb"))
    if name.endswith(".zst"):
        import pyarrow

        return cast(_ByteStream, pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


@runtime_checkable
class _ByteStream(Protocol):
    """What plain and compressed files have in common."""

    def read(self, size: int, /) -> bytes: ...

    def __enter__(self) -> _ByteStream: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...
