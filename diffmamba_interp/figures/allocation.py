"""Where contributions fall: stacked bars of the classes' shares, and a map of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffmamba_interp.drawing.colours import SPANS, short_name
from diffmamba_interp.drawing.panels import Axis, Bars, ColourScale, Drawing, HeatMap, Panel, Place

ORDER = ("needle", "question", "other", "distractors", "filler")
"""From below: what is wanted stands below and what is irrelevant above, so the upper edge of "other" shows both."""


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
