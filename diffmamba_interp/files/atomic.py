"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: str | Path, *, several_writers: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of `path` when the block ends well, and is removed when it does not.

    The folder is made if it is missing. The bytes are on the disk before the name is. Raises OSError (disk full,
    no permission), which names `path`; what was there before then stays as it was.

    several_writers: other processes may be writing this file now, so each takes a temporary name of its own.
        Otherwise the name is fixed, and what a killed process left half-written is replaced by the next one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"-{os.getpid()}" if several_writers else ""
    temporary = path.with_name(f".{path.name}{owner}.writing")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # A full disk is noticed while writing or closing, where the system gives no name.
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` by way of `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: str | Path, content: str) -> None:
    """Write UTF-8 text to `path` by way of `replacing`; line ends stay as they are."""
    write_bytes(path, content.encode("utf-8"))
