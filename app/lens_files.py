"""A lens figure and its trajectory as files."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go

from app.panels.downloads import Download, html_file
from diffmamba_interp.figures.tables import lens_csv
from diffmamba_interp.lens.trajectory import LensTrajectory


def lens_files(trajectory: LensTrajectory, figure: go.Figure, token_text: Callable[[int], str]) -> list[Download]:
    return [
        html_file(figure),
        Download(ending="csv", mime="text/csv", make=lambda: lens_csv(trajectory, token_text).encode()),
        Download(ending="npz", mime="application/octet-stream", make=lambda: trajectory_bytes(trajectory)),
    ]


def trajectory_bytes(trajectory: LensTrajectory) -> bytes:
    """Every array by its field's name, and the stages' names."""
    arrays = {name: np.asarray(value) for name, value in vars(trajectory).items() if value is not None}
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
