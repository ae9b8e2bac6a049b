"""All heads of a block at a glance: one thumbnail for each head and picture."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.drawing.panels import Axis, Drawing, HeatMap, Panel, Targets
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.figures.attention_panels import (
    attention_panels,
    pooled,
    pooling_step,
    record_scale,
    record_title,
)
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.spans import TokenRange

MAX_CELLS = 40
"""Rows and columns of one thumbnail; longer sequences are pooled."""

GAP = 4
"""Empty cells between thumbnails."""

MAX_IN_LINE = 16
"""Heads side by side; more go on below."""


def attention_heads_drawing(
    record: AttentionRecord, *, sample: int = 0, window: TokenRange | None = None, title: str | None = None
) -> Drawing:
    """Every head's pictures small, one column per head and one line per picture, on one scale.

    Args:
        record: one with its heads apart. sample, window: as in `attention_drawing`.
        title: in place of one that says block, kind and what the difference is.

    Values are pooled as in `attention_drawing`. Over each thumbnail lies an invisible point, to be pointed at or
    clicked; its data are the head's number and the picture's name. Raises ValueError for a record whose heads were
    reduced or summed, and as `attention_drawing`.
    """
    if not record.per_head:
        raise ValueError("the record has no head axis: leave reduce= out, or give per_head=True for contributions.")
    names = list(record.pictures)
    tiles = [_tiles(record, sample, head, window) for head in record.heads]
    canvas, targets = _canvas(record, tiles)
    height, width = (size + GAP for size in tiles[0][names[0]].shape)
    in_line, n_lines = min(len(tiles), MAX_IN_LINE), canvas.shape[0] // height
    pictures = [short_name(name) for name in names] * (n_lines // len(names))
    heading, means = record_title(record, "every head")
    cells = HeatMap(
        values=canvas, x=[float(x) for x in range(canvas.shape[1])], y=[float(y) for y in range(len(canvas))]
    )
    return Drawing(
        title=title or heading,
        subtitle="" if title else means,
        x=Axis(title="head", ticks={(c + 0.5) * width: str(head) for c, head in enumerate(record.heads[:in_line])}),
        y=Axis(ticks={(line + 0.5) * height: name for line, name in enumerate(pictures)}, backwards=True),
        scale=record_scale(record, [canvas]),
        panels=[Panel(marks=[cells, targets])],
        panel_size=(900.0, 900.0 * canvas.shape[0] / canvas.shape[1]),
    )


attention_heads_figure = as_plotly(attention_heads_drawing)


def _tiles(
    record: AttentionRecord, sample: int, head: int, window: TokenRange | None
) -> dict[str, Float[np.ndarray, "cell_row cell_src"]]:
    values = attention_panels(record, sample=sample, head=head, window=window).values
    step = pooling_step(max(next(iter(values.values())).shape), MAX_CELLS)
    return {name: pooled(value, step) for name, value in values.items()}


def _canvas(record: AttentionRecord, tiles: list[dict[str, np.ndarray]]) -> tuple[Float[np.ndarray, "y x"], Targets]:
    """All thumbnails in one matrix, NaN between them; and a target in the middle of each."""
    names = list(tiles[0])
    height, width = (size + GAP for size in tiles[0][names[0]].shape)
    n_lines = math.ceil(len(tiles) / MAX_IN_LINE) * len(names)
    canvas = np.full((n_lines * height, min(len(tiles), MAX_IN_LINE) * width), np.nan, dtype=np.float32)
    x, y, data = [], [], []
    for number, (head, of_head) in enumerate(zip(record.heads, tiles, strict=True)):
        for place, (name, tile) in enumerate(of_head.items()):
            top = (number // MAX_IN_LINE * len(names) + place) * height
            left = number % MAX_IN_LINE * width
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            x.append(left + width / 2)
            y.append(top + height / 2)
            data.append((head, name))
    return canvas, Targets(x=x, y=y, data=data, labels=[f"head {head}, {name}" for head, name in data])
