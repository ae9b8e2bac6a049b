"""Curves with 95 % bands side by side as a small SVG file: for pages that are read where no script runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from diffmamba_interp.figures.styles import STYLES

PANEL, ROW, GAP, LEFT, RIGHT, HEAD_HEIGHT, FOOT, PER_ROW = 300, 250, 26, 64, 16, 52, 30, 3
LEGEND = 150
DASHES = {"solid": "", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3"}
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" font-family="sans-serif" font-size="12">'
_MAX_LABELS = 9

Point = tuple[float, float, float]
"""A value and its interval: value, low, high. A value that is not finite leaves a gap."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """name: for the legend; the same name has the same colour in every panel. points: one per place on the x axis."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """title: above the panel. ticks: label of each place on the x axis, which are equally far apart."""

    title: str
    ticks: Sequence[str]
    curves: Sequence[Curve]


def curves_svg(
    panels: Sequence[Panel], *, title: str, x_axis: str, y_axis: str, y_range: tuple[float, float] | None = None
) -> str:
    """Every panel on one scale, three to a row. y_range: None fits all intervals.

    Raises ValueError if there is nothing to draw, or for a curve whose points are not one per tick.
    """
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    for panel in panels:
        for curve in panel.curves:
            if len(curve.points) != len(panel.ticks):
                raise ValueError(
                    f"{curve.name} has {len(curve.points)} points, but there are {len(panel.ticks)} ticks."
                )
    points = [p for panel in panels for curve in panel.curves for p in curve.points if math.isfinite(p[0])]
    if not points:
        raise ValueError("there are no points to draw: give at least one curve with a finite value.")
    levels = _levels(*(y_range or (min(p[1] for p in points), max(p[2] for p in points))))
    n_rows, n_columns = math.ceil(len(panels) / PER_ROW), min(len(panels), PER_ROW)
    width = LEFT + n_columns * (PANEL + GAP) - GAP + RIGHT
    names_per_row = (width - LEFT) // LEGEND
    head = HEAD_HEIGHT + 18 * ((len(names) - 1) // names_per_row)
    height = head + n_rows * ROW + FOOT
    parts = [
        HEAD.format(width, height),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
        *_legend(names, names_per_row),
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, PER_ROW)
        place = _Place(left=float(LEFT + column * (PANEL + GAP)), top=float(head + row * ROW), levels=levels)
        parts += _panel(panel, place, names, is_first=column == 0)
    parts += [
        f'<text x="{width / 2:.0f}" y="{height - 8}" text-anchor="middle">{escape(x_axis)}</text>',
        f'<text transform="translate(14 {(head + height - FOOT) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_axis)}</text>",
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a panel is drawn, and its scale."""

    left: float
    top: float
    levels: Sequence[float]

    def y(self, value: float) -> float:
        share = (value - self.levels[0]) / (self.levels[-1] - self.levels[0])
        return self.top + 20 + (ROW - 54) * (1 - share)

    def x(self, index: int, n_ticks: int) -> float:
        return self.left + 14 + (PANEL - 28) * index / max(n_ticks - 1, 1)


def _panel(panel: Panel, place: _Place, names: Sequence[str], *, is_first: bool) -> list[str]:
    n_ticks, bottom = len(panel.ticks), place.y(place.levels[0])
    grid = [f"M{_short(place.left)},{_short(place.y(level))}h{PANEL}" for level in place.levels]
    parts = [f'<path d="{"".join(grid)}" stroke="#ddd"/>']
    for level, line in zip(place.levels, grid, strict=True):
        if level == 0 and place.levels[0] < 0:
            parts.append(f'<path d="{line}" stroke="#888"/>')
        if is_first:
            parts.append(f'<text x="{LEFT - 6}" y="{_short(place.y(level) + 4)}" text-anchor="end">{level:g}</text>')
    middle_x = place.left + PANEL / 2
    parts.append('<g text-anchor="middle">')
    parts.append(f'<text x="{_short(middle_x)}" y="{_short(place.top + 12)}">{escape(panel.title)}</text>')
    for index in range(0, n_ticks, math.ceil(n_ticks / _MAX_LABELS)):
        x, label = place.x(index, n_ticks), escape(panel.ticks[index])
        parts.append(f'<text x="{_short(x)}" y="{_short(bottom + 18)}">{label}</text>')
    parts.append("</g>")
    for curve in panel.curves:
        parts += _curve(curve, place, names.index(curve.name) % len(STYLES))
    return parts


def _curve(curve: Curve, place: _Place, style: int) -> list[str]:
    """Band, line and dots. A dot is a line of no length with round ends, which is shorter than a circle of its own."""
    colour, dash, _ = STYLES[style]
    parts = []
    for run in _runs(curve.points):
        middle, low, high = (
            [f"{_short(place.x(i, len(curve.points)))},{_short(place.y(curve.points[i][side]))}" for i in run]
            for side in range(3)
        )
        parts += [
            f'<polygon points="{" ".join([*high, *reversed(low)])}" fill="{colour}" opacity="0.18"/>',
            f'<g fill="none" stroke="{colour}"><polyline points="{" ".join(middle)}" stroke-width="2"{_dashes(dash)}/>',
            f'<path d="{"".join(f"M{point}h0" for point in middle)}" stroke-width="6" stroke-linecap="round"/></g>',
        ]
    return parts


def _short(pixels: float) -> str:
    """To a tenth of a pixel, without a fraction where there is none."""
    return f"{pixels:.1f}".removesuffix(".0")


def _dashes(dash: str) -> str:
    return f' stroke-dasharray="{DASHES[dash]}"' if DASHES[dash] else ""


def _runs(points: Sequence[Point]) -> list[list[int]]:
    """Stretches of neighbouring points that are finite."""
    runs: list[list[int]] = [[]]
    for index, point in enumerate(points):
        if math.isfinite(point[0]):
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _legend(names: Sequence[str], per_row: int) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        colour, dash, _ = STYLES[number % len(STYLES)]
        x, y = LEFT + LEGEND * (number % per_row), 36 + 18 * (number // per_row)
        parts.append(
            f'<line x1="{x}" x2="{x + 26}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"{_dashes(dash)}/>'
            f'<text x="{x + 32}" y="{y + 4}">{escape(name)}</text>'
        )
    return parts


def _levels(low: float, high: float) -> list[float]:
    """Round levels around [low, high], about five."""
    room = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(room / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if room / (step * factor) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
