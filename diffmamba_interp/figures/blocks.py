"""A model's blocks at a glance: lambda by depth, beside where it started, with the saturated ones marked."""

from __future__ import annotations

import html
from collections.abc import Mapping

import plotly.graph_objects as go

from diffmamba_interp.models.inspection import BlockReport, CheckpointReport

# Okabe and Ito's colours, which stay apart for every kind of colour vision; symbols tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
SYMBOLS = ("circle", "diamond", "square", "triangle-up")


def lambda_figure(reports: Mapping[str, CheckpointReport], *, title: str = "") -> go.Figure:
    """Lambda of every differential block, one line per model (at most four), and lambda_init as dots.

    Saturated blocks are drawn hollow. Models are named by the mapping's keys, which are escaped. Raises ValueError
    for more than four models.
    """
    if len(reports) > len(COLOURS):
        raise ValueError(f"there are {len(reports)} models: give at most {len(COLOURS)}.")
    figure = go.Figure()
    for (name, report), colour, symbol in zip(reports.items(), COLOURS, SYMBOLS, strict=False):
        blocks = [block for block in report.blocks if block.lambda_ is not None]
        if blocks:
            figure.add_trace(_lambda_line(html.escape(name), blocks, colour, symbol))
    inits = {b.index: b.lambda_init for report in reports.values() for b in report.blocks if b.lambda_init is not None}
    if inits:
        places = sorted(inits)
        figure.add_scatter(
            x=places, y=[inits[place] for place in places], mode="lines", name="λ_init",
            line={"color": "#7F7F7F", "dash": "dot"},
        )  # fmt: skip
    figure.update_layout(
        title={"text": html.escape(title)},
        xaxis={"title": {"text": "block"}, "tickformat": "d"},
        yaxis={"title": {"text": "λ"}, "rangemode": "tozero"},
        showlegend=True,
        legend={"orientation": "h", "y": 1.1},
    )
    return figure


def _lambda_line(name: str, blocks: list[BlockReport], colour: str, symbol: str) -> go.Scatter:
    states = ["saturated" if block.saturated else "open" if block.saturated is False else "" for block in blocks]
    return go.Scatter(
        x=[block.index for block in blocks],
        y=[block.lambda_ for block in blocks],
        name=name,
        mode="lines+markers",
        line={"color": colour},
        marker={"size": 9, "symbol": [f"{symbol}-open" if state == "saturated" else symbol for state in states]},
        customdata=states,
        hovertemplate="block %{x}: λ = %{y:.4f} %{customdata}<extra>%{fullData.name}</extra>",
    )
