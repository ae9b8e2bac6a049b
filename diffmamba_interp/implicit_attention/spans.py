"""Spans of a prompt and how much of a row of an attention-like picture falls on each of them.

For one row w[s] over the visible sources s <= t, and a set of sources S (the needle, the distractors, ...):

    mass_S    = sum_S |w|                                 share_S = mass_S / sum_visible |w|
    snr       = mean_needle |w| / mean_{visible, not needle} |w|            in dB: 10 log10(snr)
    over_allocation = share of the filler and the distractors
    removed_S = 1 - sum_S |w1 - lambda w2| / sum_S |w1|   negative when the subtrahend adds
    cosine    = <w1, w2> / (|w1| |w2|)                    over the visible sources
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffmamba_interp.argument_checks import checked, checked_fields
from diffmamba_interp.statistics import DB_PER_NAT

Interval = tuple[int, int]
SPAN_CLASSES = ("needle", "question", "distractors", "filler")


@checked_fields
@dataclass(frozen=True, kw_only=True)
class Spans:
    """Token intervals of one prompt, each half-open: (start, end) holds start to end - 1.

    needle: the fact to find. question: the question. distractors: competing facts. filler: the rest of the
    haystack. A position may belong to one class only; those in none count as visible and as nothing else.
    """

    needle: tuple[Interval, ...] = ()
    question: tuple[Interval, ...] = ()
    distractors: tuple[Interval, ...] = ()
    filler: tuple[Interval, ...] = ()

    def __post_init__(self) -> None:
        owners: dict[int, str] = {}
        for name in SPAN_CLASSES:
            for start, end in getattr(self, name):
                if not 0 <= start < end:
                    raise ValueError(
                        f"{name} has the interval ({start}, {end}): it must be half-open and hold at least one "
                        "position, 0 <= start < end."
                    )
                for position in range(start, end):
                    owner = owners.setdefault(position, name)
                    if owner != name:
                        raise ValueError(
                            f"position {position} is in {owner} and in {name}: a position may be in one class only."
                        )

    def masks(self, n_pos: int) -> Bool[Tensor, "span_class pos"]:
        """One row per class of `SPAN_CLASSES`. Raises ValueError for an interval beyond `n_pos`."""
        masks = torch.zeros(len(SPAN_CLASSES), n_pos, dtype=torch.bool)
        for row, name in enumerate(SPAN_CLASSES):
            for start, end in getattr(self, name):
                if end > n_pos:
                    raise ValueError(f"{name} has the interval ({start}, {end}), but there are {n_pos} positions.")
                masks[row, start:end] = True
        return masks

    def to_dict(self) -> dict[str, list[list[int]]]:
        """Plain JSON values."""
        return {name: [list(interval) for interval in getattr(self, name)] for name in SPAN_CLASSES}

    @classmethod
    def from_dict(cls, values: dict[str, list[list[int]]]) -> Spans:
        """The inverse of `to_dict`. Raises ValueError on unknown classes."""
        unknown = sorted(set(values) - set(SPAN_CLASSES))
        if unknown:
            raise ValueError(f"unknown span classes: {', '.join(unknown)}. Known: {', '.join(SPAN_CLASSES)}.")
        return cls(**{name: tuple((int(a), int(b)) for a, b in intervals) for name, intervals in values.items()})


def disjoint_spans(pieces: Mapping[str, Sequence[Interval]]) -> Spans:
    """Spans of intervals that may overlap or be empty: a position goes to the first of `SPAN_CLASSES` that holds it.

    Neighbours stay apart, and what overlaps nothing stays as it is. Raises ValueError for an unknown class.
    """
    unknown = sorted(set(pieces) - set(SPAN_CLASSES))
    if unknown:
        raise ValueError(f"unknown span classes: {', '.join(unknown)}. Known: {', '.join(SPAN_CLASSES)}.")
    taken: set[int] = set()
    kept: dict[str, tuple[Interval, ...]] = {}
    for name in SPAN_CLASSES:
        found: list[Interval] = []
        for start, end in pieces.get(name, ()):
            free = list(_stretches([place for place in range(start, end) if place not in taken]))
            taken.update(range(start, end))
            found += free
        kept[name] = tuple(found)
    return Spans(**kept)


def _stretches(places: Sequence[int]) -> Iterator[Interval]:
    """Ascending positions as intervals without a gap."""
    start = 0
    for index in range(1, len(places) + 1):
        if index == len(places) or places[index] != places[index - 1] + 1:
            yield places[start], places[index - 1] + 1
            start = index


def span_masks(spans: Spans | Sequence[Spans], n_batch: int, n_pos: int) -> Bool[Tensor, "batch span_class pos"]:
    """Masks for a batch, from one `Spans` for all samples or one per sample."""
    each = [spans] * n_batch if isinstance(spans, Spans) else list(spans)
    if len(each) != n_batch:
        raise ValueError(f"spans holds {len(each)} Spans for {n_batch} samples: give one per sample, or one for all.")
    return torch.stack([one.masks(n_pos) for one in each])


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
) -> Float[Tensor, batch * head]:
    """Share of the visible sum of |w| on filler and distractors, in [0, 1]: the paper's over-allocation."""
    share = span_share(weights, masks, visible)
    return share[..., SPAN_CLASSES.index("filler")] + share[..., SPAN_CLASSES.index("distractors")]


@checked
def attention_snr(
    weights: Float[Tensor, "batch *head src"],
    signal: Bool[Tensor, "batch src"],
    visible: Bool[Tensor, "batch src"],
) -> Float[Tensor, batch * head]:
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


def _require_one_axis(**tensors: Tensor) -> None:
    """Raise ValueError unless all are of the same samples and, along the last axis, of the same sources."""
    if len({(tensor.shape[:1], tensor.shape[-1:]) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} has shape {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{shapes}: the first axis (samples) and the last must be the same.")
