"""An attention record as figures: cut to a window, collapsed by span, every head small."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from diffmamba_interp.figures.attention import PANEL_NAMES, UNITS, attention_figure
from diffmamba_interp.figures.scales import MAGNITUDE_SCALE, SIGNED_SCALE, token_label
from diffmamba_interp.implicit_attention.record import AttentionRecord

Segment = tuple[str, int, int]

THUMBNAIL_CELLS, GAP = 40, 4
MAX_IN_LINE = 16
MAX_TICKS = 14


def cut_to_window(figure: go.Figure, strings: Sequence[str], first: int, last: int) -> None:
    """Leave the sources `first` to `last` of a picture whose rows are those positions, and label them."""
    for trace in figure.data:
        if trace.type == "heatmap":
            start, stop = first // trace.dx, last // trace.dx + 1
            trace.z = np.ascontiguousarray(trace.z[:, start:stop])
            trace.x0 = start * trace.dx + (trace.dx - 1) / 2
    n_shown = last - first + 1
    places = range(first, last + 1, -(-n_shown // MAX_TICKS))
    figure.update_xaxes(
        range=[first - 0.5, last + 0.5], tickmode="array", tickvals=list(places),
        ticktext=[f"{place} {token_label(strings[place])}" for place in places],
    )  # fmt: skip


def collapsed(picture: np.ndarray, rows: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """[segment, segment] of a picture [row, src]: summed over a segment's sources, the mean over its destinations.

    A segment without rows is NaN.
    """
    by_source = np.stack([picture[:, start:end].sum(axis=1) for _, start, end in segments], axis=1)
    inside = [(rows >= start) & (rows < end) for _, start, end in segments]
    nothing = np.full(len(segments), np.nan, dtype=picture.dtype)
    return np.stack([by_source[chosen].mean(axis=0) if chosen.any() else nothing for chosen in inside])


def collapsed_figure(pictures: dict[str, np.ndarray], segments: Sequence[Segment], *, title: str) -> go.Figure:
    """Collapsed pictures side by side on one scale."""
    names = [PANEL_NAMES.get(name, name) for name in pictures]
    figure = make_subplots(cols=len(names), subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.03)
    labels = [segment_label(segment) for segment in segments]
    values = np.concatenate([np.abs(value[np.isfinite(value)]) for value in pictures.values()])
    limit = float(np.quantile(values, 0.99)) if values.size else 1.0
    signed = any(bool((value < 0).any()) for value in pictures.values())
    for column, value in enumerate(pictures.values(), start=1):
        trace = go.Heatmap(
            z=value, x=list(range(len(labels))), y=list(range(len(labels))), coloraxis="coloraxis",
            customdata=[[f"{dest} reads {src}" for src in labels] for dest in labels],
            hovertemplate="%{customdata}<br>%{z:.4g}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(trace, row=1, col=column)
    named = [place for place, (name, _, _) in enumerate(segments) if name not in ("", "filler")]
    named = named[:: -(-len(named) // MAX_TICKS)] if named else list(range(len(labels)))[::8]
    ticks = {"tickmode": "array", "tickvals": named, "ticktext": [labels[place] for place in named]}
    figure.update_xaxes(title_text="source span", tickangle=90, **ticks)
    figure.update_yaxes(autorange="reversed", **ticks)
    figure.update_yaxes(title_text="destination span", col=1)
    scale = {"colorscale": SIGNED_SCALE if signed else MAGNITUDE_SCALE, "cmin": -limit if signed else 0, "cmax": limit}
    figure.update_layout(title_text=html.escape(title), margin={"t": 90}, coloraxis=scale)
    return figure


def of_head(record: AttentionRecord, place: int) -> AttentionRecord:
    """The record of one of its heads, without work on the others."""
    parts = tuple(part[:, place : place + 1] for part in record.parts)
    return replace(record, parts=parts, heads=(record.heads[place],))


def segment_label(segment: Segment) -> str:
    name, start, end = segment
    return f"{name or 'other'} {start}" + (f"–{end - 1}" if end - start > 1 else "")


def thumbnails_figure(record: AttentionRecord, *, title: str) -> go.Figure:
    """Every head's pictures small, one column per head and one line per picture, on one scale.

    Each column holds a point that can be clicked: its custom data is the head's number.
    """
    names = list(record.pictures)
    small = [attention_figure(of_head(record, place), max_cells=THUMBNAIL_CELLS) for place in range(len(record.heads))]
    tiles = [[np.asarray(figure.data[place].z, dtype=np.float32) for figure in small] for place in range(len(names))]
    height, width = np.array(tiles[0][0].shape) + GAP
    n_lines = -(-len(small) // MAX_IN_LINE) * len(names)
    canvas = np.full((n_lines * height, min(len(small), MAX_IN_LINE) * width), np.nan, dtype=np.float32)
    centres = []
    for place, line in enumerate(tiles):
        for number, tile in enumerate(line):
            row, column = number // MAX_IN_LINE * len(names) + place, number % MAX_IN_LINE
            top, left = row * height, column * width
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            centres.append((left + width / 2, top + height / 2, record.heads[number], names[place]))
    limit = float(np.nanquantile(np.abs(canvas[canvas != 0]), 0.99)) if np.nan_to_num(canvas).any() else 1.0
    scale = {"colorscale": SIGNED_SCALE, "zmin": -limit, "zmax": limit, "colorbar_title": UNITS[record.kind]}
    figure = go.Figure(go.Heatmap(z=canvas, hoverinfo="skip", **scale))
    x, y, heads, lines = zip(*centres, strict=True)
    figure.add_scatter(
        x=x, y=y, mode="markers", marker={"opacity": 0, "size": 30}, selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}}, customdata=list(zip(heads, lines, strict=True)), showlegend=False,
        hovertemplate="head %{customdata[0]}, %{customdata[1]}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(
        autorange="reversed", showgrid=False, zeroline=False, ticks="",
        tickvals=[(line + 0.5) * height for line in range(n_lines)],
        ticktext=[PANEL_NAMES.get(name, name) for name in names] * (n_lines // len(names)),
    )  # fmt: skip
    figure.update_xaxes(
        showgrid=False, zeroline=False, side="top", ticks="",
        tickvals=[(column + 0.5) * width for column in range(min(len(small), MAX_IN_LINE))],
        ticktext=[str(head) for head in record.heads[:MAX_IN_LINE]],
    )  # fmt: skip
    figure.update_layout(title_text=html.escape(title), margin={"t": 90}, hoverdistance=-1)
    return figure
