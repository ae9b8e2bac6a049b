"""The figures of a needle run: the measure and the SNR by stage, model minus baseline, and what is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from app.needle_attention import BlockCurve, attention_figure, block_curves
from app.needle_found import NeedleRun
from diffmamba_interp.figures.needle import curves_by_stage, difference_by_stage
from diffmamba_interp.needle.curves import Curve, compare, summarise

FIGURE_HEIGHT = 380
MAX_TICKS = 16
LEGEND_ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


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
