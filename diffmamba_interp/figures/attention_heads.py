"""All heads of a block at a glance: one thumbnail for each head and picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from diffmamba_interp.figures.attention import pooling_step
from diffmamba_interp.figures.attention_panels import (
    PANEL_NAMES,
    UNITS,
    attention_panels,
    colour_axis,
    pooled,
    record_title,
    scale_end,
)
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.implicit_attention.spans import Interval

MAX_CELLS = 40
"""Rows and columns of one thumbnail; longer sequences are pooled."""

GAP = 4
"""Empty cells between thumbnails."""

MAX_IN_LINE = 16
"""Heads side by side; more go on below."""


def attention_heads_figure(
    record: AttentionRecord, *, sample: int = 0, window: Interval | None = None, title: str | None = None
) -> go.Figure:
    """Every head's pictures small, one column per head and one line per picture, on one scale.

    Args:
        record: one with its heads apart. sample, window: as in `attention_figure`.
        title: in place of one that says block, kind and what the difference is.

    Values are pooled as in `attention_figure`. Over each thumbnail lies an invisible point, to be pointed at or
    clicked; its custom data are the head's number and the picture's name. Raises ValueError for a record whose
    heads were reduced or summed, and as `attention_figure`.
    """
    if not record.per_head:
        raise ValueError("the record has no head axis: leave reduce= out, or give per_head=True for contributions.")
    names = list(record.pictures)
    tiles = [_tiles(record, sample, head, window) for head in record.heads]
    canvas, centres = _canvas(record, tiles)
    height, width = (size + GAP for size in tiles[0][names[0]].shape)
    in_line, n_lines = min(len(tiles), MAX_IN_LINE), canvas.shape[0] // height
    plain = {"showgrid": False, "zeroline": False, "ticks": "", "tickmode": "array"}
    end = scale_end([canvas], 0.99)
    return go.Figure(
        {
            "data": [
                {"type": "heatmap", "z": canvas, "hoverinfo": "skip", "coloraxis": "coloraxis"},
                _points(centres),
            ],
            "layout": {
                "title": {"text": title or record_title(record, "every head")},
                "margin": {"t": 110},
                "hoverdistance": -1,
                "coloraxis": colour_axis(end=end, signed=record.kind != "contribution_norm", unit=UNITS[record.kind]),
                "xaxis": {
                    **plain,
                    "side": "top",
                    "tickvals": [(column + 0.5) * width for column in range(in_line)],
                    "ticktext": [str(head) for head in record.heads[:in_line]],
                },
                "yaxis": {
                    **plain,
                    "autorange": "reversed",
                    "tickvals": [(line + 0.5) * height for line in range(n_lines)],
                    "ticktext": [PANEL_NAMES.get(name, name) for name in names] * (n_lines // len(names)),
                },
            },
        }
    )


def _tiles(
    record: AttentionRecord, sample: int, head: int, window: Interval | None
) -> dict[str, Float[np.ndarray, "cell_row cell_src"]]:
    values = attention_panels(record, sample=sample, head=head, window=window).values
    step = pooling_step(max(next(iter(values.values())).shape), MAX_CELLS)
    return {name: pooled(value, step) for name, value in values.items()}


def _canvas(
    record: AttentionRecord, tiles: list[dict[str, np.ndarray]]
) -> tuple[Float[np.ndarray, "y x"], list[tuple[float, float, int, str]]]:
    """All thumbnails in one matrix, NaN between them; and x, y, head and picture of each one's middle."""
    names = list(tiles[0])
    height, width = (size + GAP for size in tiles[0][names[0]].shape)
    n_lines = math.ceil(len(tiles) / MAX_IN_LINE) * len(names)
    canvas = np.full((n_lines * height, min(len(tiles), MAX_IN_LINE) * width), np.nan, dtype=np.float32)
    centres = []
    for number, (head, of_head) in enumerate(zip(record.heads, tiles, strict=True)):
        for place, (name, tile) in enumerate(of_head.items()):
            top = (number // MAX_IN_LINE * len(names) + place) * height
            left = number % MAX_IN_LINE * width
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            centres.append((left + width / 2, top + height / 2, head, name))
    return canvas, centres


def _points(centres: list[tuple[float, float, int, str]]) -> dict[str, Any]:
    unseen = {"marker": {"opacity": 0}}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for x, _, _, _ in centres],
        "y": [y for _, y, _, _ in centres],
        "customdata": [[head, name] for _, _, head, name in centres],
        "marker": {"opacity": 0, "size": 30},
        "selected": unseen,
        "unselected": unseen,
        "showlegend": False,
        "hovertemplate": "head %{customdata[0]}, %{customdata[1]}<extra></extra>",
    }
