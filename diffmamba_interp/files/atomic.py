"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
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
        with naming(path, temporary):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path, *aliases: str | Path) -> Iterator[None]:
    """Have errors of the system in the `with` block name `path`, where they name nothing or one of `aliases`.

    A full disk is noticed while writing or closing, where the system gives no name; numpy then gives no number either.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None and "written" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if error.errno is not None and error.filename in (None, *map(str, aliases)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` by way of `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: str | Path, content: str) -> None:
    """Write UTF-8 text to `path` by way of `replacing`; line ends stay as they are."""
    write_bytes(path, content.encode("utf-8"))
