"""What a source token adds to a block's output, as vectors in the residual stream, and their norms.

    T[t,s] = out_gain[t] W_out (gate[t] * (H + D [t=s]) x[s])           scales frozen; see `activations`
    mixer_out[t] = sum_s T1[t,s] - lambda sum_s T2[t,s] + bias[t]

For chosen rows: d_model numbers per pair. Sources as in `contributions`: positions after the convolution, or
input positions before it, with the part that the convolution's bias makes in `bias`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.implicit_attention.activations import BlockActivations, BranchActivations
from diffmamba_interp.implicit_attention.contributions import Contribution, Sources, check_sources
from diffmamba_interp.implicit_attention.effective import channel_rows, operator_row
from diffmamba_interp.implicit_attention.memory_limit import DEFAULT_MAX_BYTES, require_memory
from diffmamba_interp.implicit_attention.selection import Heads, Rows, select_heads, select_rows, take_rows

MAX_NORM_ROWS = 256
"""Rows for which contribution norms are computed unasked: each costs length * d_inner * d_model products."""

SOURCE_CHUNK_BYTES = 64 * 2**20
"""Memory of the vectors of one destination that are at work at one time."""


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
    check_sources(sources)
    at = _required_rows(rows, activations)
    n_batch, n_rows = at.shape
    d_model, element = activations.mixer_out.shape[2], activations.mixer_out.element_size()
    require_memory(
        f"token contributions for {n_batch} x {n_rows} rows, {activations.n_pos} sources and d_model {d_model}",
        2 * n_batch * n_rows * activations.n_pos * d_model * element * len(activations.branches),
        max_bytes,
        "Ask for fewer rows=, or for contribution_along a direction, which has no d_model axis",
    )
    parts, bias_parts = [], []
    for branch in activations.branches:
        made = [_vectors(branch, at[:, i], heads, sources) for i in range(n_rows)]
        parts.append(torch.stack([torch.cat(list(chunks), dim=1) for chunks, _ in made], dim=1))
        bias_parts.append(torch.stack([bias for _, bias in made], dim=1))
    return Contribution(parts=tuple(parts), bias_parts=tuple(bias_parts), weight=activations.lambda_at(at))


@checked
def contribution_norms(
    activations: BlockActivations, rows: Rows = None, heads: Heads = None, *, sources: Sources = "convolved"
) -> tuple[Float[Tensor, "batch row pos"], ...]:
    """Euclidean norms of T: (weights,), or (minuend, subtrahend without lambda, difference).

    The norm of the difference is that of the vectors' difference, not a difference of norms. The vectors are
    made for one row and some sources at a time. Rows are required beyond 256 positions.
    """
    check_sources(sources)
    if rows is None and activations.n_pos > MAX_NORM_ROWS:
        raise ValueError(
            f"contribution norms of all {activations.n_pos} rows would take {activations.n_pos} passes over the "
            f"sequence: choose rows= (all are computed up to {MAX_NORM_ROWS} positions), for example rows=[-1]."
        )
    at = _required_rows(list(range(activations.n_pos)) if rows is None else rows, activations)
    weight = activations.lambda_at(at)
    by_row = []
    for i in range(at.shape[1]):
        chunks = zip(*(_vectors(branch, at[:, i], heads, sources)[0] for branch in activations.branches), strict=True)
        lambda_ = weight if weight is None or weight.ndim == 0 else weight[:, i, None, None]
        by_row.append([torch.cat(pieces, dim=1) for pieces in zip(*(_norms(c, lambda_) for c in chunks), strict=True)])
    return tuple(torch.stack(column, dim=1) for column in zip(*by_row, strict=True))


def _vectors(branch: BranchActivations, t: Tensor, heads: Heads, sources: Sources) -> tuple[Iterator[Tensor], Tensor]:
    """For one destination t [batch]: T over chunks of sources [batch, src, d_model], and the bias vector."""
    chosen = select_heads(heads, branch.n_heads)
    gain = None if branch.out_gain is None else take_rows(branch.out_gain, t[:, None])[:, 0]
    operator = operator_row(branch, t, chosen)
    d_head = branch.x.shape[3]
    channels = [head * d_head + p for head in chosen for p in range(d_head)]
    out_weight = branch.out_weight[:, channels]

    def to_residual(value: Tensor) -> Tensor:
        vectors = value @ out_weight.mT
        return vectors if gain is None else vectors * gain[:, None]

    def chunks() -> Iterator[Tensor]:
        n_batch, n_pos = branch.dt.shape[:2]
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
        whole = slice(0, branch.dt.shape[1])
        made, _ = channel_rows(branch, operator, t, chosen, whole, "bias")
        bias = bias + to_residual((made.sum(dim=-1) * branch.conv_bias[channels])[:, None])[:, 0]
    return chunks(), bias


def _norms(vectors: tuple[Tensor, ...], lambda_: Tensor | None) -> list[Tensor]:
    """Norms over d_model of each branch's vectors and of their difference."""
    all_vectors = list(vectors)
    if lambda_ is not None:
        all_vectors.append(vectors[0] - lambda_ * vectors[1])
    return [torch.linalg.vector_norm(value, dim=-1) for value in all_vectors]


def _required_rows(rows: Rows, activations: BlockActivations) -> Tensor:
    at = select_rows(rows, activations.lengths, activations.n_pos)
    if at is None:
        raise ValueError("rows is None: contribution vectors are made for chosen rows, for example rows=[-1].")
    return at
