"""What is computed for every pair (t, s) of a scan, in tiles, without a head axis where none is asked for.

    H[h,t,s] = (C[t,g(h)] . B[s,g(h)]) exp(cum[t] - cum[s]) dt[s,h]  for s <= t      cum = cumsum(log_decay)

A tile is 64 destination rows. Its first row t0 splits the decay of every source before it into two factors,

    exp(cum[t] - cum[s]) dt[s] = late[t] early[s],   late[t] = exp(cum[t] - cum[t0]),
                                                     early[s] = exp(cum[t0] - cum[s]) dt[s]        s < t0 <= t

neither of which can overflow. A sum over heads is then a matrix product with the heads as inner axis, and no
exponential is taken per pair. Only the square on the diagonal, and rows chosen one by one, are computed pair
by pair. The running sum and its differences are taken in float64.

What is made of the pairs is a `Form`: every head, a reduction over heads, or a contribution along a direction.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.ops.precision import upcast

TILE = 64
"""Destination rows per tile: the square on the diagonal costs TILE * length * heads exponentials."""

CHUNK_BYTES = 32 * 2**20
"""Memory of one [batch, head, row, pos] array in float64 when rows are computed pair by pair."""

PAIR_BYTES = 24
"""Bytes per pair and head at work in such a chunk: float64 differences, their exponential, the weights."""


@dataclass(frozen=True)
class ScanPairs:
    """The scan's inputs for the chosen heads, with positions last, in the dtype of the sums.

    dt: [batch, head, pos]. cum: the same, float64. B, C: [batch, group, pos, d_state].
    groups: the group that each chosen head reads.
    """

    dt: Tensor
    cum: Tensor
    B: Tensor
    C: Tensor
    groups: tuple[int, ...]

    @classmethod
    def of(cls, dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, heads: Sequence[int]) -> ScanPairs:
        """From activations with positions second, as the model's hook points show them."""
        heads_per_group = dt.shape[2] // B.shape[2]
        chosen = list(heads)
        dt = rearrange(upcast(dt)[:, :, chosen], "b t h -> b h t")
        log_decay = rearrange(log_decay.double()[:, :, chosen], "b t h -> b h t")
        return cls(
            dt=dt,
            cum=torch.cumsum(log_decay, dim=-1),
            B=rearrange(upcast(B).to(dt.dtype), "b t g n -> b g t n"),
            C=rearrange(upcast(C).to(dt.dtype), "b t g n -> b g t n"),
            groups=tuple(head // heads_per_group for head in chosen),
        )

    @property
    def n_pos(self) -> int:
        return self.dt.shape[-1]


@dataclass(frozen=True)
class Square:
    """Pairs computed one by one. scores: [batch, group, row, src]. weights: decay * dt, 0 where s > t,
    [batch, head, row, src]. same: 1 where s is t, [batch or 1, 1, row, src]. rows: which rows of the
    result, sources: which positions."""

    scores: Tensor
    weights: Tensor
    same: Tensor
    rows: slice
    sources: slice


@dataclass(frozen=True)
class Past:
    """Pairs whose decay is late[t] * early[s]. scores: [batch, group, row, src]. late: [batch, head, row].
    early: [batch, head, src]."""

    scores: Tensor
    late: Tensor
    early: Tensor
    rows: slice
    sources: slice


@runtime_checkable
class Form(Protocol):
    """What is made of pairs: [batch, row, src], or [batch, head, row, src]."""

    def square(self, pairs: Square) -> Tensor: ...

    def past(self, pairs: Past) -> Tensor: ...


def all_rows(scan: ScanPairs, form: Form) -> Tensor:
    """The form for every destination: [batch, (head,) pos, pos]."""
    tiles = (_tile(scan, form, start) for start in range(0, scan.n_pos, TILE))
    return _stack_rows(tiles, scan.n_pos)


def chosen_rows(scan: ScanPairs, form: Form, rows: Tensor) -> Tensor:
    """The form for the destinations `rows` [batch, row], in any order: [batch, (head,) row, pos]."""
    n_batch, n_heads, n_pos = scan.dt.shape
    chunk = max(1, CHUNK_BYTES // (8 * n_batch * n_heads * n_pos))
    n_rows = rows.shape[1]
    return _stack_rows((_chunk(scan, form, rows, at, at + chunk) for at in range(0, n_rows, chunk)), n_rows)


def chosen_rows_bytes(n_batch: int, n_heads: int, n_rows: int, n_pos: int) -> int:
    """Bytes at work at one time in `chosen_rows`, beside the result."""
    pairs_per_row = n_batch * n_heads * n_pos
    return PAIR_BYTES * min(max(CHUNK_BYTES // 8, pairs_per_row), pairs_per_row * n_rows)


def _tile(scan: ScanPairs, form: Form, start: int) -> Tensor:
    """Rows start to start + TILE of the form, over all positions; 0 above the diagonal."""
    end = min(start + TILE, scan.n_pos)
    rows, past, here = slice(start, end), slice(0, start), slice(start, end)
    scores = scan.C[:, :, rows] @ scan.B[:, :, :end].mT
    cum, dtype = scan.cum, scan.dt.dtype
    difference = cum[:, :, rows, None] - cum[:, :, None, here]
    ones = torch.ones(end - start, end - start, dtype=torch.bool, device=cum.device)
    decay = torch.exp(difference.masked_fill(ones.triu(1), float("-inf"))).to(dtype)
    square = Square(
        scores=scores[..., here],
        weights=decay * scan.dt[:, :, None, here],
        same=torch.eye(end - start, dtype=dtype, device=cum.device)[None, None],
        rows=rows,
        sources=here,
    )
    parts = [form.square(square)]
    if start > 0:
        base = cum[:, :, start : start + 1]
        late, early = torch.exp(cum[:, :, rows] - base), torch.exp(base - cum[:, :, past])
        late, early = late.to(dtype), early.to(dtype) * scan.dt[:, :, past]
        parts.insert(0, form.past(Past(scores[..., past], late, early, rows, past)))
    return F.pad(torch.cat(parts, dim=-1), (0, scan.n_pos - end))


def _chunk(scan: ScanPairs, form: Form, rows: Tensor, begin: int, end: int) -> Tensor:
    """The chosen rows number begin to end, pair by pair."""
    t = rows[:, begin:end]
    n_batch, n_heads, n_pos = scan.dt.shape
    sources = torch.arange(n_pos, device=t.device)
    at = t[:, None].expand(-1, n_heads, -1)
    difference = torch.gather(scan.cum, 2, at)[..., None] - scan.cum[:, :, None]
    later = sources > t[:, None, :, None]
    decay = torch.exp(difference.masked_fill(later, float("-inf"))).to(scan.dt.dtype)
    batch = torch.arange(n_batch, device=t.device)[:, None]
    C = scan.C.transpose(1, 2)[batch, t].transpose(1, 2)
    # The weights are exactly 0 for later sources, and so is every product with them.
    square = Square(
        scores=C @ scan.B.mT,
        weights=decay * scan.dt[:, :, None],
        same=(sources == t[:, None, :, None]).to(scan.dt.dtype),
        rows=slice(begin, begin + t.shape[1]),
        sources=slice(0, n_pos),
    )
    return form.square(square)


def _stack_rows(tiles: Iterator[Tensor], n_rows: int) -> Tensor:
    """Tiles one below the other; without a graph to keep, each is written to its place and dropped."""
    first = next(tiles)
    if torch.is_grad_enabled() and first.requires_grad:
        return torch.cat([first, *tiles], dim=-2)
    out = first.new_empty(*first.shape[:-2], n_rows, first.shape[-1])
    row = 0
    for tile in itertools.chain([first], tiles):
        out[..., row : row + tile.shape[-2], :] = tile
        row += tile.shape[-2]
    return out


@dataclass(frozen=True)
class EveryHead:
    """H itself: [batch, head, row, src]."""

    groups: tuple[int, ...]

    def square(self, pairs: Square) -> Tensor:
        return _per_head(pairs.scores, self.groups) * pairs.weights

    def past(self, pairs: Past) -> Tensor:
        return _per_head(pairs.scores, self.groups) * pairs.late[..., None] * pairs.early[:, :, None]


@dataclass(frozen=True)
class HeadMean:
    """mean_h H, or mean_h |H|: [batch, row, src]."""

    groups: tuple[int, ...]
    absolute: bool

    def square(self, pairs: Square) -> Tensor:
        return self._mean(pairs.scores, lambda members: self._size(pairs.weights[:, members]).sum(dim=1))

    def past(self, pairs: Past) -> Tensor:
        early = self._size(pairs.early)
        return self._mean(pairs.scores, lambda members: pairs.late[:, members].transpose(1, 2) @ early[:, members])

    def _mean(self, scores: Tensor, sum_of_weights: Callable[[list[int]], Tensor]) -> Tensor:
        sums = (self._size(scores[:, group]) * sum_of_weights(members) for group, members in members_of(self.groups))
        return sum(sums) / len(self.groups)  # type: ignore[return-value]

    def _size(self, value: Tensor) -> Tensor:
        return value.abs() if self.absolute else value


@dataclass(frozen=True)
class HeadMaximum:
    """max_h |H|: [batch, row, src]."""

    groups: tuple[int, ...]

    def square(self, pairs: Square) -> Tensor:
        return (_per_head(pairs.scores, self.groups) * pairs.weights).abs().amax(dim=1)

    def past(self, pairs: Past) -> Tensor:
        best = None
        for group, members in members_of(self.groups):
            for head in members:
                size = pairs.scores[:, group].abs() * pairs.late[:, head, :, None] * pairs.early[:, head, None].abs()
                best = size if best is None else torch.maximum(best, size)
        assert best is not None
        return best


@dataclass(frozen=True)
class Along:
    """sum_h (H + D [t=s]) <v[t,h], x[s,h]>: [batch, row, src], or with a head axis instead of the sum.

    v: [batch, head, row, d_head]. x: [batch, head, pos, d_head]. D: [head], or None to leave it out.
    """

    groups: tuple[int, ...]
    v: Tensor
    x: Tensor
    D: Tensor | None
    per_head: bool = False

    def square(self, pairs: Square) -> Tensor:
        weights = _per_head(pairs.scores, self.groups) * pairs.weights
        if self.D is not None:
            weights = weights + self.D[:, None, None] * pairs.same
        values = weights * (self.v[:, :, pairs.rows] @ self.x[:, :, pairs.sources].mT)
        return values if self.per_head else values.sum(dim=1)

    def past(self, pairs: Past) -> Tensor:
        v = pairs.late[..., None] * self.v[:, :, pairs.rows]
        x = pairs.early[..., None] * self.x[:, :, pairs.sources]
        if self.per_head:
            return _per_head(pairs.scores, self.groups) * (v @ x.mT)
        sums = (
            pairs.scores[:, group]
            * (rearrange(v[:, members], "b h t p -> b t (h p)") @ rearrange(x[:, members], "b h s p -> b (h p) s"))
            for group, members in members_of(self.groups)
        )
        return sum(sums)  # type: ignore[return-value]


Reduction = Literal["mean", "abs_mean", "max_abs"]


def form_of(groups: tuple[int, ...], reduce: Reduction | None) -> Form:
    """The form of hidden attention that `reduce` names."""
    if reduce is None:
        return EveryHead(groups)
    if reduce == "max_abs":
        return HeadMaximum(groups)
    return HeadMean(groups, absolute=reduce == "abs_mean")


def members_of(groups: tuple[int, ...]) -> list[tuple[int, list[int]]]:
    """Each group that is read, with the places of its heads among the chosen ones."""
    return [(group, [i for i, g in enumerate(groups) if g == group]) for group in sorted(set(groups))]


def _per_head(scores: Tensor, groups: tuple[int, ...]) -> Tensor:
    """[batch, group, row, src] -> [batch, head, row, src]; one group is shared without a copy."""
    if scores.shape[1] == 1:
        return scores.expand(-1, len(groups), -1, -1)
    return scores[:, list(groups)]
