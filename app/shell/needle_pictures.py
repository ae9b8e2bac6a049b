"""Figures of a needle run: the measure and the SNR by stage, model minus baseline, and what the last position reads.

The last has curves by block: the needle against the rest, what is cancelled, and the noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.shell.needle_runs import NeedleRun
from diffmamba_interp.drawing.colours import BRANCHES, DASHES, SPANS, Style, model_styles, short_name
from diffmamba_interp.drawing.panels import Axis, Drawing, Line, Panel
from diffmamba_interp.drawing.plotly_figure import to_plotly
from diffmamba_interp.figures.needle import curves_by_stage, difference_by_stage
from diffmamba_interp.implicit_attention.allocation import Allocation
from diffmamba_interp.implicit_attention.allocation_measures import allocation_measures
from diffmamba_interp.implicit_attention.prompt_allocation import DIRECTIONS
from diffmamba_interp.needle.curves import Curve, compare, summarise
from diffmamba_interp.statistics import bootstrap

FIGURE_HEIGHT = 380
MAX_TICKS = 16
LEGEND_ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
PANELS = {
    "snr_db": "needle over other tokens, dB",
    "cancelled": "share cancelled by the subtraction",
    "over_allocation": "share on distractors and filler",
}
ANSWER = DIRECTIONS.index("answer")


def curve_figures(run: NeedleRun) -> tuple[dict[str, go.Figure], list[Curve]]:
    """The figures by the name of their file, and all curves in them."""
    drawing, trajectories = run.drawing, [one.trajectory for one in run.found]
    measures = (drawing.measure, "snr_db")
    how: dict[str, Any] = {"measures": measures, "statistics": (drawing.statistic,), "by": ()}
    curves: list[Curve] = summarise(trajectories, **how)
    figures = {
        drawing.measure: curves_by_stage(of_measure(curves, drawing.measure), log=drawing.log),
        "snr": curves_by_stage(of_measure(curves, "snr_db")),
    }
    paired = len(trajectories) == 2 and trajectories[0].stages == trajectories[1].stages
    if paired and set(trajectories[0].lenses) & set(trajectories[1].lenses):
        differences = compare(*trajectories[::-1], **how)
        for name, measure in (("difference", drawing.measure), ("snr_difference", "snr_db")):
            figures[name] = difference_by_stage(of_measure(differences, measure))
        curves += differences
    for figure in figures.values():
        figure.update_layout(legend=LEGEND_ABOVE, height=FIGURE_HEIGHT, margin={"t": 70, "b": 10})
        name_stages_shortly(figure, trajectories[0].stages)
    return figures, curves


def attention_picture(run: NeedleRun) -> tuple[go.Figure, list[BlockCurve]] | None:
    """What the last position reads, and the curves in the figure; None if it was not asked for."""
    read = [(one.trajectory.model, one.allocation) for one in run.found if one.allocation is not None]
    if not read:
        return None
    curves = [curve for model, allocation in read for curve in block_curves(model, allocation)]
    figure = attention_figure(curves)
    figure.update_layout(height=FIGURE_HEIGHT, margin={"t": 70, "b": 10})
    return figure, curves


def name_stages_shortly(figure: go.Figure, stages: Sequence[str]) -> None:
    """The block's number alone under the axis, and not more of them than have room side by side."""
    named = [*stages[:-1][:: -(-len(stages) // MAX_TICKS)], stages[-1]]
    short = [stage.removeprefix("after block ").replace("embedding", "embed") for stage in named]
    figure.update_xaxes(tickvals=named, ticktext=short, tickangle=0, title_text="the lens reads after block")


def of_measure(curves: Sequence[Curve], measure: str) -> list:
    return [curve for curve in curves if curve.measure == measure]


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
    """One panel per measure; models differ in colour, pictures in dashes and markers. What is cancelled has the colours
    of the classes, and models differ in dashes.

    Raises ValueError if there are no curves.
    """
    if not curves:
        raise ValueError("there are no curves to draw: read at least one prompt with its attention.")
    looks = model_styles(curve.model for curve in curves)
    panels = [
        Panel(title=title, marks=[_line(curve, looks) for curve in curves if curve.panel == panel])
        for panel, title in PANELS.items()
        if any(curve.panel == panel for curve in curves)
    ]
    figure = to_plotly(Drawing(panels=panels, x=Axis(title="block"), shared_y=False))
    figure.update_layout(legend={"orientation": "h", "y": -0.3})
    return figure


def _curve(panel: str, model: str, name: str, blocks: np.ndarray, values: np.ndarray) -> BlockCurve:
    interval = bootstrap(values)
    return BlockCurve(
        panel=panel, model=model, name=name, blocks=tuple(blocks.tolist()), n=interval.n,
        value=tuple(interval.value.tolist()), low=tuple(interval.low.tolist()), high=tuple(interval.high.tolist()),
    )  # fmt: skip


def _line(curve: BlockCurve, looks: Mapping[str, Style]) -> Line:
    if curve.panel == "cancelled":
        style = replace(SPANS[curve.name], dash=DASHES[list(looks).index(curve.model) % len(DASHES)])
    else:
        # In its model's colour, with the dashes and the markers of the picture.
        style = replace(BRANCHES[curve.name], colour=looks[curve.model].colour)
    points = list(zip(curve.value, curve.low, curve.high, strict=True))
    return Line.of_points(f"{short_name(curve.model)}: {short_name(curve.name)}", curve.blocks, points, style)
