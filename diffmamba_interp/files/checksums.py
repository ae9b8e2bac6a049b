"""SHA-256 sums of files: computed, kept beside a file, and checked when it is read.

    tokens.npy
    tokens.npy.sha256       "<sum>  tokens.npy", as `sha256sum --check` reads it

A file without a sum is of an older version, and is read as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from diffmamba_interp.files.atomic import replacing

SUFFIX = ".sha256"


class DamagedFileError(ValueError):
    """A file does not hold what was written into it."""


def file_sha256(path: str | Path) -> str:
    """Sha256 of one file's bytes. Raises OSError if it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_sha256(path: str | Path, expected: str, *, remedy: str) -> None:
    """Raise DamagedFileError unless the file has this sum.

    remedy: what to do about it, such as "delete it, and it is made anew".
    """
    if file_sha256(path) != expected:
        raise DamagedFileError(damage_text(path, remedy))


def damage_text(path: str | Path, remedy: str) -> str:
    """What is said of a file whose sum is not the one that was written with it."""
    return f"{path} is damaged: its bytes are not those that were written (their sha256 differs). {remedy}"


def sum_path(path: str | Path) -> Path:
    """Where the sum of a file is kept: beside it."""
    path = Path(path)
    return path.with_name(path.name + SUFFIX)


@contextmanager
def replacing_with_sum(path: str | Path, *, several_writers: bool = False) -> Iterator[IO[bytes]]:
    """`replacing`, and a sum beside the file when the block ends well.

    A process that is killed in between leaves the file without a sum, never beside another file's.
    """
    beside = sum_path(path)
    with replacing(path, several_writers=several_writers) as file:
        yield file
        file.flush()
        digest = file_sha256(file.name)
        beside.unlink(missing_ok=True)
    with replacing(beside, several_writers=several_writers) as sum_file:
        sum_file.write(f"{digest}  {Path(path).name}\n".encode())


def check_sum(path: str | Path, *, remedy: str) -> bool:
    """Compare a file with the sum beside it; False if there is no sum, as for files of older versions.

    Raises DamagedFileError if they differ, or if what is beside it is no sum; OSError if it cannot be read.
    """
    beside = sum_path(path)
    try:
        content = beside.read_bytes()
    except FileNotFoundError:
        return False
    stored = re.match(rb"[0-9a-f]{64}\b", content)
    if stored is None:
        raise DamagedFileError(f"{beside} holds no sha256, so {path} cannot be checked. {remedy}")
    require_sha256(path, stored[0].decode(), remedy=remedy)
    return True
