"""Figures of an `AttentionRecord`: its pictures side by side on one scale, by position, by span and by head, one row of
them over the sources, and all heads at a glance."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float

from diffmamba_interp.drawing.colours import SPANS, short_name
from diffmamba_interp.drawing.panels import Axis, Bars, Drawing, Frame, HeatMap, Panel, Place, Targets, ticks_at
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.figures.attention_panels import (
    AttentionPanels,
    attention_panels,
    pooled,
    pooling_step,
    record_drawing,
    record_scale,
    record_title,
)
from diffmamba_interp.implicit_attention.pictures import Segment, collapse_by_span
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.spans import SPAN_CLASSES, Spans, TokenRange

MAX_CELLS = 512
"""Rows and columns of one panel; longer sequences are pooled."""

MAX_THUMBNAIL_CELLS, GAP, MAX_IN_LINE = 40, 4, 16
"""Of the heads' thumbnails: rows and columns of one, empty cells between two, and how many stand side by side."""

MAX_PANEL_TICKS, MAX_SPAN_TICKS = 16, 28


def attention_drawing(
    record: AttentionRecord,
    *,
    sample: int = 0,
    head: int | None = None,
    spans: Spans | None = None,
    window: TokenRange | None = None,
    clip_quantile: float = 1.0,
    max_cells: int = MAX_CELLS,
    title: str | None = None,
) -> Drawing:
    """Minuend, subtrahend and difference (or a plain block's weights) side by side on one symmetric scale.

    Args:
        record: what `extract_attention` made. sample: which of its samples.
        head: which of the record's heads; None shows the signed mean over them, and the title says so.
        spans: intervals to frame, by class.
        window: positions to show, half-open, both as destinations and as sources; None for all. The scale is
            that of the values shown.
        clip_quantile: the scale ends at this quantile of the non-zero magnitudes; 1 for the maximum. Colours
            follow the root of a value's size, so that a strong diagonal does not wash out the rest.
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
    step, top = pooling_step(max(n_rows, n_sources), max_cells), _first_row(panels)
    x_ticks = ticks_at(panels.labels[panels.start : panels.stop], at_most=MAX_PANEL_TICKS, first=panels.start)
    y_ticks = ticks_at([panels.labels[place] for place in panels.rows], at_most=MAX_PANEL_TICKS, first=top)
    frames = _frames(spans, panels, top) if spans else []
    x_names = _cell_names(panels.labels[panels.start : panels.stop], panels.start, step)
    y_names = _cell_names([panels.labels[place] for place in panels.rows], top, step)

    def cells(name: str, value: np.ndarray) -> HeatMap:
        return HeatMap(
            values=pooled(value, step), x=list(x_names), y=list(y_names), verb="reads", name=short_name(name)
        )

    return record_drawing(
        record,
        {name: [cells(name, value), *frames] for name, value in panels.values.items()},
        x=Axis(
            title="source position", limits=_edges(panels.start, n_sources), ticks=x_ticks, names=x_names, upright=True
        ),
        y=Axis(title="destination position", limits=_edges(top, n_rows), ticks=y_ticks, names=y_names, backwards=True),
        scale=record_scale(record, list(panels.values.values()), clip_quantile),
        title=title,
        said=panels.heads + (f", pooled {step} × {step} to the largest magnitude" if step > 1 else ""),
    )


attention_figure = as_plotly(attention_drawing)


def attention_span_drawing(
    record: AttentionRecord,
    spans: Spans,
    *,
    sample: int = 0,
    head: int | None = None,
    window: TokenRange | None = None,
    apart: Collection[int] = (),
    title: str | None = None,
) -> Drawing:
    """The record's pictures by span, side by side on one scale: sums over sources, means over destinations.

    Args:
        record: what `extract_attention` made.
        spans: where the prompt is cut; what lies between them is a segment of its own.
        sample, head, window: as in `attention_drawing`.
        apart: positions with a line of their own, as that where the answer is read.
        title: in place of one that says block, kind and what a cell is.

    Every cell is as large as any other, whatever its segments' lengths; lines of segments of which the record
    has no row are empty. The numbers are those of `collapse_by_span`. Raises its ValueErrors.
    """
    collapsed = collapse_by_span(record, spans, sample=sample, head=head, window=window, apart=apart)
    panels = attention_panels(record, sample=sample, head=head, window=window)
    values = {name: value.detach().cpu().numpy() for name, value in collapsed.values.items()}
    labels = [
        f"row {panels.labels[part.start]}" if part.start in apart else segment_label(part)
        for part in collapsed.segments
    ]
    places = [float(place) for place in range(len(labels))]
    ticks = _span_ticks(collapsed.segments, labels)

    def cells(name: str, value: np.ndarray) -> HeatMap:
        notes = [
            [f"{dest} reads {src}\n{short_name(name)}: {weight:.4g}" for src, weight in zip(labels, row, strict=True)]
            for dest, row in zip(labels, value, strict=True)
        ]
        return HeatMap(values=value, x=places, y=places, notes=notes)

    return record_drawing(
        record,
        {name: [cells(name, value)] for name, value in values.items()},
        x=Axis(title="source span", ticks=ticks, upright=True),
        y=Axis(title="destination span", ticks=ticks, backwards=True),
        scale=record_scale(record, list(values.values())),
        title=title,
        said=f"{panels.heads}: sums over sources, means over destinations",
    )


attention_span_figure = as_plotly(attention_span_drawing)


def row_bars(
    row: np.ndarray, colour: str, spans: Spans | None = None, *, labels: Sequence[str] | None = None
) -> list[Bars]:
    """A row over its sources: all bars of one colour, or one mark for each class of spans, and one for what is in none.

    labels: of every source, told when it is pointed at.
    """
    classes = np.full(len(row), "", dtype=object)
    for name in reversed(SPAN_CLASSES):
        for start, end in getattr(spans, name, ()):
            classes[start:end] = name
    by_class = {name: np.flatnonzero(classes == name) for name in ("", *SPAN_CLASSES)}
    return [
        Bars(
            name=name,
            x=places.tolist(),
            y=row[places].tolist(),
            colours=[SPANS[name].colour if name else colour] * len(places),
            notes=labels and [labels[place] for place in places.tolist()],
        )
        for name, places in by_class.items()
        if len(places)
    ]


def segment_label(segment: Segment) -> str:
    """Its class and its first and last position, as in "needle 21–27"."""
    name = segment.span_class or "other"
    last = f"–{segment.end - 1}" if segment.end - segment.start > 1 else ""
    return f"{name} {segment.start}{last}"


# ---------------------------------------------------------------- by position


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


def _first_row(panels: AttentionPanels) -> int:
    """Where the first row is drawn: chosen rows need not be evenly spaced."""
    return int(panels.rows[0]) if len(panels.rows) and (np.diff(panels.rows) == 1).all() else 0


def _cell_names(labels: Sequence[str], first: int, step: int) -> dict[float, str]:
    """The middle of every cell, which may lie between two positions, and its first and last token."""
    stretches = (labels[at : at + step] for at in range(0, len(labels), step))
    return {
        first + (step - 1) / 2 + step * place: part[0] if len(part) == 1 else f"{part[0]} … {part[-1]}"
        for place, part in enumerate(stretches)
    }


def _edges(first: int, size: int) -> tuple[float, float]:
    """The outer borders of so many cells, which the pooled ones may overlap."""
    return first - 0.5, first + size - 0.5


def _frames(spans: Spans, panels: AttentionPanels, top: int) -> list[Frame]:
    """A frame over the sources of each span of which something is seen, cut at the window; the needle's is thicker."""
    return [
        Frame(
            name=name,
            x=(max(start, panels.start) - 0.5, min(end, panels.stop) - 0.5),
            y=_edges(top, len(panels.rows)),
            colour=SPANS[name].colour,
            width=3.0 if name == "needle" else 2.0,
        )
        for name in SPAN_CLASSES
        for start, end in getattr(spans, name)
        if start < panels.stop and end > panels.start
    ]


# ---------------------------------------------------------------- by span


def _span_ticks(segments: Sequence[Segment], labels: list[str]) -> dict[Place, str]:
    """All segments, where there is room; else the needle, the last one, and as many of the others as fit."""
    places = range(len(labels))
    always = {place for place in places if segments[place].span_class == "needle" or place == len(labels) - 1}
    named = [place for place in places if segments[place].span_class not in ("", "filler", "needle")]
    for others in (list(places), named):
        if len(always | set(others)) <= MAX_SPAN_TICKS:
            return {float(place): labels[place] for place in sorted(always | set(others))}
    every = -(-len(named) // max(MAX_SPAN_TICKS - len(always), 1))
    return {float(place): labels[place] for place in sorted(always | set(named[::every]))}


def _tiles(
    record: AttentionRecord, sample: int, head: int, window: TokenRange | None
) -> dict[str, Float[np.ndarray, "cell_row cell_src"]]:
    values = attention_panels(record, sample=sample, head=head, window=window).values
    step = pooling_step(max(next(iter(values.values())).shape), MAX_THUMBNAIL_CELLS)
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
