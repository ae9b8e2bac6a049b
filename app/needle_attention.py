"""What the last position reads, as curves by block: the needle against the rest, what is cancelled, and the noise."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from diffmamba_interp.figures.styles import STYLES
from diffmamba_interp.implicit_attention.allocation import Allocation
from diffmamba_interp.implicit_attention.allocation_measures import allocation_measures
from diffmamba_interp.implicit_attention.prompt_allocation import DIRECTIONS
from diffmamba_interp.statistics import bootstrap

PANELS = {
    "snr_db": "needle over other tokens, dB",
    "cancelled": "share cancelled by the subtraction",
    "over_allocation": "share on distractors and filler",
}
NAMES = {"net": "written", "lambda_subtrahend": "λ · subtrahend"}
BAND_OPACITY = 0.15
ANSWER = DIRECTIONS.index("answer")


@dataclass(frozen=True, kw_only=True)
class BlockCurve:
    """Mean over prompts of one number by block, with its 95 % bootstrap interval.

    panel: of `PANELS`. name: a picture of `PICTURES`, or a class of sources. blocks: those that have the number.
    value, low, high: one per block; dB for "snr_db", otherwise a share. n: prompts.
    """

    panel: str
    model: str
    name: str
    blocks: tuple[int, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int


def block_curves(model: str, allocation: Allocation) -> list[BlockCurve]:
    """All curves of one model; those of the branches and of what is cancelled for differential blocks only."""
    found = []
    for panel, by_name in measures(allocation).items():
        for name, values in by_name.items():
            blocks = np.flatnonzero(np.isfinite(values).all(axis=0))
            if len(blocks):
                found.append(_curve(panel, model, name, blocks, values[:, blocks]))
    return found


def measures(allocation: Allocation) -> dict[str, dict[str, np.ndarray]]:
    """Per panel and name, [prompt, block], of the answer's logit; see `allocation_measures`."""
    made = allocation_measures(allocation, ANSWER)
    return {
        "snr_db": {name: value.numpy() for name, value in made.snr_db.items()},
        "cancelled": {name: value.numpy() for name, value in made.cancelled.items() if name != "other"},
        "over_allocation": {name: value.numpy() for name, value in made.over_allocation.items()},
    }


def attention_figure(curves: Sequence[BlockCurve]) -> go.Figure:
    """One panel per measure; models differ in colour, pictures and classes in dashes and markers.

    Raises ValueError if there are no curves.
    """
    if not curves:
        raise ValueError("there are no curves to draw: read at least one prompt with its attention.")
    panels = [panel for panel in PANELS if any(curve.panel == panel for curve in curves)]
    figure = make_subplots(cols=len(panels), subplot_titles=[PANELS[panel] for panel in panels])
    models = list(dict.fromkeys(curve.model for curve in curves))
    for panel, own in groupby(sorted(curves, key=lambda curve: panels.index(curve.panel)), lambda curve: curve.panel):
        column, names = panels.index(panel) + 1, []
        for curve in own:
            names += [curve.name] if curve.name not in names else []
            colour_of = names.index(curve.name) if panel == "cancelled" else models.index(curve.model)
            colour = STYLES[colour_of % len(STYLES)][0]
            for trace in _traces(curve, colour, STYLES[names.index(curve.name) % len(STYLES)]):
                figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(title_text="block", dtick=2)
    figure.update_layout(legend={"orientation": "h", "y": -0.3})
    return figure


def _curve(panel: str, model: str, name: str, blocks: np.ndarray, values: np.ndarray) -> BlockCurve:
    interval = bootstrap(values)
    return BlockCurve(
        panel=panel, model=model, name=name, blocks=tuple(blocks.tolist()), n=interval.n,
        value=tuple(interval.value.tolist()), low=tuple(interval.low.tolist()), high=tuple(interval.high.tolist()),
    )  # fmt: skip


def _traces(curve: BlockCurve, colour: str, style: tuple[str, str, str]) -> list[go.Scatter]:
    """The interval as a band, and the line."""
    name = html.escape(f"{curve.model}: {NAMES.get(curve.name, curve.name)}")
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    group = f"{curve.panel} {name}" if curve.panel == "cancelled" else name
    band = go.Scatter(
        x=[*curve.blocks, *reversed(curve.blocks)], y=[*curve.high, *reversed(curve.low)], fill="toself",
        fillcolor=f"rgba({red}, {green}, {blue}, {BAND_OPACITY})", line={"width": 0}, mode="lines", hoverinfo="skip",
        showlegend=False, legendgroup=group,
    )  # fmt: skip
    line = go.Scatter(
        x=list(curve.blocks), y=list(curve.value), name=name, legendgroup=group, mode="lines+markers",
        showlegend=curve.panel != "over_allocation", line={"color": colour, "dash": style[1]},
        marker={"symbol": style[2]}, customdata=list(zip(curve.low, curve.high, strict=True)),
        hovertemplate="block %{x}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]"
        "<extra>%{fullData.name}</extra>",
    )  # fmt: skip
    return [band, line]
