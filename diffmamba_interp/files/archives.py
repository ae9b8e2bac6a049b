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
from collections.abc import Mapping
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
        # numpy's own text advises to unpickle.
        reason = "it holds pickled objects" if "pickle" in str(error) else str(error) or type(error).__name__
        raise DamagedFileError(f"{source} is no {kind}, or a damaged one ({reason}). {remedy}") from error


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
