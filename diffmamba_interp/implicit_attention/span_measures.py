"""How much of a row of an attention-like picture falls on each span of its prompt.

For one row w[s] over the visible sources s <= t, and a set of sources S (the needle, the distractors, ...):

    mass_S    = sum_S |w|                                 share_S = mass_S / sum_visible |w|
    snr       = mean_needle |w| / mean_{visible, not needle} |w|            in dB: 10 log10(snr)
    over_allocation = share of the filler and the distractors
    removed_S = 1 - sum_S |w1 - lambda w2| / sum_S |w1|   negative when the subtrahend adds
    cosine    = <w1, w2> / (|w1| |w2|)                    over the visible sources

For a differential block a summary gives every measure for the minuend, for lambda times the subtrahend and for the
difference; for a plain block for its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.spans import SPAN_CLASSES, Spans
from diffmamba_interp.statistics import DB_PER_NAT


@dataclass(frozen=True, kw_only=True)
class SpanSummary(JsonRecord):
    """How one row is spread over the spans, by picture ("weights", or "minuend", "lambda_subtrahend", "difference").

    block, kind: of the record. position: the destination, [batch].
    mass: sum of |weight| per class, [batch, (head,) 4], classes in the order of `SPAN_CLASSES`; unit of the
        record. signed_mass: without the absolute value. share: of the visible sum, in [0, 1].
    snr_db: needle against all other visible tokens, dB, [batch, (head)]. over_allocation: share on filler and
        distractors, in [0, 1].
    removed_share: per class, 1 is everything and negative is added, [batch, (head,) 4]; None in a plain block.
    cosine: of the branches' rows, in [-1, 1], [batch, (head)]; None in a plain block.

    With a head axis, branches are paired by head index, which is an arbitrary pairing: the branches' heads
    have no tie to each other.
    """

    block: int
    kind: str
    position: Int[Tensor, " batch"]
    mass: Mapping[str, Tensor]
    signed_mass: Mapping[str, Tensor]
    share: Mapping[str, Tensor]
    snr_db: Mapping[str, Tensor]
    over_allocation: Mapping[str, Tensor]
    removed_share: Tensor | None
    cosine: Tensor | None

    def of_class(self, measure: Tensor, name: str) -> Tensor:
        """One class of a measure that has them on its last axis."""
        return measure[..., SPAN_CLASSES.index(name)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the names of the classes; `from_dict` gives the same summary back."""
        return super().to_dict() | {"span_classes": list(SPAN_CLASSES)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpanSummary:
        """The inverse of `to_dict`. Raises ValueError for other classes."""
        rest = dict(values)
        classes = rest.pop("span_classes")
        if tuple(classes) != SPAN_CLASSES:
            raise ValueError(f"span_classes is {classes}: this version's are {list(SPAN_CLASSES)}.")
        return super().from_dict(rest)


@checked
def summarise_spans(record: AttentionRecord, spans: Spans | Sequence[Spans], row: int = -1) -> SpanSummary:
    """Summarise the record's row number `row` (its last by default), for each sample and head.

    `spans`: one for all samples, or one per sample. The row's own position is visible; later ones are not.

    Raises ValueError for a row that the record does not have, or spans that do not fit its tokens.
    """
    n_batch, n_pos = record.tokens.shape
    n_rows = record.rows.shape[1]
    if not -n_rows <= row < n_rows:
        raise ValueError(f"row is {row}: the record has {n_rows} rows (its `rows` says which positions they are).")
    position = record.rows[:, row]
    visible = torch.arange(n_pos, device=position.device) <= position[:, None]
    masks = span_masks(spans, n_batch, n_pos).to(position.device) & visible[:, None]
    pictures = {name: value.select(record.row_axis, row) for name, value in _pictures(record).items()}
    removed = cosine = None
    if record.is_differential:
        removed = removed_share(pictures["minuend"], pictures["difference"], masks)
        # Of the subtrahend itself: lambda may be 0 or negative, and a cosine should not see that.
        cosine = branch_cosine(pictures["minuend"], record.subtrahend.select(record.row_axis, row))
    return SpanSummary(
        block=record.block,
        kind=record.kind,
        position=position,
        removed_share=removed,
        cosine=cosine,
        **_measures(pictures, masks, visible),
    )


def span_masks(spans: Spans | Sequence[Spans], n_batch: int, n_pos: int) -> Bool[Tensor, "batch span_class pos"]:
    """Masks for a batch, from one `Spans` for all samples or one per sample."""
    each = [spans] * n_batch if isinstance(spans, Spans) else list(spans)
    if len(each) != n_batch:
        raise ValueError(f"spans holds {len(each)} Spans for {n_batch} samples: give one per sample, or one for all.")
    return torch.from_numpy(np.stack([sample.masks(n_pos) for sample in each]))


def span_mass(
    weights: Float[Tensor, "batch *head src"],
    masks: Bool[Tensor, "batch span_class src"],
    *,
    signed: bool = False,
) -> Float[Tensor, "batch *head span_class"]:
    """sum_S |w| for each class S, or sum_S w if `signed`."""
    values = weights if signed else weights.abs()
    return torch.einsum("b...s,bcs->b...c", values, masks.to(values))


def span_share(
    weights: Float[Tensor, "batch *head src"],
    masks: Bool[Tensor, "batch span_class src"],
    visible: Bool[Tensor, "batch src"],
) -> Float[Tensor, "batch *head span_class"]:
    """Share of the visible sum of |w| that falls on each class; NaN where the row is all zero."""
    return span_mass(weights, masks) / span_mass(weights, visible[:, None])


def over_allocation_share(
    weights: Float[Tensor, "batch *head src"],
    masks: Bool[Tensor, "batch span_class src"],
    visible: Bool[Tensor, "batch src"],
) -> Float[Tensor, " batch *head"]:
    """Share of the visible sum of |w| on filler and distractors, in [0, 1]: the paper's over-allocation."""
    share = span_share(weights, masks, visible)
    return share[..., SPAN_CLASSES.index("filler")] + share[..., SPAN_CLASSES.index("distractors")]


@checked
def attention_snr(
    weights: Float[Tensor, "batch *head src"],
    signal: Bool[Tensor, "batch src"],
    visible: Bool[Tensor, "batch src"],
) -> Float[Tensor, " batch *head"]:
    """Mean |w| on the signal's visible tokens over mean |w| on all other visible ones; NaN without either."""
    _require_one_axis(weights=weights, signal=signal, visible=visible)
    sets = torch.stack([signal & visible, ~signal & visible], dim=1)
    counts = sets.sum(dim=-1).reshape(sets.shape[0], *[1] * (weights.ndim - 2), 2)
    means = span_mass(weights, sets) / counts
    return means[..., 0] / means[..., 1]


def decibel(ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """10 log10 of a ratio; -inf for 0."""
    return DB_PER_NAT * ratio.log()


@checked
def removed_share(
    minuend: Float[Tensor, "batch *head src"],
    difference: Float[Tensor, "batch *head src"],
    masks: Bool[Tensor, "batch span_class src"],
) -> Float[Tensor, "batch *head span_class"]:
    """1 - sum_S |difference| / sum_S |minuend| per class: what the subtraction takes away; NaN where S is empty."""
    _require_one_axis(minuend=minuend, difference=difference, masks=masks)
    return 1 - span_mass(difference, masks) / span_mass(minuend, masks)


@checked
def branch_cosine(first: Float[Tensor, "*batch d"], second: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Cosine over the last axis: of two branches' outputs, or of their rows. 0 where one is zero."""
    _require_one_axis(first=first, second=second)
    return torch.nn.functional.cosine_similarity(first, second, dim=-1)


def _pictures(record: AttentionRecord) -> dict[str, Tensor]:
    """The pictures that are compared: the subtrahend as it enters the difference, times lambda."""
    if not record.is_differential:
        return {"weights": record.weights}
    return {
        "minuend": record.minuend,
        "lambda_subtrahend": record.lambda_subtrahend,
        "difference": record.difference,
    }


def _measures(
    pictures: dict[str, Tensor], masks: Bool[Tensor, "batch span_class src"], visible: Bool[Tensor, "batch src"]
) -> dict[str, dict[str, Tensor]]:
    needle = masks[:, SPAN_CLASSES.index("needle")]
    return {
        "mass": {name: span_mass(value, masks) for name, value in pictures.items()},
        "signed_mass": {name: span_mass(value, masks, signed=True) for name, value in pictures.items()},
        "share": {name: span_share(value, masks, visible) for name, value in pictures.items()},
        "snr_db": {name: decibel(attention_snr(value, needle, visible)) for name, value in pictures.items()},
        "over_allocation": {name: over_allocation_share(value, masks, visible) for name, value in pictures.items()},
    }


def _require_one_axis(**tensors: Tensor) -> None:
    """Raise ValueError unless all are of the same samples and, along the last axis, of the same sources."""
    if len({(tensor.shape[:1], tensor.shape[-1:]) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} has shape {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{shapes}: the first axis (samples) and the last must be the same.")
