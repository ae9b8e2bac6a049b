"""results.json from the records: every measure under every condition, and its change from the model as it is.

Changes are paired by prompt. `doubled_less_removed` sets lambda 2 against lambda 0, as far from the model on either
side: above zero, taking the subtrahend away does more harm than overdoing it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis_conditions import ALL, CLEAN, MEASURES, Key, Readings, changes, estimates
from diffmamba_interp.analysis_results import write_results

MODEL, PLAIN = "diff-mamba2", "mamba2"
REMOVED, DOUBLED = 0.0, 2.0
CLEAN_KEY = Key(MODEL, CLEAN)


def write(folder: Path) -> None:
    """Write the folder's results.json beside its records.parquet and provenance.json."""
    made = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    readings = Readings.read(folder / "records.parquet")
    lambda_ = made.pop("lambda")
    found = [cell(readings, task, length) for task, length in readings.cells]
    filler = [with_filler(readings, length) for length in sorted({length for _, length in readings.cells}) if length]
    write_results(folder / "results.json", made, {"lambda": lambda_, "cells": found, "with_filler": filler})


def cell(readings: Readings, task: str, length: int) -> dict[str, Any]:
    """One task, or all together, at one length."""
    measures = measures_of(readings)
    whole = (*measures["output"], *measures["lens"])
    clean = readings.of(CLEAN_KEY, task, length, whole)
    found: dict[str, Any] = {"task": task, "length": length, "n": len(clean)}
    found["clean"] = dict(zip(whole, estimates(clean), strict=True))
    plain = readings.of(Key(PLAIN, CLEAN), task, length, whole)
    found["plain"] = dict(zip(whole, estimates(plain), strict=True))
    found["less_plain"] = dict(zip(whole, changes(plain, clean)[0], strict=True))
    scaled = [key for key in readings.keys(length) if key.kind == "scale"]
    found["all"] = [dose(readings, key, task, length, whole) for key in scaled if key.where == ALL]
    found["blocks"] = [dose(readings, key, task, length, ("right", "snr_db")) for key in scaled if key.where != ALL]
    if {REMOVED, DOUBLED} <= {key.dose for key in scaled if key.where == ALL}:
        removed, doubled = (readings.of(Key(MODEL, "scale", ALL, x), task, length, whole) for x in (REMOVED, DOUBLED))
        difference, p = changes(removed, doubled)
        found["doubled_less_removed"] = dict(zip(whole, difference, strict=True))
        found["doubled_less_removed_p"] = dict(zip(whole, p, strict=True))
    return found


def with_filler(readings: Readings, length: int) -> dict[str, Any]:
    """Change at lambda 0 in filler less that without, by story, over those that were asked at both lengths."""
    harm = {}
    for at in (0, length):
        removed = Key(MODEL, "scale", ALL, REMOVED)
        change = readings.of(removed, ALL, at, tuple(MEASURES)) - readings.of(CLEAN_KEY, ALL, at, tuple(MEASURES))
        harm[at] = dict(zip(readings.stories(removed, ALL, at), change, strict=True))
    both = sorted(set(harm[0]) & set(harm[length]))
    found, p = changes(*(np.stack([harm[at][story] for story in both]) for at in (0, length)))
    return {
        "length": length,
        "n": len(both),
        "change": dict(zip(MEASURES, found, strict=True)),
        "p": dict(zip(MEASURES, p, strict=True)),
    }


def dose(readings: Readings, key: Key, task: str, length: int, measures: tuple[str, ...]) -> dict[str, Any]:
    """Values and changes under one condition."""
    clean, changed = (readings.of(one, task, length, measures) for one in (CLEAN_KEY, key))
    difference, p = changes(clean, changed)
    return {
        "where": key.where,
        "factor": key.dose,
        "value": dict(zip(measures, estimates(changed), strict=True)),
        "change": dict(zip(measures, difference, strict=True)),
        "p": dict(zip(measures, p, strict=True)),
    }


def measures_of(readings: Readings) -> dict[str, tuple[str, ...]]:
    """What is measured at the output, and by the lens before it."""
    lens = sorted((name for name in readings.records if name.startswith("snr_db_")), key=lambda name: int(name[7:]))
    kept = tuple(name for name in lens if np.isfinite(readings.records[name]).any())
    return {"output": tuple(MEASURES), "lens": kept}
