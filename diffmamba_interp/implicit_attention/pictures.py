"""One sample of a record as plain matrices: without padding, heads chosen or averaged, cut to a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.spans import TokenRange


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
