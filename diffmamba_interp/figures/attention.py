"""Figures of an `AttentionRecord`: its pictures side by side on one scale, and one row of them over the sources."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from diffmamba_interp.figures.attention_panels import (
    PANEL_NAMES,
    UNITS,
    AttentionPanels,
    attention_panels,
    colour_axis,
    margins,
    pooled,
    record_title,
    scale_end,
    side_by_side,
    ticks,
)
from diffmamba_interp.figures.scales import SPAN_COLOURS
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.implicit_attention.spans import SPAN_CLASSES, Interval, Spans

__all__ = ["MAX_CELLS", "PANEL_NAMES", "UNITS", "attention_figure", "attention_row_figure", "pooling_step"]

MAX_CELLS = 512
"""Rows and columns of one panel; longer sequences are pooled."""

MAX_PANEL_TICKS = 16
MAX_ROW_TICKS = 40


def attention_figure(
    record: AttentionRecord,
    *,
    sample: int = 0,
    head: int | None = None,
    spans: Spans | None = None,
    window: Interval | None = None,
    clip_quantile: float = 0.99,
    max_cells: int = MAX_CELLS,
    title: str | None = None,
) -> go.Figure:
    """Minuend, subtrahend and difference (or a plain block's weights) side by side on one symmetric scale.

    Args:
        record: what `extract_attention` made. sample: which of its samples.
        head: which of the record's heads; None shows the signed mean over them, and the title says so.
        spans: intervals to frame, by class.
        window: positions to show, half-open, both as destinations and as sources; None for all. The scale is
            that of the values shown.
        clip_quantile: the scale ends at this quantile of the non-zero magnitudes, so that a strong diagonal
            does not wash out the rest; 1 for the maximum.
        max_cells: beyond so many rows or columns, squares are pooled to their value of largest magnitude,
            sign kept, and the title says so.
        title: in place of one that says block, kind and what the difference is.

    Rows that are neighbouring positions stand at their positions; others at 0, 1, 2, ..., labelled with theirs.
    Raises ValueError for a sample, head or window that the record does not have.
    """
    panels = attention_panels(record, sample=sample, head=head, window=window)
    if not 0 < clip_quantile <= 1:
        raise ValueError(f"clip_quantile is {clip_quantile}: it must lie in (0, 1].")
    n_rows, n_sources = len(panels.rows), panels.stop - panels.start
    step = pooling_step(max(n_rows, n_sources), max_cells)
    top = _first_row(panels)
    end = scale_end(panels.values.values(), clip_quantile)
    said = f", pooled {step} × {step} to the largest magnitude" if step > 1 else ""
    x_ticks = ticks(panels.labels[panels.start : panels.stop], MAX_PANEL_TICKS, first=panels.start)
    y_ticks = ticks([panels.labels[place] for place in panels.rows], MAX_PANEL_TICKS, first=top)
    return side_by_side(
        {
            name: _heat_map(value, step, panels.start, top)
            for name, value in zip(panels.titles, panels.values.values(), strict=True)
        },
        x_axis={
            "title": {"text": "source position"},
            "range": _edges(panels.start, n_sources),
            "tickangle": 90,
            **x_ticks,
        },
        y_axis={"title": {"text": "destination position"}, "range": _edges(top, n_rows)[::-1], **y_ticks},
        layout={
            "title": {"text": title or record_title(record, panels.heads, said)},
            "margin": margins(x_ticks["ticktext"], y_ticks["ticktext"]),
            "coloraxis": colour_axis(end=end, signed=panels.signed, unit=UNITS[record.kind]),
            # Hanging from the top edge, beside the title.
            "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 0.99, "yref": "container",
                       "yanchor": "top"},
        },
        shapes=_frames(spans, panels, top) if spans else [],
        extra=_swatches(spans, panels) if spans else [],
    )  # fmt: skip


def pooling_step(n_positions: int, max_cells: int) -> int:
    """Rows and columns that one cell stands for, so that there are at most `max_cells` of them."""
    return max(1, -(-n_positions // max_cells))


def attention_row_figure(
    record: AttentionRecord, *, row: int = -1, sample: int = 0, head: int | None = None, title: str | None = None
) -> go.Figure:
    """One destination's row as bars over the sources, one panel per picture, all on one scale.

    `row` counts the record's rows (its `rows` says which positions they are); the rest as in `attention_figure`.
    """
    panels = attention_panels(record, sample=sample, head=head)
    if not -len(panels.rows) <= row < len(panels.rows):
        raise ValueError(f"row is {row}: the record has {len(panels.rows)} rows in use.")
    titles = panels.titles
    figure = make_subplots(rows=len(titles), subplot_titles=titles, shared_xaxes=True, shared_yaxes="all")
    visible = int(panels.rows[row]) + 1
    for panel, value in enumerate(panels.values.values(), start=1):
        bars = go.Bar(
            x=np.arange(visible),
            y=value[row, :visible],
            customdata=panels.labels[:visible],
            hovertemplate="%{customdata}: %{y:.4g}<extra></extra>",
            marker_color="#0072B2",
            showlegend=False,
        )
        figure.add_trace(bars, row=panel, col=1)
    figure.update_yaxes(title_text=UNITS[record.kind])
    figure.update_xaxes(**ticks(panels.labels[:visible], MAX_ROW_TICKS))
    figure.update_xaxes(title_text="source position", row=len(titles))
    read = f", read at position {panels.labels[panels.rows[row]]}"
    figure.update_layout(title_text=title or record_title(record, panels.heads, read), margin={"t": 110}, bargap=0.1)
    return figure


def _first_row(panels: AttentionPanels) -> int:
    """Where the first row is drawn: chosen rows need not be evenly spaced."""
    return int(panels.rows[0]) if len(panels.rows) and (np.diff(panels.rows) == 1).all() else 0


def _heat_map(value: np.ndarray, step: int, left: int, top: int) -> dict[str, Any]:
    half = (step - 1) / 2
    around = f" ± {half:g}" if step > 1 else ""
    return {
        "type": "heatmap",
        "z": pooled(value, step),
        "x0": left + half,
        "dx": step,
        "y0": top + half,
        "dy": step,
        "hovertemplate": f"source %{{x}}{around}<br>destination %{{y}}{around}<br>%{{z:.4g}}<extra></extra>",
    }


def _edges(first: int, size: int) -> list[float]:
    """The outer borders of so many cells, which the pooled ones may overlap."""
    return [first - 0.5, first + size - 0.5]


def _frames(spans: Spans, panels: AttentionPanels, top: int) -> list[dict[str, Any]]:
    """A frame over the sources of each span, cut at the window; the needle's on top of its neighbours', and thicker."""
    bottom = top + len(panels.rows) - 0.5
    return [
        {
            "type": "rect",
            "x0": max(start, panels.start) - 0.5,
            "x1": min(end, panels.stop) - 0.5,
            "y0": top - 0.5,
            "y1": bottom,
            "line": {"color": SPAN_COLOURS[name], "width": 3 if name == "needle" else 2},
        }
        for name, (start, end) in reversed(_shown(spans, panels))
    ]


def _swatches(spans: Spans, panels: AttentionPanels) -> list[dict[str, Any]]:
    """One legend entry per class that is shown."""
    return [
        {
            "type": "scatter",
            "x": [None],
            "y": [None],
            "mode": "markers",
            "marker": {"color": SPAN_COLOURS[name], "symbol": "square", "size": 12},
            "name": name,
        }
        for name in dict.fromkeys(name for name, _ in _shown(spans, panels))
    ]


def _shown(spans: Spans, panels: AttentionPanels) -> list[tuple[str, Interval]]:
    """Class and interval of every span of which something is to be seen."""
    return [
        (name, (start, end))
        for name in SPAN_CLASSES
        for start, end in getattr(spans, name)
        if start < panels.stop and end > panels.start
    ]
