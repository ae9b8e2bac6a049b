"""Where contributions fall, as small SVG files: stacked bars of the classes' shares, and a map of heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from diffmamba_interp.figures.curves_svg import HEAD
from diffmamba_interp.figures.scales import SPAN_COLOURS

LEFT, TOP, BOTTOM, HEIGHT, BAR, GAP, GROUP_GAP = 56, 66, 96, 420, 30, 4, 26
CELL_WIDTH, CELL_HEIGHT = 46, 24
COLOURS = {**SPAN_COLOURS, "other": "#E5E5E5"}
_SMALLEST_LABEL = 0.06


@dataclass(frozen=True, kw_only=True)
class ShareBar:
    """One bar. group: bars of one group stand together. name: of the bar. shares: by class, 1 together."""

    group: str
    name: str
    shares: Mapping[str, float]


def share_bars_svg(bars: Sequence[ShareBar], *, title: str, x_axis: str) -> str:
    """Stacked bars from 0 to 1, the classes in one order from below: needle, question, other, distractors, filler.

    What is wanted stands below and what is irrelevant above, so that the upper edge of "other" shows the share of both.
    Raises ValueError if there are no bars, or for a class without a colour.
    """
    if not bars:
        raise ValueError("there are no bars to draw: give at least one.")
    unknown = sorted({name for bar in bars for name in bar.shares} - set(COLOURS))
    if unknown:
        raise ValueError(f"unknown classes: {', '.join(unknown)}. Known: {', '.join(COLOURS)}.")
    order = [name for name in ("needle", "question", "other", "distractors", "filler") if name in bars[0].shares]
    groups = list(dict.fromkeys(bar.group for bar in bars))
    starts, x = {}, float(LEFT + 10)
    for group in groups:
        starts[group] = x
        x += sum(bar.group == group for bar in bars) * (BAR + GAP) + GROUP_GAP
    parts = [
        HEAD.format(round(x), HEIGHT),
        f'<rect width="{x:.0f}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
        *_legend(order),
        *_scale(x),
    ]
    placed = dict.fromkeys(groups, 0)
    for bar in bars:
        parts += _bar(bar, starts[bar.group] + placed[bar.group] * (BAR + GAP), order)
        placed[bar.group] += 1
    for group in groups:
        middle = starts[group] + placed[group] * (BAR + GAP) / 2
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 24}" text-anchor="middle">{escape(group)}</text>')
    parts.append(f'<text x="{x / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_axis)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def head_map_svg(values: Sequence[Sequence[float]], *, title: str, note: str) -> str:
    """A value in [-1, 1] for each head of each block, written in its cell: blue above 0, red below, grey for NaN.

    Colours are full at 0.5. Raises ValueError if there are no blocks.
    """
    if not values or not values[0]:
        raise ValueError("there are no heads to draw: give at least one block with one head.")
    width, height = LEFT + len(values[0]) * CELL_WIDTH + 20, 60 + len(values) * CELL_HEIGHT + 44
    parts = [
        HEAD.format(width, height),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="18" font-size="14">{escape(title)}</text>',
        *(
            f'<text x="{LEFT + (head + 0.5) * CELL_WIDTH:.0f}" y="52" text-anchor="middle">{head}</text>'
            for head in range(len(values[0]))
        ),
    ]
    for block, row in enumerate(values):
        y = 60 + block * CELL_HEIGHT
        parts.append(f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end">block {block}</text>')
        parts.append('<g font-size="10" text-anchor="middle">')
        for head, value in enumerate(row):
            x = LEFT + head * CELL_WIDTH
            # The edge of a cell is the white behind it.
            cell = f"M{x},{y}h{CELL_WIDTH - 1}v{CELL_HEIGHT - 1}h{1 - CELL_WIDTH}"
            parts.append(f'<path d="{cell}" fill="{_tint(value)}"/>')
            if not math.isnan(value):
                parts.append(f'<text x="{x + CELL_WIDTH / 2:.0f}" y="{y + 16}">{value:+.2f}</text>')
        parts.append("</g>")
    parts.append(f'<text x="10" y="{height - 14}">{escape(note)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _tint(value: float) -> str:
    if math.isnan(value):
        return "#eeeeee"
    strength = min(abs(value) / 0.5, 1.0)
    full = (0x67, 0xA9, 0xCF) if value >= 0 else (0xEF, 0x8A, 0x62)
    return "#" + "".join(f"{round(255 + (channel - 255) * strength):02x}" for channel in full)


def _bar(bar: ShareBar, left: float, order: Sequence[str]) -> list[str]:
    parts, below = [], 0.0
    for name in order:
        share = bar.shares[name]
        top, size = _y(below + share), _y(below) - _y(below + share)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{BAR}" height="{size:.1f}" fill="{COLOURS[name]}">'
            f"<title>{escape(bar.name)}: {name} {share:.3f}</title></rect>"
        )
        if share >= _SMALLEST_LABEL:
            parts.append(
                f'<text x="{left + BAR / 2:.1f}" y="{top + size / 2 + 4:.1f}" text-anchor="middle" font-size="10">'
                f"{100 * share:.0f}</text>"
            )
        below += share
    foot = f"translate({left + BAR / 2 + 4:.1f} {HEIGHT - BOTTOM + 6}) rotate(-40)"
    parts.append(f'<text transform="{foot}" text-anchor="end" font-size="10">{escape(bar.name)}</text>')
    return parts


def _scale(width: float) -> list[str]:
    parts = []
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line x1="{LEFT}" x2="{width:.0f}" y1="{_y(level):.1f}" y2="{_y(level):.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{_y(level) + 4:.1f}" text-anchor="end">{100 * level:.0f} %</text>'
        )
    return parts


def _legend(order: Sequence[str]) -> list[str]:
    return [
        f'<rect x="{LEFT + 110 * number}" y="30" width="11" height="11" fill="{COLOURS[name]}"/>'
        f'<text x="{LEFT + 16 + 110 * number}" y="40">{name}</text>'
        for number, name in enumerate(order)
    ]


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
