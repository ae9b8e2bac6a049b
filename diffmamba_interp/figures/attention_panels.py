"""What all figures of an `AttentionRecord` share: its pictures as arrays, titles, and heat maps side by side."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from diffmamba_interp.figures.scales import MAGNITUDE_SCALE, SIGNED_SCALE, token_label
from diffmamba_interp.implicit_attention.pictures import pictures_of
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.implicit_attention.spans import Interval

UNITS = {"hidden": "weight", "contribution": "contribution", "contribution_norm": "norm"}
PANEL_NAMES = {"subtrahend": "subtrahend (without λ)"}
PANEL_GAP = 0.03
"""Space between two panels, as a share of the figure's plotting width."""

LETTER_WIDTH = 6.5
"""Of a tick's label, pixels; most letters are narrower."""


@dataclass(frozen=True, kw_only=True)
class AttentionPanels:
    """One sample's pictures as they are drawn.

    values: picture name -> [row, src], in the unit of the record's kind. rows: destination position of each row.
    start: position of the first source. labels: `position token` of every position of the sample.
    heads: what was done to the heads, in words. signed: whether values can be negative.
    """

    values: dict[str, Float[np.ndarray, "row src"]]
    rows: Int[np.ndarray, " row"]
    start: int
    labels: list[str]
    heads: str
    signed: bool

    @property
    def stop(self) -> int:
        """Behind the last source."""
        return self.start + next(iter(self.values.values())).shape[1]

    @property
    def titles(self) -> list[str]:
        return [PANEL_NAMES.get(name, name) for name in self.values]


def attention_panels(
    record: AttentionRecord, *, sample: int = 0, head: int | None = None, window: Interval | None = None
) -> AttentionPanels:
    """One sample of a record, float32; arguments and ValueErrors as in `pictures_of`."""
    pictures = pictures_of(record, sample=sample, head=head, window=window)
    return AttentionPanels(
        values={name: value.detach().cpu().numpy().astype(np.float32) for name, value in pictures.values.items()},
        rows=pictures.rows.cpu().numpy(),
        start=pictures.start,
        labels=_labels(record, sample),
        heads=_heads(record, head),
        signed=record.kind != "contribution_norm",
    )


def record_title(record: AttentionRecord, heads: str, what_else: str = "") -> str:
    """Block, kind, heads and lambda; below it, which of the honest differences is shown."""
    kind = {"hidden": "hidden attention", "contribution_norm": "contribution norm"}.get(record.kind, record.kind)
    title = f"Block {record.block}: {kind}, {heads}"
    if not record.is_differential:
        return title + what_else
    if record.lambda_.ndim == 0:
        title += f", λ = {float(record.lambda_.detach()):.3f}"
    return f"{title}{what_else}<br><sub>difference: {record.difference_means}</sub>"


def scale_end(values: Iterable[np.ndarray], quantile: float) -> float:
    """End of one colour scale for all values: a quantile of their non-zero finite magnitudes; 1 if there are none."""
    sizes = np.concatenate([np.abs(value[np.isfinite(value)]).ravel() for value in values])
    sizes = sizes[sizes > 0]
    return float(np.quantile(sizes, quantile)) if sizes.size else 1.0


def pooled(value: Float[np.ndarray, "row src"], step: int) -> Float[np.ndarray, "cell_row cell_src"]:
    """Squares of step x step cells, each by its value of largest magnitude, sign kept."""
    if step == 1:
        return value
    rows, sources = (-(-size // step) for size in value.shape)
    padded = np.zeros((rows * step, sources * step), dtype=value.dtype)
    padded[: value.shape[0], : value.shape[1]] = value
    # Rows first, in whole lines of memory: both axes at once are several times slower.
    low, high = (
        pick(pick(padded.reshape(rows, step, -1), axis=1).reshape(rows, sources, step), axis=2)
        for pick in (np.min, np.max)
    )
    return np.where(-low > high, low, high)


def ticks(labels: Sequence[str], at_most: int, *, first: int = 0) -> dict[str, Any]:
    """Labels at first, first + 1, ..., of which every 1st, 2nd, 5th, 10th, ... is shown."""
    fits = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(step for step in fits if step * at_most >= len(labels))
    return {
        "tickmode": "array",
        "tickvals": list(range(first, first + len(labels), step)),
        "ticktext": list(labels[::step]),
    }


def side_by_side(
    heat_maps: Mapping[str, Mapping[str, Any]],
    *,
    x_axis: Mapping[str, Any],
    y_axis: Mapping[str, Any],
    layout: Mapping[str, Any],
    shapes: Sequence[Mapping[str, Any]] = (),
    extra: Sequence[Mapping[str, Any]] = (),
) -> go.Figure:
    """Heat maps by title, in panels of one line that share their y axis and the scale `layout["coloraxis"]`.

    x_axis, y_axis: of every panel; ticks and title of y stand at the first. shapes: drawn in every panel, in its
    coordinates. extra: traces of the first panel.
    """
    width = (1 - PANEL_GAP * (len(heat_maps) - 1)) / len(heat_maps)
    whole: dict[str, Any] = {"annotations": [], "shapes": [], **layout}
    traces = []
    for place, (title, trace) in enumerate(heat_maps.items()):
        number = str(place + 1) if place else ""
        left = place * (width + PANEL_GAP)
        traces.append({**trace, "coloraxis": "coloraxis", "xaxis": f"x{number}", "yaxis": f"y{number}"})
        whole[f"xaxis{number}"] = {**x_axis, "anchor": f"y{number}", "domain": [left, left + width]}
        whole[f"yaxis{number}"] = {**y_axis, "anchor": f"x{number}"}
        if place:
            whole[f"yaxis{number}"] |= {"matches": "y", "showticklabels": False, "title": {}}
        whole["annotations"].append(_panel_title(title, left + width / 2))
        whole["shapes"] += [{**shape, "xref": f"x{number}", "yref": f"y{number}"} for shape in shapes]
    # In one piece: adding shapes and axes one by one would check the whole figure again each time.
    return go.Figure({"data": [*traces, *extra], "layout": whole})


def margins(x_labels: Sequence[str], y_labels: Sequence[str]) -> dict[str, float]:
    """Room for a title of two lines, upright labels below, level ones on the left and the colour bar.

    Plotly would find the room itself, by drawing everything a second time: this makes up to a third of the time
    until a figure is seen. It still does where a label is wider than is thought here.
    """
    below, left = (max((len(html.unescape(label)) for label in labels), default=0) for labels in (x_labels, y_labels))
    return {"t": 110.0, "b": 44 + LETTER_WIDTH * below, "l": 48 + LETTER_WIDTH * left, "r": 125.0}


def colour_axis(*, end: float, signed: bool, unit: str) -> dict[str, Any]:
    """From -end to end, or from 0 for values that are never negative."""
    return {
        "colorscale": SIGNED_SCALE if signed else MAGNITUDE_SCALE,
        "cmin": -end if signed else 0.0,
        "cmax": end,
        "colorbar": {"title": {"text": unit}},
    }


def _panel_title(text: str, x: float) -> dict[str, Any]:
    return {
        "text": text, "x": x, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom",
        "showarrow": False, "font": {"size": 16},
    }  # fmt: skip


def _labels(record: AttentionRecord, sample: int) -> list[str]:
    """`position token`, or the position alone."""
    length = int(record.lengths[sample])
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
