"""The notebook's two charts as SVG text, which any reader of a notebook shows without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from diffmamba_interp.figures.scales import SPAN_COLOURS
from diffmamba_interp.implicit_attention import SPAN_CLASSES, Spans

WIDTH, LEFT, RIGHT, TOP = 860, 170, 20, 44
_PANEL, _ROW = 110, 22
_LEAST_SIZE = 0.05  # pixels; less is not seen
_HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" font-family="sans-serif" font-size="12">'


class Interval(NamedTuple):
    """label: of the line. value, low, high: an estimate and its interval. beside: a second estimate, if any."""

    label: str
    value: float
    low: float
    high: float
    beside: float | None = None


def row_svg(pictures: Mapping[str, np.ndarray], spans: Spans, *, title: str) -> str:
    """One destination's row of each picture as bars over the sources, on one scale, coloured by span."""
    owner = {
        position: name for name in SPAN_CLASSES for start, end in getattr(spans, name) for position in range(start, end)
    }
    limit = max(float(np.abs(row).max()) for row in pictures.values()) or 1.0
    height = TOP + len(pictures) * (_PANEL + 10) + 24
    parts = [*_frame(height, title)]
    for column, name in enumerate(SPAN_CLASSES):
        x = LEFT + 130 * column
        parts.append(f'<rect x="{x}" y="27" width="10" height="10" fill="{SPAN_COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 15}" y="37">{name}</text>')
    for panel, (name, row) in enumerate(pictures.items()):
        zero = TOP + panel * (_PANEL + 10) + _PANEL / 2
        step = (WIDTH - LEFT - RIGHT) / len(row)
        parts.append(f'<text x="{LEFT - 8}" y="{zero + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{zero}" y2="{zero}" stroke="#999"/>')
        bars: dict[str, list[str]] = {}
        for position, value in enumerate(row):
            size = float(value) / limit * (_PANEL / 2 - 4)
            if abs(size) >= _LEAST_SIZE:
                colour = SPAN_COLOURS.get(owner.get(position, ""), "#333333")
                bars.setdefault(colour, []).append(f"M{LEFT + (position + 0.4) * step:.1f},{zero:g}v{-size:.1f}")
        width = max(step * 0.8, 1)
        parts += [
            f'<path d="{"".join(own)}" stroke="{colour}" stroke-width="{width:.1f}"/>' for colour, own in bars.items()
        ]
    parts.append(
        f'<text x="{LEFT}" y="{height - 8}">source position, 0 to {len(row) - 1}; full height ±{limit:.3g}</text>'
    )
    return "\n".join([*parts, "</svg>"])


def interval_svg(lines: Sequence[Interval], *, title: str, axis: str) -> str:
    """One line per entry: the estimate as a dot on its interval, what stands beside it as a hollow square."""
    values = [number for line in lines for number in (line.low, line.high, line.beside or 0.0, 0.0)]
    low, high = min(values), max(values)
    height = TOP + _ROW * len(lines) + 44

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / ((high - low) or 1.0)

    bottom = TOP + _ROW * len(lines)
    parts = [*_frame(height, title), f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP}" y2="{bottom}" stroke="#999"/>']
    for index, line in enumerate(lines):
        y = TOP + _ROW * (index + 0.5)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(line.label)}</text>')
        parts.append(
            f'<line x1="{x(line.low):.1f}" x2="{x(line.high):.1f}" y1="{y}" y2="{y}" stroke="#0072B2" '
            'stroke-width="2"/>'
            f'<circle cx="{x(line.value):.1f}" cy="{y}" r="4" fill="#0072B2"/>'
        )
        if line.beside is not None:
            parts.append(
                f'<rect x="{x(line.beside) - 4:.1f}" y="{y - 4}" width="8" height="8" fill="none" stroke="#D55E00"/>'
            )
    clear = 0.06 * (high - low)  # of zero's label from the ends
    for value in (low, high, *([0.0] if low + clear < 0 < high - clear else [])):
        parts.append(f'<text x="{x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value:.2g}</text>')
    parts.append(f'<text x="{LEFT}" y="{height - 8}">{escape(axis)}</text>')
    return "\n".join([*parts, "</svg>"])


def _frame(height: float, title: str) -> list[str]:
    return [
        _HEAD.format(WIDTH, height),
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="10" y="18" font-size="14">{escape(title)}</text>',
    ]
