"""The notebook's two charts as SVG text, which any reader of a notebook shows without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffmamba_interp.drawing.colours import GREY, SERIES
from diffmamba_interp.drawing.panels import Axis, Drawing, Level, Line, Panel, ticks_at
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.attention import row_bars
from diffmamba_interp.implicit_attention import Spans

WIDTH = 760.0


class Interval(NamedTuple):
    """label: of the line. value, low, high: an estimate and its interval. beside: a second estimate, if any."""

    label: str
    value: float
    low: float
    high: float
    beside: float | None = None


def row_svg(pictures: Mapping[str, np.ndarray], spans: Spans, *, title: str) -> str:
    """One destination's row of each picture as bars over the sources, on one scale, coloured by span."""
    positions = [str(position) for position in range(max(map(len, pictures.values())))]
    drawing = Drawing(
        title=title,
        x=Axis(title="source position", ticks=ticks_at(positions, at_most=16)),
        panels=[
            Panel(title=name, marks=[*row_bars(row, "#222222", spans), Level(at=0.0, colour=GREY)])
            for name, row in pictures.items()
        ],
        columns=1,
        panel_size=(WIDTH, 100.0),
    )
    return to_svg(drawing)


def interval_svg(lines: Sequence[Interval], *, title: str, axis: str) -> str:
    """One place per entry: the estimate on its interval, and what stands beside it as a hollow marker."""
    labels = [line.label for line in lines]
    points = [(line.value, line.low, line.high) for line in lines]
    beside = [float("nan") if line.beside is None else line.beside for line in lines]
    marks = [
        Level(at=0.0, colour=GREY),
        Line.of_points("", labels, points, SERIES[0], interval="bars", joined=False),
        Line(name="", x=labels, y=beside, style=SERIES[1], hollow=[True] * len(lines), joined=False),
    ]
    drawing = Drawing(
        title=title,
        x=Axis(kind="category", upright=True),
        note=axis,
        panels=[Panel(marks=marks)],
        panel_size=(WIDTH, 240.0),
    )
    return to_svg(drawing)
