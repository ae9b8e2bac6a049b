"""Documents from local files: JSON lines, plain text, Parquet and Arrow.

    .jsonl .jsonl.gz .jsonl.zst    one document a line, in the field `text_field`
    .txt .txt.gz .txt.zst          one document a file
    .parquet .arrow                one document a row, read through the `datasets` library

Whatever is wrong is reported as a DataError with the file, and the line or row where there is one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast, runtime_checkable

from diffmamba_interp.data.documents import DataError, Document

TEXT_SUFFIXES = (".txt", ".txt.gz", ".txt.zst")
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
TABLE_SUFFIXES = (".parquet", ".arrow")
SUFFIXES = (*JSON_SUFFIXES, *TEXT_SUFFIXES, *TABLE_SUFFIXES)


def read_file(path: str | Path, *, text_field: str = "text") -> Iterator[Document]:
    """The documents of one file, in its order; blank ones are left out.

    Raises FileNotFoundError if there is no such file; DataError if it is of no known kind, damaged, not
    UTF-8, or holds a line or row without `text_field`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: check the path, or give a folder or a pattern.")
    name = path.name.lower()
    if name.endswith(JSON_SUFFIXES):
        documents = _read_json_lines(path, text_field)
    elif name.endswith(TEXT_SUFFIXES):
        documents = _read_text(path)
    elif name.endswith(TABLE_SUFFIXES):
        documents = _read_table(path, text_field)
    else:
        raise DataError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)}.")
    return (document for document in documents if document.text.strip())


def find_files(pattern: str | Path) -> list[Path]:
    """The files that a path names: itself, all of known kind below a folder, or matches of a pattern; sorted.

    Raises FileNotFoundError if there are none.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and file.name.lower().endswith(SUFFIXES)]
    else:
        anchor = Path(path.anchor)
        found = [file for file in anchor.glob(str(path.relative_to(anchor))) if file.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{pattern} names no file: give a file, a folder that holds some, or a pattern such as "
            f"'texts/*.jsonl.gz'. Known kinds: {', '.join(SUFFIXES)}."
        )
    return sorted(found)


def _read_json_lines(path: Path, text_field: str) -> Iterator[Document]:
    with _open(path) as file:
        for number, line in enumerate(_lines(file, path), start=1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 ({error.reason}): convert the file to UTF-8.") from error
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not JSON ({error}): repair or remove the line.") from error
            if not isinstance(record, dict):
                raise DataError(f"{where}: expected a JSON object with a field {text_field!r}, found {record!r}.")
            yield Document(_text_of(record, text_field, where), where)


def _read_text(path: Path) -> Iterator[Document]:
    with _open(path) as file:
        content = b"".join(_lines(file, path))
    try:
        yield Document(content.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}): convert the file to UTF-8.") from error


def _read_table(path: Path, text_field: str) -> Iterator[Document]:
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    kind = path.suffix.lower().removeprefix(".")
    try:
        rows = datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True)
        for number, row in enumerate(rows, start=1):
            where = f"{path}, row {number}"
            yield Document(_text_of(row, text_field, where), where)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowIOError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(f"{path} is damaged or no {kind} file: {error}") from error


def _text_of(record: dict, text_field: str, where: str) -> str:
    if text_field not in record:
        raise DataError(f"{where}: no field {text_field!r}; the fields are {', '.join(map(str, record))}.")
    text = record[text_field]
    if not isinstance(text, str):
        raise DataError(f"{where}: the field {text_field!r} holds {type(text).__name__}, not text.")
    return without_lone_surrogates(text)


def without_lone_surrogates(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON allows and UTF-8 does not, replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@runtime_checkable
class _ByteStream(Protocol):
    """What plain and compressed files have in common."""

    def read(self, size: int, /) -> bytes: ...

    def __enter__(self) -> _ByteStream: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...


def _open(path: Path) -> _ByteStream:
    name = path.name.lower()
    if name.endswith(".gz"):
        return cast(_ByteStream, gzip.open(path, "rb"))
    if name.endswith(".zst"):
        import pyarrow

        return cast(_ByteStream, pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _lines(file: _ByteStream, path: Path) -> Iterator[bytes]:
    """Lines with their line ends, from any compressed or plain stream."""
    rest = b""
    try:
        while block := file.read(1 << 20):
            *lines, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in lines)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read to its end ({error}): it is damaged or was cut off; fetch it again."
        ) from error
    if rest:
        yield rest
