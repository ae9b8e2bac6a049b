"""What a source token adds to a block's output, exactly, with gates, norm scales and lambda frozen.

    T[t,s] = out_gain[t] W_out (gate[t] * (H + D [t=s]) x[s])           vector (`token_contributions`)
    mixer_out[t] = sum_s T1[t,s] - lambda sum_s T2[t,s] + bias[t]
    K[t,s] = <v, T[t,s]> = sum_h (H[h,t,s] + D[h] [t=s]) <v~[t,h], x[s,h]>            along a direction v
    v~[t,h] = d<v, mixer_out[t]> / dy[t,h] = gate[t,h] * (W_out^T (out_gain[t] * v))[h]

Vectors and their norms are for chosen rows: they take d_model numbers per pair.

Sources are positions after the convolution ("convolved"), or input positions before it ("input"):

    x[s] = sigmoid(c[s]) c[s],  c[s] = sum_k w[k] x_in[s-k] + b       so x[s] = sum_k x_k[s] + sigmoid(c[s]) b

with x_k[s] = sigmoid(c[s]) w[k] x_in[s-k] credited to position s - k, and the part of b kept as bias.
For a differential block T1 and T2 both hold (1 - lambda_init) and the frozen norm; see `activations`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.implicit_attention.activations import BlockActivations, BranchActivations
from diffmamba_interp.implicit_attention.branch_parts import BranchParts, along_rows
from diffmamba_interp.implicit_attention.effective import channel_rows
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES, Heads, require_memory, select_heads
from diffmamba_interp.models.token_checks import Rows, select_rows, take_rows
from diffmamba_interp.ops.scan_pairs import PAIR_BYTES, TILE, chosen_rows_bytes
from diffmamba_interp.ops.select import Impl

Sources = Literal["convolved", "input"]

MAX_NORM_ROWS = 256
"""Rows for which contribution norms are computed unasked: each costs length * d_inner * d_model products."""

SOURCE_CHUNK_BYTES = 64 * 2**20
"""Memory of the vectors of one destination that are at work at one time."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Contribution(BranchParts):
    """What sources add to `mixer_out`, by branch; `weights`, `minuend`, `subtrahend`, `difference` by name.

    parts: per branch, [batch, row, src] along a direction (with a head axis before row if per head), or
        [batch, row, src, d_model] vectors, in units of the residual stream (times the direction).
    bias_parts: per branch, what belongs to no source: out_proj's bias and, for input sources, the
        convolution's. No src axis.
    weight: lambda, a scalar, [batch, row] or [batch, row, head]; None in a plain block.
    scaled, scaled_bias: lambda times the subtrahend's part and bias, where each head has a lambda of its own.
    per_head: whether the parts have a head axis.
    """

    parts: tuple[Tensor, ...]
    bias_parts: tuple[Tensor, ...]
    weight: Tensor | None
    per_head: bool = False
    scaled: Tensor | None = None
    scaled_bias: Tensor | None = None

    @property
    def row_axis(self) -> int:
        return 2 if self.per_head else 1

    @property
    def bias(self) -> Tensor:
        """What belongs to no source, both branches together."""
        if not self.is_differential:
            return self.bias_parts[0]
        first, second = self.bias_parts
        return first - (
            along_rows(self.lambda_, first.ndim, 1) * second if self.scaled_bias is None else self.scaled_bias
        )


@checked
def contribution_along(
    activations: BlockActivations,
    direction: Float[Tensor, " d_model"] | Float[Tensor, "batch d_model"] | Float[Tensor, "batch row d_model"],
    rows: Rows = None,
    heads: Heads = None,
    *,
    sources: Sources = "convolved",
    per_head: bool = False,
    impl: Impl = "auto",
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Contribution:
    """K for one block: sum_s K[t,s] + bias[t] = <v, mixer_out[t]> over all heads.

    Args:
        activations: what the block did (`capture_block`).
        direction: v, one for all, one per sample, or one per sample and row.
        rows: destinations, [row] or [batch, row], negative ones from each sample's end; all when None.
        heads: heads to sum over, the same for both branches; all when None.
        sources: positions after the convolution, or input positions.
        per_head: keep the heads apart: [batch, head, row, src].
        impl: "fused" for the Triton kernel, "reference", or "auto".
        max_bytes: limit on the estimate of what this call allocates.

    Raises:
        ValueError: rows, heads or a direction that do not fit. MemoryLimitError: too much at once.
    """
    _check_sources(sources)
    at = select_rows(rows, activations.lengths, activations.n_pos)
    n_rows = activations.n_pos if at is None else at.shape[1]
    v = _per_row(direction, activations, n_rows)
    _require_memory(activations, n_rows, heads, per_head, sources, max_bytes)
    parts, bias_parts = [], []
    for branch in _with_scaled(activations):
        r = v if branch.out_gain is None else v * take_rows(branch.out_gain, at)
        chosen = select_heads(heads, branch.n_heads)
        pulled_back = rearrange(r @ branch.out_weight, "b t (h p) -> b t h p", h=branch.n_heads)
        pulled_back = pulled_back * branch.gate_at(at)
        part = _along_sources(branch, pulled_back, at, chosen, sources, per_head, impl)
        parts.append(part)
        bias_parts.append(_bias_along(branch, r, pulled_back, at, chosen, sources))
    return _contribution(activations, parts, bias_parts, at, per_head)


@checked
def token_contributions(
    activations: BlockActivations,
    rows: Rows,
    heads: Heads = None,
    *,
    sources: Sources = "input",
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Contribution:
    """T for chosen rows of one block, as vectors [batch, row, src, d_model]: sum_s T + bias = mixer_out.

    Arguments as in `contribution_along`. The vectors of all rows are kept: `contribution_norms` does not.

    Raises:
        ValueError: rows or heads that do not exist. MemoryLimitError: too much at once.
    """
    _check_sources(sources)
    at = _required_rows(rows, activations)
    n_batch, n_rows = at.shape
    d_model, element = activations.mixer_out.shape[2], activations.mixer_out.element_size()
    require_memory(
        f"token contributions for {n_batch} x {n_rows} rows, {activations.n_pos} sources and d_model {d_model}",
        2 * n_batch * n_rows * activations.n_pos * d_model * element * len(_with_scaled(activations)),
        max_bytes,
        "Ask for fewer rows=, or for contribution_along a direction, which has no d_model axis",
    )
    parts, bias_parts = [], []
    for branch in _with_scaled(activations):
        by_row = [_vectors(branch, at[:, i], heads, sources) for i in range(n_rows)]
        parts.append(torch.stack([torch.cat(list(chunks), dim=1) for chunks, _ in by_row], dim=1))
        bias_parts.append(torch.stack([bias for _, bias in by_row], dim=1))
    return _contribution(activations, parts, bias_parts, at)


@checked
def contribution_norms(
    activations: BlockActivations, rows: Rows = None, heads: Heads = None, *, sources: Sources = "convolved"
) -> tuple[Float[Tensor, "batch row pos"], ...]:
    """Euclidean norms of T: (weights,), or (minuend, subtrahend without lambda, difference).

    The norm of the difference is that of the vectors' difference, not a difference of norms. Where each head has a
    lambda of its own, the norms of lambda times the subtrahend come before it. The vectors are made for one row and
    some sources at a time. Rows are required beyond 256 positions.
    """
    _check_sources(sources)
    if rows is None and activations.n_pos > MAX_NORM_ROWS:
        raise ValueError(
            f"contribution norms of all {activations.n_pos} rows would take {activations.n_pos} passes over the "
            f"sequence: choose rows= (all are computed up to {MAX_NORM_ROWS} positions), for example rows=[-1]."
        )
    at = _required_rows(list(range(activations.n_pos)) if rows is None else rows, activations)
    weight = activations.lambda_at(at)
    by_row = []
    for i in range(at.shape[1]):
        vectors = [_vectors(branch, at[:, i], heads, sources)[0] for branch in _with_scaled(activations)]
        lambda_ = weight if weight is None or weight.ndim == 0 else weight[:, i, None, None]
        norms = [_norms(chunk, lambda_) for chunk in zip(*vectors, strict=True)]
        by_row.append([torch.cat(pieces, dim=1) for pieces in zip(*norms, strict=True)])
    return tuple(torch.stack(column, dim=1) for column in zip(*by_row, strict=True))


def _with_scaled(activations: BlockActivations) -> tuple[BranchActivations, ...]:
    """The branches, and lambda times the subtrahend where that is no multiple of it."""
    scaled = activations.scaled_subtrahend
    return activations.branches if scaled is None else (*activations.branches, scaled)


def _contribution(
    activations: BlockActivations,
    parts: list[Tensor],
    bias_parts: list[Tensor],
    rows: Tensor | None,
    per_head: bool = False,
) -> Contribution:
    """What was made of `_with_scaled`'s branches."""
    n = len(activations.branches)
    return Contribution(
        parts=tuple(parts[:n]),
        bias_parts=tuple(bias_parts[:n]),
        weight=activations.lambda_at(rows),
        per_head=per_head,
        scaled=parts[n] if len(parts) > n else None,
        scaled_bias=bias_parts[n] if len(parts) > n else None,
    )


def _along_sources(
    branch: BranchActivations,
    v: Tensor,
    rows: Tensor | None,
    heads: tuple[int, ...],
    sources: Sources,
    per_head: bool,
    impl: Impl,
) -> Tensor:
    """K of one branch: the sources' own positions, or each tap's part moved back by its lag."""
    if sources == "convolved" or branch.conv is None:
        return branch.scan.along(v, branch.x, rows, heads, per_head=per_head, impl=impl)
    moved = (
        F.pad(branch.scan.along(v, tap, rows, heads, per_head=per_head, impl=impl)[..., lag:], (0, lag))
        for lag, tap in enumerate(_taps(branch))
    )
    return sum(moved, start=next(moved))  # the first tap is the start, so that the sum is a tensor


def _taps(branch: BranchActivations) -> Iterator[Tensor]:
    """x_k[s] = sigmoid(c[s]) w[k] x_in[s-k] for lag k = 0, 1, ...: [batch, pos, head, d_head]."""
    assert branch.conv is not None
    assert branch.conv_weight is not None
    slope = torch.sigmoid(branch.conv)
    width, n_pos = branch.conv_weight.shape[1], branch.x_in.shape[1]
    for lag in range(min(width, n_pos)):
        weight = rearrange(branch.conv_weight[:, width - 1 - lag], "(h p) -> h p", h=branch.n_heads)
        yield slope * weight * F.pad(branch.x_in[:, : n_pos - lag], (0, 0, 0, 0, lag, 0))


def _bias_along(
    branch: BranchActivations,
    r: Tensor,
    v: Tensor,
    rows: Tensor | None,
    heads: tuple[int, ...],
    sources: Sources,
) -> Tensor:
    """[batch, row]: <r, b_out>, and for input sources what the convolution's bias makes of the chosen heads."""
    bias = r.new_zeros(r.shape[:2]) if branch.out_bias is None else r @ branch.out_bias
    if sources == "convolved" or branch.conv is None or branch.conv_bias is None:
        return bias
    constant = torch.sigmoid(branch.conv) * rearrange(branch.conv_bias, "(h p) -> h p", h=branch.n_heads)
    y, chosen = branch.scan.apply(constant), list(heads)
    return bias + torch.einsum("bthp,bthp->bt", v[:, :, chosen], take_rows(y, rows)[:, :, chosen])


def _per_row(direction: Tensor, activations: BlockActivations, n_rows: int) -> Tensor:
    """The direction as [batch, row, d_model], in the dtype of the sums."""
    n_batch, _, d_model = activations.mixer_out.shape
    direction = direction.to(activations.mixer_out)
    if direction.ndim == 2:
        direction = direction[:, None]
    fits = direction.ndim == 1 or direction.shape[:2] in {(n_batch, 1), (n_batch, n_rows)}
    if direction.shape[-1] != d_model or not fits:
        raise ValueError(
            f"direction has shape {tuple(direction.shape)}: give [d_model], [batch, d_model] or [batch, row, "
            f"d_model] with batch {n_batch}, row {n_rows} and d_model {d_model}."
        )
    return direction.expand(n_batch, n_rows, d_model)


def _vectors(branch: BranchActivations, t: Tensor, heads: Heads, sources: Sources) -> tuple[Iterator[Tensor], Tensor]:
    """For one destination t [batch]: T over chunks of sources [batch, src, d_model], and the bias vector."""
    chosen = select_heads(heads, branch.n_heads)
    gain = None if branch.out_gain is None else take_rows(branch.out_gain, t[:, None])[:, 0]
    operator = branch.scan.operator(t[:, None], chosen)[:, :, 0]
    d_head = branch.x.shape[3]
    channels = [head * d_head + p for head in chosen for p in range(d_head)]
    out_weight = branch.out_weight[:, channels]

    def to_residual(value: Tensor) -> Tensor:
        vectors = value @ out_weight.mT
        return vectors if gain is None else vectors * gain[:, None]

    def chunks() -> Iterator[Tensor]:
        n_batch, n_pos = branch.x.shape[:2]
        per_source = n_batch * (3 * len(channels) + out_weight.shape[0]) * operator.element_size()
        size = max(1, SOURCE_CHUNK_BYTES // per_source)
        for begin in range(0, n_pos, size):
            src = slice(begin, min(begin + size, n_pos))
            weights, inputs = channel_rows(branch, operator, t, chosen, src, sources)
            yield to_residual(rearrange(weights * inputs, "b c s -> b s c"))

    bias = operator.new_zeros(t.shape[0], out_weight.shape[0])
    if branch.out_bias is not None:
        bias = bias + (branch.out_bias if gain is None else branch.out_bias * gain)
    if sources == "input" and branch.conv_bias is not None:
        whole = slice(0, branch.x.shape[1])
        made, _ = channel_rows(branch, operator, t, chosen, whole, "bias")
        bias = bias + to_residual((made.sum(dim=-1) * branch.conv_bias[channels])[:, None])[:, 0]
    return chunks(), bias


def _norms(vectors: tuple[Tensor, ...], lambda_: Tensor | None) -> list[Tensor]:
    """Norms over d_model of each branch's vectors and of their difference."""
    all_vectors = list(vectors)
    if lambda_ is not None:
        all_vectors.append(vectors[0] - (vectors[2] if len(vectors) == 3 else lambda_ * vectors[1]))
    return [torch.linalg.vector_norm(value, dim=-1) for value in all_vectors]


def _required_rows(rows: Rows, activations: BlockActivations) -> Tensor:
    at = select_rows(rows, activations.lengths, activations.n_pos)
    if at is None:
        raise ValueError("rows is None: contribution vectors are made for chosen rows, for example rows=[-1].")
    return at


def _check_sources(sources: str) -> None:
    """Raise ValueError unless `sources` is one of the two."""
    if sources not in ("convolved", "input"):
        raise ValueError(f'sources is {sources!r}: it must be "convolved" or "input".')


def _require_memory(
    activations: BlockActivations, n_rows: int, heads: Heads, per_head: bool, sources: Sources, max_bytes: int
) -> None:
    n_batch, n_pos, _ = activations.mixer_out.shape
    element = activations.mixer_out.element_size()
    n_heads = max(len(select_heads(heads, branch.n_heads)) for branch in activations.branches)
    picture = n_batch * n_rows * n_pos * element * (n_heads if per_head else 1)
    copies = len(_with_scaled(activations)) + (2 if sources == "input" else 1)
    if n_rows == n_pos:
        at_work = n_batch * n_heads * min(TILE, n_pos) * (n_pos if per_head else TILE) * PAIR_BYTES
    else:
        at_work = chosen_rows_bytes(n_batch, n_heads, n_rows, n_pos)
    require_memory(
        f"contributions of {n_batch} x {n_rows} rows and {n_pos} sources"
        + (f" for each of {n_heads} heads" if per_head else ""),
        copies * picture + at_work,
        max_bytes,
        "Ask for fewer rows=" + (", fewer heads=, or per_head=False" if per_head else " or fewer samples at once"),
    )
