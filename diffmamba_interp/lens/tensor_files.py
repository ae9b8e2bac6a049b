"""Tensors and plain values as files that are whole or not there, read back without unpickling anything else."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from diffmamba_interp.files.atomic import write_bytes


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
