"""What all figures of an `AttentionRecord` share: its pictures as arrays, titles, scales, and large pictures pooled;
and as CSV text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffmamba_interp.drawing.colours import MAGNITUDE, SIGNED, short_name
from diffmamba_interp.drawing.labels import token_label
from diffmamba_interp.drawing.panels import Axis, ColourScale, Drawing, Mark, Panel, scale_end, symmetric
from diffmamba_interp.files.table_text import csv_text, quoted
from diffmamba_interp.implicit_attention.pictures import pictures_of
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.spans import TokenRange

UNITS = {"hidden": "weight", "contribution": "contribution", "contribution_norm": "norm", "softmax": "weight"}
NAMES = {"hidden": "hidden attention", "contribution_norm": "contribution norm", "softmax": "differential attention"}

SHARE_SHOWN = 0.99
"""CircuitsVis' scale, which is even, ends at this quantile of the non-zero magnitudes, so that a strong diagonal does
not wash out the rest."""


@dataclass(frozen=True, kw_only=True)
class AttentionPanels:
    """One sample's pictures as they are drawn.

    values: picture name -> [row, src], in the unit of the record's kind. rows: destination position of each row.
    start: position of the first source. labels: `position token` of every position of the sample.
    heads: what was done to the heads, in words. record: what they are of.
    """

    values: dict[str, Float[np.ndarray, "row src"]]
    rows: Int[np.ndarray, " row"]
    start: int
    labels: list[str]
    heads: str
    record: AttentionRecord

    @property
    def stop(self) -> int:
        """Behind the last source."""
        return self.start + next(iter(self.values.values())).shape[1]


def attention_panels(
    record: AttentionRecord, *, sample: int = 0, head: int | None = None, window: TokenRange | None = None
) -> AttentionPanels:
    """One sample of a record, float32; arguments and ValueErrors as in `pictures_of`."""
    pictures = pictures_of(record, sample=sample, head=head, window=window)
    return AttentionPanels(
        values={name: value.detach().cpu().numpy().astype(np.float32) for name, value in pictures.values.items()},
        rows=pictures.rows.cpu().numpy(),
        start=pictures.start,
        labels=_labels(record, sample),
        heads=_heads(record, head),
        record=record,
    )


def record_drawing(
    record: AttentionRecord,
    marks: Mapping[str, Sequence[Mark]],
    *,
    x: Axis,
    y: Axis,
    title: str | None,
    said: str,
    scale: ColourScale | None = None,
    columns: int = 3,
) -> Drawing:
    """A panel for each picture's marks, in the order in which pictures are shown; title: in place of `record_title`."""
    heading, means = record_title(record, said)
    return Drawing(
        title=title or heading,
        subtitle="" if title else means,
        x=x,
        y=y,
        scale=scale,
        panels=[Panel(title=short_name(name), marks=marks[name]) for name in record.pictures],
        columns=columns,
    )


def record_title(record: AttentionRecord, said: str) -> tuple[str, str]:
    """Block, kind, lambda and what is `said`; below it, which of the honest differences is shown."""
    kind = NAMES.get(record.kind, record.kind)
    title = f"Block {record.block}: {kind}, {said}"
    if not record.is_differential:
        return title, ""
    if record.lambda_.ndim == 0:
        title += f", λ = {float(record.lambda_.detach()):.3f}"
    # What more there is to say has no room in a line.
    return title, f"difference: {record.difference_means.partition(';')[0]}"


def record_scale(record: AttentionRecord, values: Sequence[np.ndarray], quantile: float = 1.0) -> ColourScale:
    """One colour scale for all values: from -end to end, or from 0 for values that are never negative.

    Colours follow the root of a value's size: beside a strong diagonal or first token the rest is seen, and the strong
    ones are told apart. Where values lie beyond its end, the end's label says so.
    """
    if record.kind != "contribution_norm":
        scale = symmetric(UNITS[record.kind], values, quantile, rooted=True)
    else:
        end = scale_end(values, quantile)
        scale = ColourScale(title=UNITS[record.kind], low=0.0, high=end, colours=MAGNITUDE, rooted=True)
    if scale_end(values) <= scale.high * (1 + 1e-6):
        return scale
    below = {scale.low: f"≤ −{scale.high:.3g}"} if scale.low else {}
    return replace(scale, ticks={**below, 0.0: "0", scale.high: f"≥ {scale.high:.3g}"})


def pooling_step(n_positions: int, max_cells: int) -> int:
    """Rows and columns that one cell stands for, so that there are at most `max_cells` of them."""
    return max(1, -(-n_positions // max_cells))


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


def circuitsvis_heads(record: AttentionRecord, *, sample: int = 0) -> dict[str, Any]:
    """What `circuitsvis.attention.attention_heads` takes: a record of the whole prompt, every picture of every head.

        from circuitsvis.attention import attention_heads
        attention_heads(**circuitsvis_heads(record))

    Values keep their sign, in the colours of our own figures. `token_strings` of the record become the labels. In a
    notebook that library looks for the net first; `.local_src` of what it returns is the page without it.

    Raises IndexError for a sample that there is not, ValueError for a record of some rows.
    """
    arrays = record.to_numpy()
    if not 0 <= sample < len(arrays["tokens"]):
        raise IndexError(f"sample is {sample}, but the record holds {len(arrays['tokens'])}.")
    length = int(arrays["lengths"][sample])
    if arrays["rows"].shape[1] < length or (arrays["rows"][sample][:length] != np.arange(length)).any():
        raise ValueError(
            "the record holds some rows, and CircuitsVis draws all of a prompt: extract it with rows=None."
        )
    heads = [f"head {head}" for head in record.heads] if record.per_head else [_heads(record, None)]
    named: dict[str, np.ndarray] = {}
    for picture in record.pictures:
        of_heads = arrays[picture][sample] if record.per_head else arrays[picture][sample][None]
        named |= {f"{short_name(picture)}, {head}": of_heads[i, :length, :length] for i, head in enumerate(heads)}
    end = scale_end(list(named.values()), SHARE_SHOWN)
    texts = record.token_strings[sample] if record.token_strings is not None else map(str, arrays["tokens"][sample])
    return {
        "attention": np.stack(list(named.values())),
        "tokens": list(texts)[:length],
        "attention_head_names": list(named),
        "max_value": end,
        "min_value": -end,
        "negative_color": SIGNED[0],
        "positive_color": SIGNED[-1],
        "mask_upper_tri": True,
    }


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
    if record.kind in ("hidden", "softmax"):
        return f"{record.reduce} over {n_heads} heads"
    return f"{n_heads} heads together"


def attention_csv(record: AttentionRecord, *, sample: int = 0) -> str:
    """Columns head (if the heads are apart), dest_pos, src_pos, their tokens, and one per picture.

    Sources behind their destination are left out: nothing reads them. Raises IndexError for a sample that the
    record does not have.
    """
    arrays = record.to_numpy()
    if not 0 <= sample < len(arrays["tokens"]):
        raise IndexError(f"sample is {sample}, but the record holds {len(arrays['tokens'])}.")
    tokens, length = arrays["tokens"][sample], int(arrays["lengths"][sample])
    texts = record.token_strings[sample] if record.token_strings is not None else [str(token) for token in tokens]
    shown = [quoted(text) for text in texts]
    dest = arrays["rows"][sample]
    row, src = np.nonzero((np.arange(length) <= dest[:, None]) & (dest < length)[:, None])
    places = [[int(d), int(s), shown[d], shown[s]] for d, s in zip(dest[row], src, strict=True)]
    names = ("minuend", "subtrahend", "lambda_subtrahend", "difference") if record.is_differential else ("weights",)
    pictures = {name: arrays[name][sample] for name in names}
    header = ["dest_pos", "src_pos", "dest_token", "src_token", *pictures]
    if not record.per_head:
        columns = [picture[row, src].tolist() for picture in pictures.values()]
        return csv_text(header, ([*place, *values] for place, *values in zip(places, *columns, strict=True)))
    lines = (
        [head, *place, *values]
        for index, head in enumerate(record.heads)
        for place, *values in zip(places, *(p[index][row, src].tolist() for p in pictures.values()), strict=True)
    )
    return csv_text(["head", *header], lines)
