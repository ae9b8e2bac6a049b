"""The figures of `retrieval` as small SVG files: for pages that are read where no script runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from diffmamba_interp.figures.retrieval import FAINT, ratio_of, seed_curves, tasks_of
from diffmamba_interp.figures.styles import STYLES, length_name
from diffmamba_interp.needle.accuracy_grid import Cell

PANEL, GAP, HEIGHT, LEFT, TOP, BOTTOM = 180, 14, 300, 50, 60, 50
_DASHES = {"solid": "", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3"}
_HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" font-family="sans-serif" font-size="12">'
_CELL_WIDTH, _CELL_HEIGHT = 84, 36


def accuracy_svg(cells: Sequence[Cell], *, title: str, others: Sequence[Sequence[Cell]] = ()) -> str:
    """One panel per task: accuracy against length with 95 % Wilson intervals; chance as a thin grey line.

    `others`: the same cells for the same models from other training seeds, drawn as faint curves.
    """
    tasks = tasks_of(cells)
    width = LEFT + len(tasks) * (PANEL + GAP)
    parts = [
        _HEAD.format(width, HEIGHT),
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
        *_legend([model.model for model in cells[0].models]),
    ]
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<text x="{LEFT - 6}" y="{_y(level) + 4:.1f}" text-anchor="end">{level:g}</text>')
    for column, task in enumerate(tasks):
        own = sorted((cell for cell in cells if cell.task == task), key=lambda cell: cell.length)
        parts += _panel(own, LEFT + column * (PANEL + GAP), task, seed_curves(others, task))
    middle = width / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">context length, tokens</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def ratio_svg(cells: Sequence[Cell], *, title: str) -> str:
    """Second model's accuracy over the first one's in a grid; * where the paired interval excludes a tie."""
    tasks, lengths = tasks_of(cells), sorted({cell.length for cell in cells})
    width, height = LEFT + len(lengths) * _CELL_WIDTH + 20, TOP + len(tasks) * _CELL_HEIGHT + BOTTOM
    parts = [
        _HEAD.format(width, height),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
    ]
    for cell in cells:
        x, y = LEFT + lengths.index(cell.length) * _CELL_WIDTH, TOP + tasks.index(cell.task) * _CELL_HEIGHT
        ratio = ratio_of(cell)
        assert cell.difference is not None
        label = "–" if ratio is None else f"{ratio:.2f}{'*' if cell.difference.excludes_zero else ''}"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_CELL_WIDTH}" height="{_CELL_HEIGHT}" fill="{_tint(ratio)}" '
            f'stroke="white"/><text x="{x + _CELL_WIDTH / 2:.0f}" y="{y + 22}" text-anchor="middle">{label}</text>'
        )
    for row, task in enumerate(tasks):
        parts.append(f'<text x="{LEFT - 8}" y="{TOP + row * _CELL_HEIGHT + 22}" text-anchor="end">{task}</text>')
    for column, length in enumerate(lengths):
        middle = LEFT + (column + 0.5) * _CELL_WIDTH
        parts.append(f'<text x="{middle:.0f}" y="{TOP - 8}" text-anchor="middle">{length_name(length)}</text>')
    note = "* paired 95 % interval of the difference excludes 0"
    parts.append(f'<text x="10" y="{height - 16}">{note}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(cells: Sequence[Cell], left: int, task: str, faint: Sequence[tuple[int, list[float]]]) -> list[str]:
    def x(index: int) -> float:
        return left + 16 + (PANEL - 32) * index / max(len(cells) - 1, 1)

    parts = [f'<text x="{left + PANEL / 2:.0f}" y="{TOP - 4}" text-anchor="middle">{task}</text>']
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        height = _y(level)
        parts.append(f'<line x1="{left}" x2="{left + PANEL}" y1="{height:.1f}" y2="{height:.1f}" stroke="#ddd"/>')
    for index, cell in enumerate(cells):
        name = length_name(cell.length)
        parts.append(f'<text x="{x(index):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{name}</text>')
    chance = " ".join(f"{x(index):.1f},{_y(cell.chance):.1f}" for index, cell in enumerate(cells))
    parts.append(f'<polyline points="{chance}" fill="none" stroke="#666"/>')
    for number, shares in faint:
        points = " ".join(f"{x(index) + 4 * number:.1f},{_y(share):.1f}" for index, share in enumerate(shares))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{STYLES[number % len(STYLES)][0]}" opacity="{FAINT}"/>'
        )
    for number in range(len(cells[0].models)):
        colour, dash, _ = STYLES[number % len(STYLES)]
        # Beside each other, or the intervals would hide one another.
        curve = [(x(index) + 4 * number, cell.models[number]) for index, cell in enumerate(cells)]
        points = " ".join(f"{at:.1f},{_y(one.accuracy):.1f}" for at, one in curve)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{_DASHES[dash]}"/>'
        )
        for at, one in curve:
            parts.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_y(one.low):.1f}" y2="{_y(one.high):.1f}" stroke="{colour}"/>'
                f'<circle cx="{at:.1f}" cy="{_y(one.accuracy):.1f}" r="3" fill="{colour}"/>'
            )
    return parts


def _legend(models: Sequence[str]) -> list[str]:
    parts, entries = [], [(name, STYLES[i % len(STYLES)][:2], 2) for i, name in enumerate(models)]
    for number, (name, (colour, dash), stroke) in enumerate([*entries, ("chance", ("#666", "solid"), 1)]):
        at = LEFT + 140 * number
        parts.append(
            f'<line x1="{at}" x2="{at + 28}" y1="34" y2="34" stroke="{colour}" stroke-width="{stroke}" '
            f'stroke-dasharray="{_DASHES[dash]}"/><text x="{at + 34}" y="38">{escape(name)}</text>'
        )
    return parts


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _tint(ratio: float | None) -> str:
    """White for a tie, blue where the second model is better, red where the first is; full at a factor of 2."""
    if ratio is None:
        return "#eeeeee"
    strength = min(abs(max(ratio, 1e-9) - 1 if ratio >= 1 else 1 / max(ratio, 1e-9) - 1), 1.0)
    full = (0x67, 0xA9, 0xCF) if ratio >= 1 else (0xEF, 0x8A, 0x62)
    return "#" + "".join(f"{round(255 + (channel - 255) * strength):02x}" for channel in full)
