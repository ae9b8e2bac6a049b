"""A long prompt's attention by span: one cell for what a stretch of the prompt reads from another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from diffmamba_interp.figures.attention_panels import (
    UNITS,
    attention_panels,
    colour_axis,
    margins,
    record_title,
    scale_end,
    side_by_side,
)
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.implicit_attention.segments import Segment, collapse_by_span
from diffmamba_interp.implicit_attention.spans import Interval, Spans

MAX_TICKS = 14
OTHERS_APART = 8
"""Of segments without a name worth a label, every so many is labelled."""


def attention_span_figure(
    record: AttentionRecord,
    spans: Spans,
    *,
    sample: int = 0,
    head: int | None = None,
    window: Interval | None = None,
    title: str | None = None,
) -> go.Figure:
    """The record's pictures by span, side by side on one scale: sums over sources, means over destinations.

    Args:
        record: what `extract_attention` made.
        spans: where the prompt is cut; what lies between them is a segment of its own.
        sample, head, window: as in `attention_figure`.
        title: in place of one that says block, kind and what a cell is.

    Every cell is as large as any other, whatever its segments' lengths; lines of segments of which the record
    has no row are empty. The numbers are those of `collapse_by_span`. Raises its ValueErrors.
    """
    collapsed = collapse_by_span(record, spans, sample=sample, head=head, window=window)
    panels = attention_panels(record, sample=sample, head=head, window=window)
    values = [value.detach().cpu().numpy() for value in collapsed.values.values()]
    labels = [segment_label(segment) for segment in collapsed.segments]
    reads = [[f"{dest} reads {src}" for src in labels] for dest in labels]
    axis = {"tickmode": "array", **_ticks(collapsed.segments, labels)}
    said = ": sums over sources, means over destinations"
    return side_by_side(
        {name: _heat_map(value, reads) for name, value in zip(panels.titles, values, strict=True)},
        x_axis={"title": {"text": "source span"}, "tickangle": 90, **axis},
        y_axis={"title": {"text": "destination span"}, "autorange": "reversed", **axis},
        layout={
            "title": {"text": title or record_title(record, panels.heads, said)},
            "margin": margins(axis["ticktext"], axis["ticktext"]),
            "coloraxis": colour_axis(end=scale_end(values, 0.99), signed=panels.signed, unit=UNITS[record.kind]),
        },
    )


def segment_label(segment: Segment) -> str:
    """Its class and its first and last position, as in "needle 21–27"."""
    name = segment.span_class or "other"
    last = f"–{segment.end - 1}" if segment.end - segment.start > 1 else ""
    return f"{name} {segment.start}{last}"


def _heat_map(value: np.ndarray, reads: list[list[str]]) -> dict[str, Any]:
    places = list(range(len(reads)))
    return {
        "type": "heatmap",
        "z": value,
        "x": places,
        "y": places,
        "customdata": reads,
        "hovertemplate": "%{customdata}<br>%{z:.4g}<extra></extra>",
    }


def _ticks(segments: Sequence[Segment], labels: list[str]) -> dict[str, Any]:
    """The named segments, as many as there is room for."""
    named = [place for place, segment in enumerate(segments) if segment.span_class not in ("", "filler")]
    shown = named[:: -(-len(named) // MAX_TICKS)] if named else list(range(len(labels)))[::OTHERS_APART]
    return {"tickvals": shown, "ticktext": [labels[place] for place in shown]}
