"""The needle page's figures and numbers as files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from app.needle_attention import BlockCurve, measures
from app.needle_found import NeedleFound
from app.panels.downloads import Download, html_file
from diffmamba_interp.files.csv_text import csv_text
from diffmamba_interp.needle import Curve, PairedCurve
from diffmamba_interp.needle.trajectory_records import ARRAYS

NPZ = "application/octet-stream"


def curve_files(
    figures: Mapping[str, go.Figure], curves: Sequence[Curve], found: Sequence[NeedleFound]
) -> list[Download]:
    """Every figure, the curves as CSV, and what was read of each prompt as NPZ."""
    pages = [replace(html_file(figure), ending=f"{name}.html") for name, figure in figures.items()]
    return [
        *pages,
        Download(ending="csv", mime="text/csv", make=lambda: curves_csv(curves).encode()),
        Download(ending="npz", mime=NPZ, make=lambda: trajectories_npz(found)),
    ]


def attention_files(figure: go.Figure, curves: Sequence[BlockCurve], found: Sequence[NeedleFound]) -> list[Download]:
    return [
        replace(html_file(figure), ending="attention.html"),
        Download(ending="attention.csv", mime="text/csv", make=lambda: block_curves_csv(curves).encode()),
        Download(ending="attention.npz", mime=NPZ, make=lambda: attention_npz(found)),
    ]


def curves_csv(curves: Sequence[Curve]) -> str:
    """One line per curve and stage; a difference names both models and has p-values."""
    lines = []
    for curve in curves:
        baseline = curve.baseline if isinstance(curve, PairedCurve) else ""
        head = [curve.model, baseline, curve.lens, curve.measure, curve.statistic, curve.n]
        for place, stage in enumerate(curve.stages):
            p = curve.p_value[place] if isinstance(curve, PairedCurve) else ""
            lines.append([*head, stage, curve.value[place], curve.low[place], curve.high[place], p])
    names = ["model", "minus", "lens", "measure", "statistic", "n", "stage", "value", "low", "high", "p_value"]
    return csv_text(names, lines)


def block_curves_csv(curves: Sequence[BlockCurve]) -> str:
    """One line per curve and block."""
    lines = [
        [curve.model, curve.panel, curve.name, curve.n, block, *numbers]
        for curve in curves
        for block, *numbers in zip(curve.blocks, curve.value, curve.low, curve.high, strict=True)
    ]
    return csv_text(["model", "measure", "of", "n", "block", "value", "low", "high"], lines)


def trajectories_npz(found: Sequence[NeedleFound]) -> bytes:
    """Arrays of every model, "0.log_probs" and so on, [lens, sample, stage, ...]; `about` says which is which."""
    arrays = {f"{k}.{name}": getattr(one.trajectory, name) for k, one in enumerate(found) for name in ARRAYS}
    about = {
        "models": [one.trajectory.model for one in found],
        "lenses": [list(one.trajectory.lenses) for one in found],
        "stages": [list(one.trajectory.stages) for one in found],
        "samples": [[sample.id, list(sample.labels), sample.answer] for sample in found[0].trajectory.samples],
    }
    return _packed({**arrays, "about": np.array(json.dumps(about))})


def attention_npz(found: Sequence[NeedleFound]) -> bytes:
    """[prompt, block] of every model, measure and picture or class, as "0.snr_db.net"."""
    arrays = {
        f"{k}.{panel}.{name}": values
        for k, one in enumerate(found)
        if one.allocation is not None
        for panel, by_name in measures(one.allocation).items()
        for name, values in by_name.items()
    }
    return _packed({**arrays, "models": np.array([one.trajectory.model for one in found])})


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
