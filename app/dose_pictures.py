"""Dose and response: the answer against lambda's factor or the noise, with the present setting marked; as files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from app.dose_request import PROBABILITY, DoseRequest
from app.panels.downloads import Download, html_file
from diffmamba_interp.figures.interventions import dose_response_figure
from diffmamba_interp.files.csv_text import csv_text
from diffmamba_interp.interventions import SweepRecord

READINGS = {PROBABILITY: "probability of the answer", "snr_db": "signal-to-noise ratio, dB"}
PRESENT = {"color": "#666666", "width": 1, "dash": "dot"}
HEIGHT = 320
LEGEND = {"title": {"text": "blocks"}, "orientation": "v"}


def dose_figures(
    record: SweepRecord, request: DoseRequest, present: Mapping[str, float], *, log: bool
) -> dict[str, go.Figure]:
    """Probability and, where there are labels, SNR by the name of their file.

    present: readings with the page's changes. log: a logarithmic axis of the probability.
    """
    return {
        name: dose_figure(record, request, name, present[name], log=log and name == PROBABILITY)
        for name in READINGS
        if name in record.clean
    }


def dose_figure(record: SweepRecord, request: DoseRequest, reading: str, present: float, *, log: bool) -> go.Figure:
    """One reading against the dose; a dotted line and a ring on every curve where the other widgets stand."""
    figure = dose_response_figure(record, reading, quantity="value")
    figure.add_hline(y=present, line=PRESENT)
    values = record.intervened[reading][:, :, 0]
    for row, factor in enumerate(request.present if request.swept == "lambda" else ()):
        if factor is not None:
            figure.add_scatter(
                x=[factor], y=[values[row, record.doses.index(factor)]], mode="markers", name="as set above",
                showlegend=False, hovertemplate="as set above: %{x:.3g}, %{y:.4g}<extra></extra>",
                marker={"symbol": "circle-open", "size": 16, "color": "#666666", "line": {"width": 2}},
            )  # fmt: skip
    figure.update_layout(
        title=None, yaxis_title=READINGS[reading], height=HEIGHT, margin={"t": 40, "b": 10}, legend=LEGEND,
        showlegend=len(record.groups) > 1,
    )  # fmt: skip
    if log:
        figure.update_yaxes(type="log", exponentformat="power")
    return figure


def dose_files(figures: Mapping[str, go.Figure], record: SweepRecord) -> list[Download]:
    pages = [replace(html_file(figure), ending=f"doses.{name}.html") for name, figure in figures.items()]
    return [
        *pages,
        Download(ending="doses.csv", mime="text/csv", make=lambda: doses_csv(record).encode()),
        Download(ending="doses.npz", mime="application/octet-stream", make=lambda: doses_npz(record)),
    ]


def doses_csv(record: SweepRecord) -> str:
    """One line per group of blocks, dose and reading."""
    lines = [
        [" ".join(map(str, group or ())), dose, reading, record.units.get(reading, ""), float(values[row, column, 0])]
        for reading, values in record.intervened.items()
        for row, group in enumerate(record.groups)
        for column, dose in enumerate(record.doses)
    ]
    return csv_text(["blocks", record.dose, "reading", "unit", "value"], lines)


def doses_npz(record: SweepRecord) -> bytes:
    """Readings [group, dose] by name, and "unchanged." before it for the model as it is; doses and groups."""
    arrays = {name: values[:, :, 0] for name, values in record.intervened.items()}
    arrays |= {f"unchanged.{name}": values[0] for name, values in record.clean.items()}
    groups = np.array([" ".join(map(str, group or ())) for group in record.groups])
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, doses=np.array(record.doses), groups=groups, **arrays)
    return file.getvalue()
