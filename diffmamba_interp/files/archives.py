"""A sum in a zip archive: NPZ files, `torch.save` files and sessions keep the sha256 of their bytes in themselves.

    archive + "sha256:<sum of the archive>"

It stands in the comment that a zip archive may end in, so whatever opens zip archives opens this one. Zip's own sums
(CRC-32) are of the packed files alone, and not every reader looks at them.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from diffmamba_interp.files.checksums import DamagedFileError, damage_text


def add_sum(archive: io.BytesIO) -> None:
    """Give a zip archive without a comment its sum."""
    # Its last two bytes say how long the comment is: none, so far.
    length = struct.pack("<H", _SUM_BYTES)
    archive.seek(-len(length), io.SEEK_END)
    assert archive.read() == b"\0\0"
    archive.seek(-len(length), io.SEEK_END)
    archive.write(length)
    with archive.getbuffer() as content:
        total = _sum(content)
    archive.write(_MARK + total)


def check_sum(content: bytes, *, source: str | Path, remedy: str) -> bool:
    """Compare an archive with the sum in it; False if it has none, as one of an older version, or is no archive.

    Raises DamagedFileError if they differ, or if the end of the archive has been lost. source, remedy: which file it
    is, and what to do about it, as a sentence.
    """
    stored = content[-_SUM_BYTES:]
    if not stored.startswith(_MARK):
        ends_bare = content[-_END_BYTES:].startswith(_END) and content.endswith(b"\0\0")
        if content.startswith(_BEGIN) and not ends_bare:
            raise DamagedFileError(f"{source} is corrupt: it was cut off, or its end has changed. {remedy}")
        return False
    if stored[len(_MARK) :] != _sum(memoryview(content)[:-_SUM_BYTES]):
        raise DamagedFileError(damage_text(source, remedy))
    return True


def files_to_bytes(files: Mapping[str, str | bytes]) -> bytes:
    """Files by name as a zip archive with a sum, which packs nothing."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    add_sum(packed)
    return packed.getvalue()


def files_from_bytes(
    content: bytes,
    check: Callable[[Sequence[zipfile.ZipInfo]], None],
    *,
    source: str | Path,
    remedy: str,
    kind: str = "archive",
) -> dict[str, bytes]:
    """The files of a zip archive, with a sum or without. kind: what it should be, for errors.

    check: is given what the archive says of its files, before any is unpacked, and raises ValueError for too much.
    Raises DamagedFileError, which is a ValueError, for an archive that is damaged or none at all.
    """
    check_sum(content, source=source, remedy=remedy)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except _DAMAGE as error:
        raise _damaged(source, kind, error, remedy) from error
    with archive:
        check(archive.infolist())
        try:
            return {name: archive.read(name) for name in archive.namelist()}
        except _DAMAGE as error:
            raise _damaged(source, kind, error, remedy) from error


def require_modest(content: bytes, max_bytes: int, *, source: str | Path, remedy: str) -> None:
    """Raise ValueError if the files of a zip archive would unpack to more than `max_bytes`, or if it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            n_bytes = sum(info.file_size for info in archive.infolist())
    except _DAMAGE as error:
        raise _damaged(source, "archive", error, remedy) from error
    if n_bytes > max_bytes:
        raise ValueError(f"{source} would unpack to {n_bytes / 2**20:,.0f} MiB, which is too much.")


def arrays_to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as a compressed NPZ file with a sum; nothing is pickled."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    add_sum(file)
    return file.getvalue()


def arrays_from_bytes(
    content: bytes, *, source: str | Path, remedy: str, kind: str = "NPZ file"
) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file, with a sum or without; nothing is unpickled. kind: what it should be, for errors.

    Raises DamagedFileError, which is a ValueError, for one that is damaged or none at all.
    """
    check_sum(content, source=source, remedy=remedy)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DamagedFileError(f"{source} is no {kind}, but a single array. {remedy}")
            return {name: file[name] for name in file.files}
    except DamagedFileError:
        raise
    except _DAMAGE as error:
        raise _damaged(source, kind, error, remedy) from error


def _damaged(source: str | Path, kind: str, error: Exception, remedy: str) -> DamagedFileError:
    # numpy's own text advises to unpickle.
    reason = "it holds pickled objects" if "pickle" in str(error) else str(error) or type(error).__name__
    return DamagedFileError(f"{source} is no {kind}, or a damaged one ({reason}). {remedy}")


def _sum(content: memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


_MARK = b"sha256:"
_SUM_BYTES = len(_MARK) + 64
_BEGIN, _END, _END_BYTES = b"PK\x03\x04", b"PK\x05\x06", 22  # of a zip archive without a comment

# NotImplementedError: a way of packing that there is not. RuntimeError: a password.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    LookupError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    SyntaxError,
    TypeError,
)
