"""Snapshots: everything that a run needs to continue as if it had not stopped, in one file, whole or not there."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.lm_training.recipe import RESUMABLE_CHANGES, Recipe
from diffmamba_interp.lm_training.settings import to_values

SNAPSHOT_FILE = "snapshot.pt"


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
    """Replace the folder's snapshot. A crash while writing leaves the old one."""
    buffer = io.BytesIO()
    torch.save(snapshot.__dict__, buffer)
    write_bytes(folder / SNAPSHOT_FILE, buffer.getvalue())


def read_snapshot(folder: Path) -> Snapshot | None:
    """The folder's snapshot, or None. Raises ValueError if the file is none of ours."""
    path = folder / SNAPSHOT_FILE
    if not path.is_file():
        return None
    try:
        return Snapshot(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        # torch's own text advises to load the file unsafely.
        kind = type(error).__name__
        raise ValueError(f"{path} is no readable snapshot ({kind}): delete it to start anew.") from error


def require_same_run(snapshot: Snapshot, recipe: Recipe, data_sha256: dict[str, str], folder: Path) -> None:
    """Raise ValueError unless the snapshot is of this recipe and data (`RESUMABLE_CHANGES` may differ)."""
    saved, now = _comparable(snapshot.recipe), _comparable(to_values(recipe))
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


def cut_log(path: Path, step: int) -> None:
    """Drop the lines of a JSONL log that were written after `step`: they will be written again."""
    if not path.is_file():
        return
    kept = [json.dumps(record) + "\n" for record in _records(path) if record["step"] <= step]
    write_bytes(path, "".join(kept).encode("utf-8"))


def read_metrics(path: Path) -> tuple[int, dict[str, float]]:
    """Step and values of the last evaluation in a JSONL log; step -1 and nothing if there was none."""
    if path.is_file():
        for record in reversed(_records(path)):
            if "loss" not in record:
                return record.pop("step"), record
    return -1, {}


def _records(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            # A kill may leave half a line at the end.
            continue
    return records


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
