"""Files that are whole or not there: written under a temporary name in the same folder, then renamed.

Reading them back unpickles nothing but tensors and plain values.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import torch


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`; if that fails (disk full, no permission), the old file stays as it was.

    The folder is made if it is missing. The bytes are on the disk when this returns. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}.writing")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode("utf-8"))


def write_tensors(path: Path, content: Any) -> None:
    """`torch.save` of tensors and plain values; the bytes depend on the content alone, not on the file's name."""
    # Given a path, torch.save writes the file's stem into the archive; given a buffer, always "archive".
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def read_tensors(path: Path) -> Any:
    """What `write_tensors` wrote, on the CPU; ValueError if it is damaged or holds more than plain values.

    Code that a file may carry is never run.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is corrupt or holds more than plain tensors ({reason}). It was not unpickled, since that can "
            "run any code."
        ) from error


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
)
