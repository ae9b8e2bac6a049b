"""Tensors and plain values as files that are whole or not there, read back without unpickling anything else.

write_tensors(path, content)                    what `torch.save` writes, for files that other libraries open
write_tensors(path, content, with_sum=True)     the same with a sum (`files.archives`), which `torch.load` opens too
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import torch

from diffmamba_interp.files.archives import add_sum, check_sum
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.checksums import DamagedFileError


def write_tensors(path: str | Path, content: Any, *, with_sum: bool = False) -> None:
    """`torch.save` of tensors and plain values; the bytes depend on the content alone, not on the file's name.

    with_sum: keep a sum in the file, which `read_tensors` checks. Raises OSError.
    """
    # Given a path, torch.save writes the file's stem into the archive; given a buffer, always "archive".
    buffer = io.BytesIO()
    torch.save(content, buffer)
    if with_sum:
        add_sum(buffer)
    with buffer.getbuffer() as archive:
        write_bytes(path, archive)


def read_tensors(path: str | Path, *, remedy: str) -> tuple[Any, bool]:
    """What `write_tensors` wrote, on the CPU, and whether it had a sum; code that a file may carry is never run.

    remedy: what to do about a file that cannot be read, as a sentence.
    Raises DamagedFileError, which is a ValueError, if the sum is not that of the content, or the content none that can
    be read without unpickling; OSError.
    """
    content = Path(path).read_bytes()
    has_sum = check_sum(content, source=path, remedy=remedy)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), has_sum
    except _DAMAGE as error:
        raise DamagedFileError(
            f"{path} is corrupt or holds more than plain tensors ({_reason(error)}). It was not unpickled, since that "
            f"can run any code. {remedy}"
        ) from error


def _reason(error: Exception) -> str:
    """What is wrong, without torch's advice to load the file unsafely."""
    text = str(error)
    forbidden = re.search(r"GLOBAL (\S+)", text)
    if forbidden is not None:
        return f"it names {forbidden[1]}"
    first = text.strip().splitlines()[0] if text.strip() else ""
    return type(error).__name__ if not first or "weights" in first.lower() else first


# Whatever the unpickler stumbles over in bytes that are no such file.
_DAMAGE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    OverflowError,
    MemoryError,
)
