"""Paths as people write them: `~` is the home folder where no shell has said so, as in a recipe or after `--data=`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def expand_home(path: str | Path) -> Path:
    """The path with `~` or `~user` at its start replaced; one that exists as it is written, or no such user, stays."""
    # pathlib's own raises RuntimeError for a user that there is not.
    return Path(path) if os.path.lexists(path) else Path(os.path.expanduser(path))  # noqa: PTH111


def expand_name(name: str | None) -> str | None:
    """`expand_home` of an option that may also be a hub id, a name of ours or None; only `~` changes anything."""
    return str(expand_home(name)) if name is not None and name.startswith("~") else name


def expand_fields(settings: Any, *names: str) -> None:
    """`expand_name` of some fields of a frozen dataclass that is being made; a tuple's every entry."""
    for name in names:
        value = getattr(settings, name)
        expanded = tuple(map(expand_name, value)) if isinstance(value, tuple) else expand_name(value)
        object.__setattr__(settings, name, expanded)
