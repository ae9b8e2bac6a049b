"""results.json from the records: both models at every level of noise, what they lose, and which of them loses less.

loss(model, dose) = measure(model, dose) - measure(model, clean)                  by prompt
less_loss         = loss(diff-mamba2) - loss(mamba2)                              above zero: the former bears it better
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis_conditions import CLEAN, MEASURES, Key, Readings, changes, estimates
from diffmamba_interp.analysis_results import write_results

MODELS = ("mamba2", "diff-mamba2")
KINDS = ("gaussian", "tokens")


def write(folder: Path) -> None:
    """Write the folder's results.json beside its records.parquet and provenance.json."""
    made = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    readings = Readings.read(folder / "records.parquet")
    found = [cell(readings, task, length) for task, length in readings.cells]
    write_results(folder / "results.json", made, {"cells": found})


def cell(readings: Readings, task: str, length: int) -> dict[str, Any]:
    """One task, or all together, at one length."""
    measures = measures_of(readings)
    n = len(readings.stories(Key(MODELS[0], CLEAN), task, length))
    doses = {
        kind: sorted({key.dose for key in readings.keys(length) if key.kind == kind}, reverse=kind == "gaussian")
        for kind in KINDS
    }
    return {
        "task": task,
        "length": length,
        "n": n,
        CLEAN: level(readings, CLEAN, 0.0, task, length, measures),
        **{kind: [level(readings, kind, dose, task, length, measures) for dose in own] for kind, own in doses.items()},
    }


def level(
    readings: Readings, kind: str, dose: float, task: str, length: int, measures: tuple[str, ...]
) -> dict[str, Any]:
    """Both models at one level of noise."""
    values = [readings.of(Key(model, kind, dose=dose), task, length, measures) for model in MODELS]
    found: dict[str, Any] = {"dose": dose}
    found |= {model: named(measures, estimates(own)) for model, own in zip(MODELS, values, strict=True)}
    difference, p = changes(*values)
    found |= {"difference": named(measures, difference), "difference_p": named(measures, p)}
    if kind == CLEAN:
        return found
    clean = [readings.of(Key(model, CLEAN), task, length, measures) for model in MODELS]
    losses = [changes(before, after)[0] for before, after in zip(clean, values, strict=True)]
    found["loss"] = {model: named(measures, own) for model, own in zip(MODELS, losses, strict=True)}
    less_loss, p = changes(values[0] - clean[0], values[1] - clean[1])
    return found | {"less_loss": named(measures, less_loss), "less_loss_p": named(measures, p)}


def measures_of(readings: Readings) -> tuple[str, ...]:
    """What is measured at the output, then by the lens before it."""
    lens = sorted((name for name in readings.records if name.startswith("snr_db_")), key=lambda name: int(name[7:]))
    return (*MEASURES, *(name for name in lens if np.isfinite(readings.records[name]).all()))


def named(measures: tuple[str, ...], values: list[Any]) -> dict[str, Any]:
    return dict(zip(measures, values, strict=True))
