"""The interventions page's figures and numbers as files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from app.panels.downloads import Download, html_file
from diffmamba_interp.files.csv_text import csv_text
from diffmamba_interp.interventions import InterventionRecord
from diffmamba_interp.lens import LensTrajectory


def intervention_files(
    figures: Mapping[str, go.Figure], record: InterventionRecord, trajectories: Mapping[str, LensTrajectory]
) -> list[Download]:
    """Every figure; the readings as CSV; readings and lens trajectories as NPZ."""
    pages = [replace(html_file(figure), ending=f"{name}.html") for name, figure in figures.items()]
    stages = next(iter(trajectories.values())).stages
    return [
        *pages,
        Download(ending="csv", mime="text/csv", make=lambda: readings_csv(record, stages).encode()),
        Download(ending="npz", mime="application/octet-stream", make=lambda: readings_npz(record, trajectories)),
    ]


def readings_csv(record: InterventionRecord, stages: tuple[str, ...]) -> str:
    """One line per reading and stage; what the model itself gives stands at the stage "output"."""
    lines = []
    for name, clean in record.clean.items():
        values = zip(np.atleast_1d(clean[0]), np.atleast_1d(record.intervened[name][0]), strict=True)
        where = stages if clean.ndim > 1 else stages[-1:]
        unit = record.units.get(name, "")
        lines += [[name, unit, stage, *map(float, pair)] for stage, pair in zip(where, values, strict=False)]
    return csv_text(["reading", "unit", "stage", "before", "after"], lines)


def readings_npz(record: InterventionRecord, trajectories: Mapping[str, LensTrajectory]) -> bytes:
    """Arrays "before.snr_db" and so on; those of the trajectories as "before.trajectory.top_tokens"; the changes."""
    readings = {"before": record.clean, "after": record.intervened}
    arrays = {f"{when}.{name}": value for when, values in readings.items() for name, value in values.items()}
    for when, trajectory in trajectories.items():
        for name, value in vars(trajectory).items():
            if value is not None:
                arrays[f"{when}.trajectory.{name}"] = np.asarray(value)
    file = io.BytesIO()
    changed = np.array(json.dumps(record.interventions))
    np.savez_compressed(file, allow_pickle=False, changes=changed, **arrays)
    return file.getvalue()
