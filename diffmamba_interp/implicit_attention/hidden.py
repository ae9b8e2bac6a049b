"""Hidden attention: the matrix that a Mamba-2 scan applies to its inputs.

    H[h,t,s] = (C[t,g(h)] . B[s,g(h)]) exp(cum[t] - cum[s]) dt[s,h]  for s <= t, else 0
    cum = cumsum(log_decay),  log_decay = dt A            y = H x + D x    (Mamba-2, arXiv 2405.21060, section 3)

Signed and unnormalised; TransformerLens calls it effective attention. Reduced over heads on the fly:
mean_h H, mean_h |H|, max_h |H|.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.argument_checks import Count, Natural, checked
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES, Heads, require_memory, select_heads
from diffmamba_interp.models.token_checks import Rows, select_rows
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.ops.scan_pairs import TILE, Reduction, chosen_rows_bytes
from diffmamba_interp.ops.select import Impl
from diffmamba_interp.ops.ssd_attention import FrozenSSD

REDUCTIONS = (None, "mean", "abs_mean", "max_abs")


@checked
def hidden_attention(
    dt: Float[Tensor, "batch pos head"],
    A: Float[Tensor, " head"] | None,
    B: Float[Tensor, "batch pos group d_state"],
    C: Float[Tensor, "batch pos group d_state"],
    rows: Rows = None,
    heads: Heads = None,
    reduce: Reduction | None = None,
    *,
    log_decay: Float[Tensor, "batch pos head"] | None = None,
    impl: Impl = "auto",
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Float[Tensor, "batch selected row pos"] | Float[Tensor, "batch row pos"]:
    """H of one scan, differentiable in every tensor argument.

    Args:
        dt: step sizes, after softplus and clamp.
        A: decay rate per head, negative; None when `log_decay` is given.
        B: input maps. C: output maps.
        rows: destination positions, [row] or one set per sample [batch, row]; negative ones count from the
            end; all when None.
        heads: heads to show or to reduce over; all when None.
        reduce: None for one picture per head, or "mean", "abs_mean", "max_abs" over `heads`.
        log_decay: dt * A, where it is at hand or was changed by a hook.
        impl: "fused" for the Triton kernel, "reference" for PyTorch, "auto" for the first that can run.
        max_bytes: limit on the estimate of what this call allocates.

    Returns:
        [batch, head, dest_pos, src_pos], without the head axis when reduced, in at least float32.

    Raises:
        ValueError: rows or heads that do not exist, an unknown reduction, or not exactly one of A and
            log_decay. MemoryLimitError: the estimate exceeds max_bytes.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce is {reduce!r}: it must be one of {REDUCTIONS}.")
    if (A is None) == (log_decay is None):
        raise ValueError("give either A or log_decay (= dt * A): one of them, not both and not neither.")
    n_batch, n_pos, n_heads = dt.shape
    chosen = select_heads(heads, n_heads)
    at = select_rows(rows, torch.full((n_batch,), n_pos, device=dt.device), n_pos)
    n_rows = n_pos if at is None else at.shape[1]
    require_memory(
        f"hidden attention of {n_batch} x {len(chosen)} heads, {n_rows} rows and {n_pos} positions",
        hidden_attention_bytes(n_batch, n_pos, n_rows, len(chosen), reduce, upcast(dt).element_size()),
        max_bytes,
        'Ask for fewer rows= or heads=, or reduce="mean" | "abs_mean" | "max_abs" over heads',
    )
    if log_decay is None:
        assert A is not None
        log_decay = upcast(dt) * upcast(A)
    return FrozenSSD(dt, log_decay, B, C, dt.new_zeros(n_heads)).hidden(at, chosen, reduce, impl=impl)


@checked
def hidden_attention_bytes(
    n_batch: Natural,
    n_pos: Natural,
    n_rows: Natural,
    n_heads: Natural,
    reduce: Reduction | None,
    element_bytes: Count = 4,
) -> int:
    """Bytes that `hidden_attention` takes: the result, and the pairs at work at one time."""
    result = n_batch * n_rows * n_pos * element_bytes * (n_heads if reduce is None else 1)
    if n_rows == n_pos:
        at_work = (
            n_batch * min(TILE, n_pos) * n_pos * element_bytes * (2 * n_heads if reduce in (None, "max_abs") else 4)
        )
    else:
        at_work = chosen_rows_bytes(n_batch, n_heads, n_rows, n_pos)
    return result + at_work
