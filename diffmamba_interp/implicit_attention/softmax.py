"""Differential attention of the differential Transformer (Ye et al. 2024, arXiv 2410.05258), as a yardstick.

    A_b[h,t,s] = softmax_s( q_b[t,h] . k_b[s,h] / sqrt(d_head) )  over s <= t          (Diff-Mamba's Eqs. 8-10)
    difference = A_1 - lambda A_2,    lambda = exp(q1.k1) - exp(q2.k2) + lambda_init

A row of either branch is positive and sums to 1, so a row of the difference sums to 1 - lambda, and no source can be
given more than 1 or less than -lambda. The scans of a differential block know no such bound: the same record type lets
the same measures say what the bound does to cancellation. Reference only; no model here has such blocks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Finite, Natural, checked
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.ops.precision import upcast


@checked
def differential_attention(
    queries: tuple[Float[Tensor, "_ _ _ _"], Float[Tensor, "_ _ _ _"]],
    keys: tuple[Float[Tensor, "_ _ _ _"], Float[Tensor, "_ _ _ _"]],
    lambda_: Finite | Float[Tensor, ""],
    *,
    tokens: Int[Tensor, "batch pos"] | None = None,
    block: Natural = 0,
) -> AttentionRecord:
    """Both softmaxes and their difference, of causal attention, as a record of kind "softmax" with every head.

    Args:
        queries: of the minuend and the subtrahend, [batch, pos, head, d_head] each. keys: likewise.
        lambda_: weight of the subtrahend (`models.lambda_forms.lambda_from_parameters` makes it).
        tokens: the ids that were read, for labels; zeros when None. block: the index to show.

    Raises ValueError for queries and keys of different shapes.
    """
    shapes = {tuple(value.shape) for value in (*queries, *keys)}
    if len(shapes) > 1:
        raise ValueError(f"queries and keys have the shapes {sorted(shapes)}: both branches need the same one.")
    n_batch, n_pos, n_heads, _ = queries[0].shape
    positions = torch.arange(n_pos, device=queries[0].device)
    parts = tuple(_softmax(q, k) for q, k in zip(queries, keys, strict=True))
    return AttentionRecord(
        kind="softmax",
        block=block,
        normalisation=None,
        tokens=torch.zeros_like(positions).expand(n_batch, -1) if tokens is None else tokens,
        lengths=torch.full((n_batch,), n_pos, device=positions.device),
        rows=positions.expand(n_batch, -1),
        parts=parts,
        weight=torch.as_tensor(lambda_, dtype=parts[0].dtype, device=positions.device),
        heads=tuple(range(n_heads)),
        per_head=True,
    )


def _softmax(queries: Tensor, keys: Tensor) -> Float[Tensor, "batch head pos pos"]:
    """Exactly 0 above the diagonal."""
    scores = torch.einsum("bthp,bshp->bhts", upcast(queries), upcast(keys)) / queries.shape[-1] ** 0.5
    above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return torch.softmax(scores.masked_fill(above, float("-inf")), dim=-1)
