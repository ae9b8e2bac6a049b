"""The overview's blocks as files and as Python."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from app.shell.downloads import Download, html_file
from app.shell.folders import ModelKey
from app.shell.steps import Step
from diffmamba_interp.figures.blocks import lambda_figure
from diffmamba_interp.files.csv_text import csv_text
from diffmamba_interp.models.inspection import CheckpointReport, inspect_checkpoint

COLUMNS = ("index", "kind", "n_parameters", "lambda_", "lambda_init", "saturated")


def block_files(reports: Mapping[str, CheckpointReport], figure: go.Figure) -> list[Download]:
    return [
        html_file(figure),
        Download(ending="csv", mime="text/csv", make=lambda: block_csv(reports).encode()),
        Download(ending="npz", mime="application/octet-stream", make=lambda: block_npz(reports)),
    ]


def block_csv(reports: Mapping[str, CheckpointReport]) -> str:
    """One line per model and block."""
    return csv_text(["model", *COLUMNS], [[name, *line] for name, line in _lines(reports)])


def block_npz(reports: Mapping[str, CheckpointReport]) -> bytes:
    """Columns of the CSV file; NaN where a block has no lambda."""
    lines = _lines(reports)
    arrays = {"model": np.array([name for name, _ in lines])}
    for place, column in enumerate(COLUMNS):
        values = [line[place] for _, line in lines]
        arrays[column] = np.array([np.nan if value is None else value for value in values])
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def report_steps(keys: Mapping[str, ModelKey]) -> list[Step]:
    """The reports and the figure of lambda."""
    reports = {name: Step("", inspect_checkpoint, key.folder, device=key.device) for name, key in keys.items()}
    return [Step("figure", lambda_figure, reports)]


def _lines(reports: Mapping[str, CheckpointReport]) -> list[tuple[str, list[object]]]:
    return [
        (name, [getattr(block, column) for column in COLUMNS])
        for name, report in reports.items()
        for block in report.blocks
    ]
