"""A lens' held-out KL by depth as a small SVG file: for cards, which are read where no script runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from diffmamba_interp.lens.evaluation import LensMeasurement
from diffmamba_interp.statistics import Estimate

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 60
# Okabe and Ito's colours, which stay apart for every kind of colour vision; dashes tell them apart in grey.
SERIES = (("logit lens", "#D55E00", "6 4"), ("tuned lens", "#0072B2", ""))
SMALLEST_NATS = 1e-4


def kl_svg(measurement: LensMeasurement, *, title: str) -> str:
    """KL from the final output, in nats on a logarithmic scale, by stage: both lenses with their 95 % intervals.

    Values below 1e-4 nats are drawn at 1e-4.
    """
    curves = (
        [stage.logit_lens_kl_nats for stage in measurement.stages],
        [stage.kl_nats for stage in measurement.stages],
    )
    lowest, highest = _decades([estimate for curve in curves for estimate in curve])
    n = len(measurement.stages)

    def x(index: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (index / max(n - 1, 1))

    def y(nats: float) -> float:
        share = (math.log10(max(nats, SMALLEST_NATS)) - lowest) / (highest - lowest)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        *_axes(measurement, x, y, lowest, highest),
    ]
    for number, ((name, colour, dashes), curve) in enumerate(zip(SERIES, curves, strict=True)):
        parts += _curve(curve, x, y, colour, dashes)
        place = LEFT + 130 * number
        parts.append(
            f'<line x1="{place}" x2="{place + 30}" y1="36" y2="36" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dashes}"/><text x="{place + 36}" y="40">{name}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _decades(estimates: Sequence[Estimate]) -> tuple[int, int]:
    logs = [math.log10(max(v, SMALLEST_NATS)) for e in estimates for v in (e.value, e.low, e.high)]
    lowest, highest = math.floor(min(logs)), math.ceil(max(logs))
    return lowest, max(highest, lowest + 1)


def _axes(
    measurement: LensMeasurement, x: Callable[[int], float], y: Callable[[float], float], lowest: int, highest: int
) -> list[str]:
    parts = []
    for decade in range(lowest, highest + 1):
        height = y(10.0**decade)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>'
        )
    every = math.ceil(len(measurement.stages) / 12)
    for index in range(0, len(measurement.stages), every):
        label = "emb" if index == 0 else str(index - 1)
        parts.append(f'<text x="{x(index):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 14}" text-anchor="middle">lens reads the embedding (emb) or the stream '
        "after block</text>"
    )
    parts.append(
        f'<text transform="translate(16 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">KL to output, nats</text>'
    )
    return parts


def _curve(
    curve: Sequence[Estimate], x: Callable[[int], float], y: Callable[[float], float], colour: str, dashes: str
) -> list[str]:
    upper = [f"{x(i):.1f},{y(e.high):.1f}" for i, e in enumerate(curve)]
    lower = [f"{x(i):.1f},{y(e.low):.1f}" for i, e in enumerate(curve)]
    middle = [f"{x(i):.1f},{y(e.value):.1f}" for i, e in enumerate(curve)]
    return [
        f'<polygon points="{" ".join(upper + lower[::-1])}" fill="{colour}" opacity="0.2"/>',
        f'<polyline points="{" ".join(middle)}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dashes}"/>',
    ]
