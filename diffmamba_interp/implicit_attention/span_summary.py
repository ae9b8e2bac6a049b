"""Summary of one destination row of an attention record over the spans of its prompt.

For a differential block every measure is given for the minuend, for lambda times the subtrahend and for the
difference; for a plain block for its weights. Measures: see `spans`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.files.json_files import numbers, plain
from diffmamba_interp.implicit_attention.branch_parts import along_rows
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.implicit_attention.spans import (
    SPAN_CLASSES,
    Spans,
    attention_snr,
    branch_cosine,
    decibel,
    over_allocation_share,
    removed_share,
    span_masks,
    span_mass,
    span_share,
)

MEASURES = ("mass", "signed_mass", "share", "snr_db", "over_allocation")


@dataclass(frozen=True, kw_only=True)
class SpanSummary:
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
    position: Tensor
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
        """Plain JSON values."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        return plain(values | {"span_classes": SPAN_CLASSES})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpanSummary:
        """The inverse of `to_dict`."""
        rest = dict(values)
        classes = rest.pop("span_classes")
        if tuple(classes) != SPAN_CLASSES:
            raise ValueError(f"span_classes is {classes}: this version's are {list(SPAN_CLASSES)}.")
        for measure in MEASURES:
            rest[measure] = {name: _tensor(value) for name, value in rest[measure].items()}
        for measure in ("removed_share", "cosine"):
            rest[measure] = None if rest[measure] is None else _tensor(rest[measure])
        return cls(**rest | {"position": torch.tensor(rest["position"])})


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


def _pictures(record: AttentionRecord) -> dict[str, Tensor]:
    """The pictures that are compared: the subtrahend as it enters the difference, times lambda."""
    if not record.is_differential:
        return {"weights": record.weights}
    weight = along_rows(record.lambda_, record.subtrahend.ndim, record.row_axis)
    return {
        "minuend": record.minuend,
        "lambda_subtrahend": weight * record.subtrahend,
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


def _tensor(values: Any) -> Tensor:
    return torch.tensor(numbers(values)).float()
