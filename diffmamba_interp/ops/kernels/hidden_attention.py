"""Hidden attention of a Mamba-2 scan, whole or reduced over heads on the fly, forward and backward.

    H[h,t,s] = (C[t,g(h)] . B[s,g(h)]) exp(cum[t] - cum[s]) dt[s,h]  for s <= t, else 0
    cum = cumsum(log_decay),   log_decay = dt A,   g(h) = h // (n_heads / n_groups)

    mean[t,s] = mean_h H[h,t,s],   abs_mean[t,s] = mean_h |H[h,t,s]|,   max_abs[t,s] = max_h |H[h,t,s]|

One program takes a tile of destination rows times source positions: the product C B^T once per group, then
the heads of the group in a loop. The full form is bound by writing H; a reduced one writes L x L numbers.
Below the diagonal the decay of a tile is an outer product; tiles above it are only filled with zeros. The
backward is in `hidden_attention_backward`.
"""

from collections.abc import Sequence
from typing import Any, Literal, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffmamba_interp.ops.kernels.hidden_attention_backward import hidden_attention_gradients
from diffmamba_interp.ops.kernels.running_decay import plan_heads, running_decay
from diffmamba_interp.ops.kernels.tiles import (
    DEFAULT_INPUT_PRECISION,
    InputPrecision,
    Tiles,
    check_precision,
    decay_tile,
    decay_vectors,
    destination_rows,
    in_one_dtype,
    is_below_diagonal,
    product_tile,
    restaged,
)
from diffmamba_interp.ops.kernels.triton_import import check_launchable, tl, triton

Reduction = Literal["mean", "abs_mean", "max_abs"]

FULL_TILES = Tiles(block_t=32)
REDUCED_TILES = Tiles()
BACKWARD_TILES = Tiles(num_warps=8)

STORES = ".cs"
"""How H is written: it is far larger than the caches, and nothing here reads it again."""


def fused_hidden_attention(
    dt: Float[Tensor, "batch pos head"],
    A: Float[Tensor, " head"] | None,
    B: Float[Tensor, "batch pos group d_state"],
    C: Float[Tensor, "batch pos group d_state"],
    *,
    log_decay: Float[Tensor, "batch pos head"] | None = None,
    rows: Int[Tensor, " row"] | None = None,
    heads: Sequence[int] | None = None,
    reduce: Reduction | None = None,
    input_precision: InputPrecision = DEFAULT_INPUT_PRECISION,
    tiles: Tiles | None = None,
) -> Float[Tensor, "batch selected row pos"] | Float[Tensor, "batch row pos"]:
    """Hidden attention by a Triton kernel, in float32; memory for the result alone.

    Differentiable (first order) in dt, A or log_decay, B and C. `max_abs` passes its gradient to the winner.

    Args:
        dt: step sizes, after softplus and clamp.
        A: decay rate per head, negative; None when log_decay is given.
        B: input maps; any strides over batch, position and group.
        C: output maps, likewise.
        log_decay: dt * A, where it is at hand or was changed; nowhere positive.
        rows: destination positions to compute, in any order; all when None.
        heads: heads to compute or to reduce over, in the order of the result; all when None.
        reduce: None for one picture per head, or the reduction over `heads`.
        input_precision: of products of float32 inputs; bfloat16 and float16 inputs are multiplied exactly.
        tiles: shape of the work of one program.

    Returns:
        [batch, head, dest_pos, src_pos], without the head axis when reduced.

    Raises:
        ImportError, RuntimeError: no Triton, or no GPU (see `check_launchable`).
        ValueError: both or neither of A and log_decay, an unknown reduction or precision, rows or heads
            outside the sequence or model.
    """
    check_launchable("fused_hidden_attention", dt, A, B, C, log_decay, rows)
    check_precision(input_precision)
    if reduce not in (None, "mean", "abs_mean", "max_abs"):
        raise ValueError(f'reduce must be None, "mean", "abs_mean" or "max_abs", but is {reduce!r}.')
    log_decay = decay_or_product(dt, A, log_decay)
    B, C = in_one_dtype(B, C)
    rows = checked_rows(rows, dt.shape[1])
    plan = plan_heads(heads, dt.shape[2], B.shape[2], dt.device)
    tiles = tiles or (REDUCED_TILES if reduce else FULL_TILES)
    return _HiddenAttention.apply(dt, log_decay, B, C, rows, plan, reduce or "full", input_precision, tiles)


def decay_or_product(dt: Tensor, A: Tensor | None, log_decay: Tensor | None) -> Tensor:
    """log_decay, or dt A in float32; ValueError unless exactly one of the two is given."""
    if (A is None) == (log_decay is None):
        raise ValueError("Give either A or log_decay (= dt * A): one of them, not both and not neither.")
    return dt.float() * A.float() if A is not None else log_decay  # type: ignore[return-value]


def checked_rows(rows: Tensor | None, length: int) -> Tensor | None:
    """Rows as contiguous int64; ValueError where one is no position of the sequence."""
    if rows is None:
        return None
    if rows.numel() > 0:
        first, last = int(rows.min()), int(rows.max())
        if first < 0 or last >= length:
            raise ValueError(f"rows must be positions in [0, {length}), but run from {first} to {last}.")
    return rows.long().contiguous()


class _HiddenAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, rows: Tensor | None, *setting: Any
    ) -> Tensor:
        plan, form, precision, tiles = setting
        running = running_decay(dt, log_decay, plan)
        batch, length, n_rows = dt.shape[0], dt.shape[1], dt.shape[1] if rows is None else rows.numel()
        shape = (batch, plan.n_heads, n_rows, length) if form == "full" else (batch, n_rows, length)
        out = torch.empty(shape, dtype=torch.float32, device=dt.device)
        winner = None
        if form == "max_abs" and any(ctx.needs_input_grad):
            winner = torch.empty(shape, dtype=torch.int16, device=dt.device)
        ctx.save_for_backward(running, B, C, rows, winner)
        ctx.setting, ctx.n_heads, ctx.dtypes = setting, dt.shape[2], (dt.dtype, log_decay.dtype)
        if out.numel() == 0:
            return out
        grid = [triton.cdiv(length, tiles.block_s), triton.cdiv(n_rows, tiles.block_t), batch]
        sizes = (n_rows, length, plan.n_heads, plan.n_groups, *B.stride()[:3], *C.stride()[:3])
        shared = dict(
            N=B.shape[3], ALL_ROWS=rows is None, PRECISION=precision,
            BLOCK_T=tiles.block_t, BLOCK_S=tiles.block_s, BLOCK_N=tiles.block_n,
            num_warps=tiles.num_warps, num_stages=tiles.num_stages,
        )  # fmt: skip
        with torch.cuda.device_of(dt):
            if form == "full":
                grid[2] *= plan.n_groups * tiles.head_splits
                _full_kernel[tuple(grid)](
                    out, running, B, C, rows, plan.slot, plan.group, plan.offset, *sizes,
                    HEAD_SPLITS=tiles.head_splits, STORES=STORES, **shared,
                )  # fmt: skip
            else:
                scale = 1.0 if form == "max_abs" else 1.0 / plan.n_heads
                _reduced_kernel[tuple(grid)](
                    out, winner, running, B, C, rows, plan.group, plan.offset, scale, *sizes,
                    FORM=form, STORE_WINNER=winner is not None, **shared,
                )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        running, B, C, rows, winner = ctx.saved_tensors
        plan, form, precision, _ = ctx.setting
        d_dt, d_log_decay, d_B, d_C = hidden_attention_gradients(
            d_out, running, B, C, rows, winner, plan, ctx.n_heads, form, precision, BACKWARD_TILES
        )
        return d_dt.to(ctx.dtypes[0]), d_log_decay.to(ctx.dtypes[1]), d_B, d_C, None, None, None, None, None


@triton.jit
@no_type_check
def _full_kernel(
    out, running, b_maps, c_maps, rows, slots, groups, offsets,
    n_rows, length, n_selected, n_used, stride_bb, stride_bt, stride_bg, stride_cb, stride_ct, stride_cg,
    HEAD_SPLITS: tl.constexpr, STORES: tl.constexpr, N: tl.constexpr, ALL_ROWS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of H for the heads of one group, or for one of HEAD_SPLITS parts of them."""
    part = tl.program_id(2)
    used = part // HEAD_SPLITS % n_used
    batch = (part // HEAD_SPLITS // n_used).to(tl.int64)
    begin = tl.load(offsets + used)
    end = tl.load(offsets + used + 1)
    share = tl.cdiv(end - begin, HEAD_SPLITS)
    begin += part % HEAD_SPLITS * share
    end = tl.minimum(begin + share, end)

    row, t, row_ok, last = destination_rows(rows, tl.program_id(1) * BLOCK_T, n_rows, ALL_ROWS, BLOCK_T)
    s = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    s_ok = s < length
    ok = row_ok[:, None] & s_ok[None, :]
    target = out + row.to(tl.int64)[:, None] * length + s[None, :]
    if (tl.program_id(0) * BLOCK_S <= last) & (begin < end):
        group = tl.load(groups + used)
        scores = product_tile(
            c_maps + batch * stride_cb + group * stride_cg, stride_ct, t, row_ok,
            b_maps + batch * stride_bb + group * stride_bg, stride_bt, s, s_ok,
            N, PRECISION, BLOCK_T, BLOCK_S, BLOCK_N,
        )  # fmt: skip
        plane = (batch * n_selected + tl.load(slots + begin)) * n_rows * length
        scores = restaged(scores, target + plane, ok)
        pivot = tl.minimum(tl.program_id(0) * BLOCK_S + BLOCK_S, length) - 1
        if is_below_diagonal(t, row_ok, pivot):
            for i in range(begin, end):
                trace = running + (batch * n_selected + i) * 3 * length
                since, until = decay_vectors(trace, length, t, row_ok, s, s_ok, pivot)
                plane = (batch * n_selected + tl.load(slots + i)) * n_rows * length
                tl.store(target + plane, scores * (since[:, None] * until[None, :]), mask=ok, cache_modifier=STORES)
        else:
            causal = s[None, :] <= t[:, None]
            for i in range(begin, end):
                trace = running + (batch * n_selected + i) * 3 * length
                decay, dt_s = decay_tile(trace, length, t, row_ok, s, s_ok)
                tile = tl.where(causal, scores * (decay * dt_s[None, :]), 0.0)
                plane = (batch * n_selected + tl.load(slots + i)) * n_rows * length
                tl.store(target + plane, tile, mask=ok, cache_modifier=STORES)
    else:
        for i in range(begin, end):
            plane = (batch * n_selected + tl.load(slots + i)) * n_rows * length
            tl.store(target + plane, tl.zeros((BLOCK_T, BLOCK_S), tl.float32), mask=ok, cache_modifier=STORES)


@triton.jit
@no_type_check
def _reduced_kernel(
    out, winner, running, b_maps, c_maps, rows, groups, offsets, scale,
    n_rows, length, n_selected, n_used, stride_bb, stride_bt, stride_bg, stride_cb, stride_ct, stride_cg,
    FORM: tl.constexpr, STORE_WINNER: tl.constexpr, N: tl.constexpr, ALL_ROWS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of a reduction over the selected heads; the winner is an index into the plan's order."""
    batch = tl.program_id(2).to(tl.int64)
    row, t, row_ok, last = destination_rows(rows, tl.program_id(1) * BLOCK_T, n_rows, ALL_ROWS, BLOCK_T)
    s = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    s_ok = s < length
    ok = row_ok[:, None] & s_ok[None, :]
    place = (batch * n_rows + row)[:, None] * length + s[None, :]
    total = tl.zeros((BLOCK_T, BLOCK_S), tl.float32)
    best = tl.zeros((BLOCK_T, BLOCK_S), tl.int32)
    pivot = tl.minimum(tl.program_id(0) * BLOCK_S + BLOCK_S, length) - 1
    is_below = is_below_diagonal(t, row_ok, pivot)
    if tl.program_id(0) * BLOCK_S <= last:
        for used in range(0, n_used):
            group = tl.load(groups + used)
            scores = product_tile(
                c_maps + batch * stride_cb + group * stride_cg, stride_ct, t, row_ok,
                b_maps + batch * stride_bb + group * stride_bg, stride_bt, s, s_ok,
                N, PRECISION, BLOCK_T, BLOCK_S, BLOCK_N,
            )  # fmt: skip
            scores = restaged(scores, out + place, ok)
            for i in range(tl.load(offsets + used), tl.load(offsets + used + 1)):
                trace = running + (batch * n_selected + i) * 3 * length
                if is_below:
                    since, until = decay_vectors(trace, length, t, row_ok, s, s_ok, pivot)
                    hidden = scores * (since[:, None] * until[None, :])
                else:
                    decay, dt_s = decay_tile(trace, length, t, row_ok, s, s_ok)
                    hidden = scores * (decay * dt_s[None, :])
                if FORM == "mean":
                    total += hidden
                elif FORM == "abs_mean":
                    total += tl.abs(hidden)
                else:
                    if STORE_WINNER:
                        best = tl.where(tl.abs(hidden) > total, i, best)
                    total = tl.maximum(total, tl.abs(hidden))
    causal = s[None, :] <= t[:, None]
    tl.store(out + place, tl.where(causal, total * scale, 0.0), mask=ok)
    if STORE_WINNER:
        tl.store(winner + place, best.to(tl.int16), mask=ok)
