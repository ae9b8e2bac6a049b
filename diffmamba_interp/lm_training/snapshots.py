"""What a language model's training needs to continue as if it had not stopped, and what must be the same then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffmamba_interp.lm_training.recipe import RESUMABLE_CHANGES, Recipe
from diffmamba_interp.runs import snapshots
from diffmamba_interp.runs.json_log import read_records
from diffmamba_interp.runs.settings import from_values, to_values
from diffmamba_interp.runs.snapshots import SNAPSHOT_FILE


@dataclass(frozen=True)
class Snapshot:
    """step: optimiser steps done. model, optimiser: state dicts. recipe: plain values, to compare."""

    step: int
    model: dict[str, Any]
    optimiser: dict[str, Any]
    recipe: dict[str, Any]
    data_sha256: dict[str, str]
    rng: torch.Tensor
    tokens: int
    seconds: float


def write_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Replace the folder's snapshot. A crash while writing leaves the old one. Raises OSError."""
    snapshots.write_snapshot(folder, snapshot.__dict__)


def read_snapshot(folder: Path) -> Snapshot | None:
    """The folder's snapshot, or None. Raises ValueError if the file is damaged or none of ours."""
    content = snapshots.read_snapshot(folder)
    if content is None:
        return None
    try:
        return Snapshot(**content)
    except TypeError as error:
        raise ValueError(
            f"{folder / SNAPSHOT_FILE} is no snapshot of this command: delete it to start over."
        ) from error


def require_same_run(snapshot: Snapshot, recipe: Recipe, data_sha256: dict[str, str], folder: Path) -> None:
    """Raise ValueError unless the snapshot is of this recipe and data (`RESUMABLE_CHANGES` may differ)."""
    saved, now = _comparable(_with_defaults(snapshot.recipe)), _comparable(to_values(recipe))
    changed = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
    if changed:
        lines = "; ".join(f"{key} was {saved.get(key, 'not set')}, is {now.get(key, 'not set')}" for key in changed)
        raise ValueError(
            f"{folder} holds a run of another recipe: {lines}. Resume with the same recipe, or choose another --out."
        )
    names = snapshot.data_sha256.keys() | data_sha256.keys()
    others = sorted(name for name in names if snapshot.data_sha256.get(name) != data_sha256.get(name))
    if others:
        raise ValueError(
            f"{folder} holds a run on other data: {', '.join(others)} changed since. Choose another --out."
        )


def read_metrics(path: Path) -> tuple[int, dict[str, float]]:
    """Step and values of the last evaluation in a JSONL log; step -1 and nothing if there was none."""
    for record in reversed(read_records(path)):
        if "loss" not in record:
            return record.pop("step"), record
    return -1, {}


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """The saved values, and the defaults of fields that there were not yet when they were saved."""
    try:
        return to_values(from_values(Recipe, values))
    except ValueError:
        return values


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """Leaves by dotted name, as JSON text, less what may differ."""
    return dict(_leaves({key: value for key, value in values.items() if key not in RESUMABLE_CHANGES}))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple) and any(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{index}]")
    else:
        yield name, json.dumps(value)
