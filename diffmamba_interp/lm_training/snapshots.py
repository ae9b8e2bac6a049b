"""What a language model's training needs to continue as if it had not stopped, and what must be the same then."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffmamba_interp.lm_training.recipe import RESUMABLE_CHANGES, Recipe
from diffmamba_interp.runs import snapshots
from diffmamba_interp.runs.run_log import read_records
from diffmamba_interp.runs.settings import changed, from_values, to_values
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
    fields = changed(_with_defaults(snapshot.recipe), to_values(recipe), RESUMABLE_CHANGES)
    if fields:
        lines = "; ".join(
            f"{name} was {_shown(saved)}, is {_shown(now)}" for name, (saved, now) in sorted(fields.items())
        )
        raise ValueError(
            f"{folder} holds a run of another recipe: {lines}. Resume with the same recipe, or choose another --out."
        )
    others = sorted(changed(snapshot.data_sha256, data_sha256))
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


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)
