"""The snapshot of a run: what it needs to go on as if it had not stopped, in one file, whole or not there.

The file has a sum of its own, so that a damaged one is refused instead of continued from. Snapshots of format 1, and
those of language models that name no format, are of before and have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffmamba_interp.files.checksums import DamagedFileError, damage_text
from diffmamba_interp.files.tensors import read_tensors, write_tensors

SNAPSHOT_FILE = "snapshot.pt"
FORMAT = 2
REMEDY = "Delete it to start anew."


def write_snapshot(folder: Path, content: Mapping[str, Any]) -> None:
    """Replace the folder's snapshot; a crash while writing leaves the old one. Raises OSError."""
    write_tensors(folder / SNAPSHOT_FILE, {"format": FORMAT, **content}, with_sum=True)


def read_snapshot(folder: Path) -> dict[str, Any] | None:
    """What `write_snapshot` was given, or None if the folder has no snapshot.

    Raises DamagedFileError, which is a ValueError, for one that is damaged or none of ours, and ValueError for one of
    a later version; each says what to do.
    """
    path = folder / SNAPSHOT_FILE
    if not path.is_file():
        return None
    content, has_sum = read_tensors(path, remedy=REMEDY)
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} holds no snapshot. {REMEDY}")
    format = content.pop("format", 1)
    if format not in (1, FORMAT):
        raise ValueError(f"{path} has format {format}, and this version reads up to {FORMAT}. {REMEDY}")
    if format == FORMAT and not has_sum:
        raise DamagedFileError(damage_text(path, REMEDY))
    return content
