"""One sample of a record as plain matrices: without padding, heads chosen or averaged, cut to a window.

A long one by span instead of by token: what one stretch of the prompt reads from another. With a prompt cut into
stretches where its spans begin and end, for destinations D and sources S,

    cell[D, S] = mean_{t in D} sum_{s in S} w[t, s]

so that a line of cells adds up to what the stretch's destinations read on average.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.spans import SPAN_CLASSES, Spans, TokenRange


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """values: picture name -> [row, src], in the unit of the record's kind; names as in `AttentionRecord.pictures`.

    rows: destination position of each row. start: position of the first source; the others follow it.
    """

    values: Mapping[str, Float[Tensor, "row src"]]
    rows: Int[Tensor, " row"]
    start: int


def pictures_of(
    record: AttentionRecord, *, sample: int = 0, head: int | None = None, window: TokenRange | None = None
) -> Pictures:
    """The record's pictures of one sample and one head.

    Args:
        record: what `extract_attention` made. sample: which of its samples.
        head: which of the record's heads; None for the signed mean over them.
        window: positions to keep, half-open, both as destinations and as sources; None for all.

    Raises ValueError for a sample or head that the record does not have, and for a window beyond the sample or
    without a row of the record.
    """
    n_batch = record.tokens.shape[0]
    if not 0 <= sample < n_batch:
        raise ValueError(f"sample is {sample}: the record has samples 0 to {n_batch - 1}.")
    if head is not None and (not record.per_head or head not in record.heads):
        have = f"heads {list(record.heads)}" if record.per_head else "no head axis"
        raise ValueError(f"head is {head}: the record has {have}.")
    length = int(record.lengths[sample])
    start, end = _inside(window, length)
    rows = record.rows[sample]
    shown = (rows >= start) & (rows < end)
    if window is not None and not bool(shown.any()):
        raise ValueError(f"window is ({start}, {end}), but the record has no row there: see its `rows`.")
    chosen = record if head is None else _of_head(record, record.heads.index(head))
    values = {
        name: (picture[sample].mean(dim=0) if record.per_head else picture[sample])[shown, start:end]
        for name, picture in chosen.pictures.items()
    }
    return Pictures(values=values, rows=rows[shown], start=start)


class Segment(NamedTuple):
    """The positions start to end - 1. span_class: of `SPAN_CLASSES`; empty where no span lies."""

    span_class: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class CollapsedPictures:
    """segments: the stretches, in order. values: picture name -> [dest_segment, src_segment], in the unit of the
    record's kind; NaN in the lines of segments of which the record has no row."""

    segments: tuple[Segment, ...]
    values: Mapping[str, Float[Tensor, "dest_segment src_segment"]]


def segments(spans: Spans, start: int, end: int, apart: Collection[int] = ()) -> tuple[Segment, ...]:
    """The positions start to end - 1, cut where a span begins or ends; neighbours of one class stay together.

    apart: positions that are segments of their own.

    Raises ValueError unless 0 <= start < end.
    """
    if not 0 <= start < end:
        raise ValueError(f"the positions are {start} to {end}: give a half-open interval, 0 <= start < end.")
    owner = {place: name for name in SPAN_CLASSES for a, b in getattr(spans, name) for place in range(a, b)}
    names = [owner.get(place, "") for place in range(start, end)]
    cut = {place - start for position in apart for place in (position, position + 1)}
    starts = [place for place in range(len(names)) if place == 0 or names[place] != names[place - 1] or place in cut]
    ends = [*starts[1:], len(names)]
    return tuple(Segment(names[a], start + a, start + b) for a, b in zip(starts, ends, strict=True))


def collapse(
    picture: Float[Tensor, "row src"], rows: Int[Tensor, " row"], cut: Sequence[Segment], *, first: int = 0
) -> Float[Tensor, "dest_segment src_segment"]:
    """Summed over a segment's sources, the mean over its destinations; NaN for a segment without rows.

    rows: destination position of each row. first: position of the first source. Raises ValueError for a segment
    beyond the sources.
    """
    outside = [segment for segment in cut if segment.start < first or segment.end > first + picture.shape[1]]
    if outside:
        raise ValueError(
            f"{outside[0]} lies outside of the sources, which are {first} to {first + picture.shape[1] - 1}: cut the "
            "same window that the picture shows."
        )
    by_source = torch.stack([picture[:, part.start - first : part.end - first].sum(dim=1) for part in cut], dim=1)
    inside = torch.stack([(rows >= part.start) & (rows < part.end) for part in cut]).to(by_source)
    return (inside @ by_source) / inside.sum(dim=1, keepdim=True)


def collapse_by_span(
    record: AttentionRecord,
    spans: Spans,
    *,
    sample: int = 0,
    head: int | None = None,
    window: TokenRange | None = None,
    apart: Collection[int] = (),
) -> CollapsedPictures:
    """Every picture of the record by span; sample, head and window as in `pictures_of`, and its ValueErrors.

    apart: positions that are segments of their own.
    """
    pictures = pictures_of(record, sample=sample, head=head, window=window)
    n_sources = next(iter(pictures.values.values())).shape[1]
    cut = segments(spans, pictures.start, pictures.start + n_sources, apart)
    values = {
        name: collapse(value, pictures.rows, cut, first=pictures.start) for name, value in pictures.values.items()
    }
    return CollapsedPictures(segments=cut, values=values)


def _of_head(record: AttentionRecord, place: int) -> AttentionRecord:
    """The record of one of its heads: its difference then costs nothing for the others."""
    parts = tuple(part[:, place : place + 1] for part in record.parts)
    return replace(record, parts=parts, heads=(record.heads[place],))


def _inside(window: TokenRange | None, length: int) -> TokenRange:
    if window is None:
        return 0, length
    start, end = window
    if not 0 <= start < end <= length:
        raise ValueError(
            f"window is ({start}, {end}): it must be half-open and lie in the sample, 0 <= start < end <= {length}."
        )
    return start, end
