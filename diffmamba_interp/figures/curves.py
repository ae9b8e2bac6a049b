"""Estimates with their intervals side by side: what an analysis measured by block, length or dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffmamba_interp.drawing.colours import GREY, Style, series_styles, short_name
from diffmamba_interp.drawing.panels import Axis, Drawing, Level, Line, Panel, Point


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A panel. ticks: label of each place. points: of each curve one per tick, by the name of a model, branch, span or
    whatever else tells the curves apart."""

    title: str
    ticks: Sequence[str]
    points: Mapping[str, Sequence[Point]]


def curves_drawing(
    panels: Sequence[Curves],
    *,
    title: str,
    x_axis: str,
    y_axis: str,
    y_limits: tuple[float, float] | None = None,
    styles: Mapping[str, Style] | None = None,
) -> Drawing:
    """Every panel on one scale, with a line at 0 if anything lies below it; a curve keeps its look in all panels.

    y_limits: None fits all intervals; what lies beyond is drawn at the limits. styles: of names that have none of
    their own. Raises ValueError for a curve whose points are not one per tick.
    """
    names = [name for panel in panels for name in panel.points]
    looks = series_styles(names) | dict(styles or {})
    below = any(low < 0 for panel in panels for points in panel.points.values() for _, low, _ in points)
    return Drawing(
        title=title,
        x=Axis(title=x_axis, kind="category"),
        y=Axis(title=y_axis, limits=y_limits),
        panels=[
            Panel(
                title=panel.title,
                marks=[
                    *([Level(at=0.0, colour=GREY)] if below else []),
                    *(
                        Line.of_points(short_name(name), panel.ticks, points, looks[name])
                        for name, points in panel.points.items()
                    ),
                ],
            )
            for panel in panels
        ],
    )
