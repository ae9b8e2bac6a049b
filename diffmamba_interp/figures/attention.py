"""Figures of an `AttentionRecord`: its pictures side by side on one scale, and one row of them over the sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from diffmamba_interp.figures.scales import MAGNITUDE_SCALE, SIGNED_SCALE, SPAN_COLOURS, token_label
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.implicit_attention.spans import SPAN_CLASSES, Spans

MAX_CELLS = 512
"""Rows and columns of one panel; longer sequences are pooled."""

MAX_PANEL_TICKS = 16
MAX_ROW_TICKS = 40
UNITS = {"hidden": "weight", "contribution": "contribution", "contribution_norm": "norm"}
PANEL_NAMES = {"subtrahend": "subtrahend (without λ)"}


@dataclass(frozen=True, kw_only=True)
class _Panels:
    """What is drawn: panel name -> [row, src], the positions of both, and what was done to the heads."""

    values: dict[str, np.ndarray]
    rows: np.ndarray
    labels: list[str]
    heads: str
    signed: bool

    def limit(self, clip_quantile: float) -> float:
        """End of the colour scale, one for all panels."""
        sizes = np.concatenate([np.abs(value[np.isfinite(value)]).ravel() for value in self.values.values()])
        sizes = sizes[sizes > 0]
        return float(np.quantile(sizes, clip_quantile)) if sizes.size else 1.0


def attention_figure(
    record: AttentionRecord,
    *,
    sample: int = 0,
    head: int | None = None,
    spans: Spans | None = None,
    clip_quantile: float = 0.99,
    max_cells: int = MAX_CELLS,
    title: str | None = None,
) -> go.Figure:
    """Minuend, subtrahend and difference (or a plain block's weights) side by side on one symmetric scale.

    Args:
        record: what `extract_attention` made. sample: which of its samples.
        head: which of the record's heads; None shows the signed mean over them, and the title says so.
        spans: intervals to frame, by class.
        clip_quantile: the scale ends at this quantile of the non-zero magnitudes, so that a strong diagonal
            does not wash out the rest; 1 for the maximum.
        max_cells: beyond so many rows or columns, squares are pooled to their value of largest magnitude,
            sign kept.
        title: in place of one that says block, kind and what the difference is.

    Raises ValueError for a sample or head that the record does not have.
    """
    panels = _panels(record, sample, head)
    if not 0 < clip_quantile <= 1:
        raise ValueError(f"clip_quantile is {clip_quantile}: it must lie in (0, 1].")
    limit = panels.limit(clip_quantile)
    step = max(1, -(-max(len(panels.rows), len(panels.labels)) // max_cells))
    titles = [PANEL_NAMES.get(name, name) for name in panels.values]
    figure = make_subplots(cols=len(titles), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    for column, value in enumerate(panels.values.values(), start=1):
        figure.add_trace(_heat_map(value, step), row=1, col=column)
    figure.update_xaxes(title_text="source position", **_ticks(panels.labels, MAX_PANEL_TICKS))
    dest_labels = [panels.labels[position] for position in panels.rows]
    figure.update_yaxes(autorange="reversed", **_ticks(dest_labels, MAX_PANEL_TICKS))
    figure.update_yaxes(title_text="destination position", col=1)
    if spans is not None:
        _frame_spans(figure, spans, panels, n_panels=len(titles))
    pooled = f", pooled {step} × {step} to the largest magnitude" if step > 1 else ""
    figure.update_layout(
        title_text=title or _title(record, panels, pooled),
        margin={"t": 110},
        coloraxis={
            "colorscale": SIGNED_SCALE if panels.signed else MAGNITUDE_SCALE,
            "cmin": -limit if panels.signed else 0.0,
            "cmax": limit,
            "colorbar": {"title": {"text": UNITS[record.kind]}},
        },
    )
    return figure


def attention_row_figure(
    record: AttentionRecord, *, row: int = -1, sample: int = 0, head: int | None = None, title: str | None = None
) -> go.Figure:
    """One destination's row as bars over the sources, one panel per picture, all on one scale.

    `row` counts the record's rows (its `rows` says which positions they are); the rest as in `attention_figure`.
    """
    panels = _panels(record, sample, head)
    if not -len(panels.rows) <= row < len(panels.rows):
        raise ValueError(f"row is {row}: the record has {len(panels.rows)} rows in use.")
    titles = [PANEL_NAMES.get(name, name) for name in panels.values]
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
    figure.update_xaxes(**_ticks(panels.labels[:visible], MAX_ROW_TICKS))
    figure.update_xaxes(title_text="source position", row=len(titles))
    read = f", read at position {panels.labels[panels.rows[row]]}"
    figure.update_layout(title_text=title or _title(record, panels, read), margin={"t": 110}, bargap=0.1)
    return figure


def _panels(record: AttentionRecord, sample: int, head: int | None) -> _Panels:
    """One sample's pictures without padding, with the heads chosen or averaged."""
    n_batch = record.tokens.shape[0]
    if not 0 <= sample < n_batch:
        raise ValueError(f"sample is {sample}: the record has samples 0 to {n_batch - 1}.")
    if head is not None and (not record.per_head or head not in record.heads):
        have = f"heads {list(record.heads)}" if record.per_head else "no head axis"
        raise ValueError(f"head is {head}: the record has {have}.")
    arrays = record.to_numpy()
    length = int(arrays["lengths"][sample])
    rows = arrays["rows"][sample]
    in_use = rows < length
    values = {}
    for name in record.pictures:
        value = arrays[name][sample]
        if record.per_head:
            value = value.mean(axis=0) if head is None else value[record.heads.index(head)]
        values[name] = value[in_use, :length].astype(np.float32)
    return _Panels(
        values=values,
        rows=rows[in_use],
        labels=_labels(record, sample, length),
        heads=_heads(record, head),
        signed=record.kind != "contribution_norm",
    )


def _labels(record: AttentionRecord, sample: int, length: int) -> list[str]:
    """`position token`, or the position alone."""
    if record.token_strings is None:
        return [str(position) for position in range(length)]
    return [f"{at} {token_label(text)}" for at, text in enumerate(record.token_strings[sample][:length])]


def _heads(record: AttentionRecord, head: int | None) -> str:
    if head is not None:
        return f"head {head}"
    n_heads = len(record.heads)
    if record.per_head:
        return f"mean of {n_heads} heads"
    if record.kind == "hidden":
        return f"{record.reduce} over {n_heads} heads"
    return f"{n_heads} heads together"


def _title(record: AttentionRecord, panels: _Panels, what_else: str) -> str:
    """Block, kind, heads and lambda; below it, which of the honest differences is shown."""
    kind = {"hidden": "hidden attention", "contribution_norm": "contribution norm"}.get(record.kind, record.kind)
    title = f"Block {record.block}: {kind}, {panels.heads}"
    if record.is_differential:
        lambda_ = record.lambda_
        if lambda_.ndim == 0:
            title += f", λ = {float(lambda_.detach()):.3f}"
        return f"{title}{what_else}<br><sub>difference: {record.difference_means}</sub>"
    return title + what_else


def _heat_map(value: np.ndarray, step: int) -> go.Heatmap:
    # The destinations are drawn at 0, 1, 2, ...: chosen rows need not be evenly spaced.
    return go.Heatmap(
        z=_pool(value, step),
        x0=(step - 1) / 2,
        dx=step,
        y0=(step - 1) / 2,
        dy=step,
        coloraxis="coloraxis",
        hovertemplate="source %{x}<br>destination %{y}<br>%{z:.4g}<extra></extra>",
    )


def _pool(value: np.ndarray, step: int) -> np.ndarray:
    """Squares of step x step cells, each by its value of largest magnitude."""
    if step == 1:
        return value
    rows, sources = (-(-size // step) for size in value.shape)
    padded = np.zeros((rows * step, sources * step), dtype=value.dtype)
    padded[: value.shape[0], : value.shape[1]] = value
    cells = padded.reshape(rows, step, sources, step).swapaxes(1, 2).reshape(rows, sources, step * step)
    largest = np.abs(cells).argmax(axis=-1)
    return np.take_along_axis(cells, largest[..., None], axis=-1)[..., 0]


def _ticks(labels: Sequence[str], at_most: int) -> dict[str, object]:
    """Labels at 0, 1, 2, ..., of which every 1st, 2nd, 5th, 10th, ... is shown."""
    fits = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(step for step in fits if step * at_most >= len(labels))
    return {
        "tickmode": "array",
        "tickvals": list(range(0, len(labels), step)),
        "ticktext": list(labels[::step]),
    }


def _frame_spans(figure: go.Figure, spans: Spans, panels: _Panels, n_panels: int) -> None:
    """A frame over the sources of each span in every panel, and one legend entry per class."""
    for name in SPAN_CLASSES:
        intervals = getattr(spans, name)
        for start, end in intervals:
            for column in range(1, n_panels + 1):
                figure.add_shape(
                    type="rect",
                    x0=start - 0.5,
                    x1=end - 0.5,
                    y0=-0.5,
                    y1=len(panels.rows) - 0.5,
                    line={"color": SPAN_COLOURS[name], "width": 2},
                    row=1,
                    col=column,
                )
        if intervals:
            swatch = {"color": SPAN_COLOURS[name], "symbol": "square", "size": 12}
            figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=swatch, name=name), row=1, col=1)
    figure.update_layout(legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 0.99, "yref": "container"})
