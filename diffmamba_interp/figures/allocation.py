"""Where contributions fall: stacked bars of the classes' shares, a map of heads, and curves by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffmamba_interp.drawing.colours import BRANCHES, DASHES, SPANS, Style, model_styles, short_name
from diffmamba_interp.drawing.panels import Axis, Bars, ColourScale, Drawing, HeatMap, Line, Panel, Place
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.implicit_attention.allocation import DIRECTIONS, Allocation, allocation_measures
from diffmamba_interp.statistics import bootstrap

ORDER = ("needle", "question", "other", "distractors", "filler")
"""From below: what is wanted stands below and what is irrelevant above, so the upper edge of "other" shows both."""

BY_BLOCK = {
    "snr_db": "needle over other tokens, dB",
    "cancelled": "share cancelled by the subtraction",
    "over_allocation": "share on distractors and filler",
}
"""Measures of an allocation that have curves by block, and the titles of their panels."""


@dataclass(frozen=True, kw_only=True)
class ShareBar:
    """One bar. group: bars of one group share a panel. name: of the bar. shares: by class, 1 together."""

    group: str
    name: str
    shares: Mapping[str, float]


def share_bars_drawing(bars: Sequence[ShareBar], *, title: str, x_axis: str) -> Drawing:
    """Stacked bars from 0 to 1, the classes in the `ORDER` of all such figures.

    Raises ValueError if there are no bars, or for a class without a colour.
    """
    if not bars:
        raise ValueError("there are no bars to draw: give at least one.")
    unknown = sorted({name for bar in bars for name in bar.shares} - set(ORDER))
    if unknown:
        raise ValueError(f"unknown classes: {', '.join(unknown)}. Known: {', '.join(ORDER)}.")
    groups = list(dict.fromkeys(bar.group for bar in bars))
    by_group = {group: [bar for bar in bars if bar.group == group] for group in groups}
    levels: dict[Place, str] = {level: f"{100 * level:.0f} %" for level in (0.0, 0.25, 0.5, 0.75, 1.0)}
    return Drawing(
        title=title,
        x=Axis(title=x_axis, kind="category", upright=True),
        y=Axis(limits=(0.0, 1.0), ticks=levels),
        columns=len(groups),
        panel_size=(34.0 * max(map(len, by_group.values())), 258.0),
        panels=[Panel(title=group, marks=_stacked(own)) for group, own in by_group.items()],
    )


def head_map_drawing(values: Sequence[Sequence[float]], *, title: str, note: str, what: str) -> Drawing:
    """A value in [-1, 1] for each head of each block, written in its cell: red above 0, blue below, none for NaN.

    Colours are full at 0.5. what: the value is, for the colour scale. Raises ValueError if there are no blocks.
    """
    if not values or not values[0]:
        raise ValueError("there are no heads to draw: give at least one block with one head.")
    cells = np.array(values, dtype=float)
    heat = HeatMap(
        values=cells,
        x=[str(head) for head in range(cells.shape[1])],
        y=[f"block {block}" for block in range(len(cells))],
        text=[["" if np.isnan(value) else f"{value:+.2f}" for value in row] for row in cells],
    )
    return Drawing(
        title=title,
        note=note,
        x=Axis(title="head", kind="category"),
        y=Axis(kind="category", backwards=True),
        scale=ColourScale(title=what, low=-0.5, high=0.5),
        panels=[Panel(marks=[heat])],
        panel_size=(46.0 * cells.shape[1], 24.0 * len(cells)),
    )


@dataclass(frozen=True, kw_only=True)
class AllocationCurve:
    """Mean over prompts of one measure by block, with its 95 % bootstrap interval.

    measure: of `BY_BLOCK`. name: a picture (`PICTURES`), or a class of sources where it is what is cancelled.
    blocks: those that have the number. value, low, high: one per block; dB for "snr_db", otherwise a share. n: prompts.
    """

    measure: str
    model: str
    name: str
    blocks: tuple[int, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int


def allocation_by_block(allocation: Allocation) -> dict[str, dict[str, np.ndarray]]:
    """Per measure and name, [prompt, block], along the answer's logit; see `allocation_measures`."""
    measures = allocation_measures(allocation, DIRECTIONS.index("answer"))
    return {
        measure: {name: value.numpy() for name, value in getattr(measures, measure).items() if name != "other"}
        for measure in BY_BLOCK
    }


def allocation_curves(allocations: Mapping[str, Allocation]) -> list[AllocationCurve]:
    """All curves of every model; those of the branches and of what is cancelled for differential blocks only."""
    curves = []
    for model, allocation in allocations.items():
        for measure, by_name in allocation_by_block(allocation).items():
            for name, values in by_name.items():
                blocks = np.flatnonzero(np.isfinite(values).all(axis=0))
                if len(blocks):
                    curves.append(_block_curve(measure, model, name, blocks, values[:, blocks]))
    return curves


def allocation_drawing(curves: Sequence[AllocationCurve]) -> Drawing:
    """One panel per measure: a line for what each model writes, and its branches.

    Branches have the looks of branches where one model has them; those of several have their models' colours. What is
    cancelled has the looks of the classes; of several models, dashes by model.

    Raises ValueError if there are no curves.
    """
    if not curves:
        raise ValueError("there are no curves to draw: read at least one prompt with its attention.")
    looks = model_styles(curve.model for curve in curves)
    several = len({curve.model for curve in curves if curve.name == "minuend"}) > 1
    panels = [
        Panel(title=title, marks=[_block_line(curve, looks, several=several) for curve in of_measure])
        for measure, title in BY_BLOCK.items()
        if (of_measure := [curve for curve in curves if curve.measure == measure])
    ]
    return Drawing(panels=panels, x=Axis(title="block"), shared_y=False)


allocation_figure = as_plotly(allocation_drawing)


def _block_curve(measure: str, model: str, name: str, blocks: np.ndarray, values: np.ndarray) -> AllocationCurve:
    interval = bootstrap(values)
    return AllocationCurve(
        measure=measure,
        model=model,
        name=name,
        blocks=tuple(blocks.tolist()),
        value=tuple(interval.value.tolist()),
        low=tuple(interval.low.tolist()),
        high=tuple(interval.high.tolist()),
        n=interval.n,
    )


def _block_line(curve: AllocationCurve, looks: Mapping[str, Style], *, several: bool) -> Line:
    model, style = looks[curve.model], (SPANS if curve.measure == "cancelled" else BRANCHES)[curve.name]
    if several and curve.measure == "cancelled":
        style = replace(style, dash=DASHES[list(looks).index(curve.model) % len(DASHES)])
    elif several:
        style = replace(style, colour=model.colour)
    elif curve.name == "net":
        style = model
    points = list(zip(curve.value, curve.low, curve.high, strict=True))
    return Line.of_points(f"{short_name(curve.model)}: {short_name(curve.name)}", curve.blocks, points, style)


def _stacked(bars: Sequence[ShareBar]) -> list[Bars]:
    """One mark per class, each on those before it."""
    names = [short_name(bar.name) for bar in bars]
    marks, base = [], [0.0] * len(bars)
    for name in (name for name in ORDER if name in bars[0].shares):
        shares = [bar.shares[name] for bar in bars]
        marks.append(
            Bars(
                name=name,
                x=names,
                y=shares,
                base=base,
                colours=[SPANS[name].colour] * len(bars),
                text=[f"{100 * share:.0f}" for share in shares],
                notes=[f"{bar}: {name} {share:.3f}" for bar, share in zip(names, shares, strict=True)],
            )
        )
        base = [below + share for below, share in zip(base, shares, strict=True)]
    return marks
