"""Contribution of each source position along a direction, summed over heads on the fly, with gradients.

    K[t,s] = sum_h (H[h,t,s] + D[h] [t=s]) <v[t,h], x[s,h]>             s <= t, else 0
    H[h,t,s] = G[t,s] E[h,t,s] dt[s,h],   G = C B^T of the head's group,   E = exp(cum[t] - cum[s])

v[t,h] is the gradient of <direction, mixer_out[t]> with respect to the scan's output, scales frozen. One
program takes a tile of K: G once per group, then one product v x^T per head. No head axis in memory.

    dH = dK <v, x>                      the rest as in `hidden_attention_backward`
    dv[t,h] = sum_s dK (H + D [t=s]) x[s,h]             dx[s,h] = sum_t dK (H + D [t=s]) v[t,h]
    dD[h] = sum_t dK[t,t] <v[t,h], x[t,h]>
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffmamba_interp.ops.kernels.contribution_backward import contribution_gradients
from diffmamba_interp.ops.kernels.hidden_attention import checked_rows, decay_or_product
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
)
from diffmamba_interp.ops.kernels.triton_import import check_launchable, tl, triton

CONTRIBUTION_TILES = Tiles(block_n=64)
BACKWARD_TILES = Tiles(num_warps=8)


def fused_contribution(
    v: Float[Tensor, "batch row head d_head"],
    x: Float[Tensor, "batch pos head d_head"],
    dt: Float[Tensor, "batch pos head"],
    A: Float[Tensor, " head"] | None,
    B: Float[Tensor, "batch pos group d_state"],
    C: Float[Tensor, "batch pos group d_state"],
    D: Float[Tensor, " head"] | None = None,
    *,
    log_decay: Float[Tensor, "batch pos head"] | None = None,
    rows: Int[Tensor, " row"] | None = None,
    heads: Sequence[int] | None = None,
    input_precision: InputPrecision = DEFAULT_INPUT_PRECISION,
    tiles: Tiles | None = None,
) -> Float[Tensor, "batch row pos"]:
    """Contribution along a direction by a Triton kernel, in float32; memory for the result alone.

    Differentiable (first order) in v, x, dt, A or log_decay, B, C and D; the backward keeps
    2 [batch, group, row, pos] tensors.

    Args:
        v: direction per destination row and head; with `rows`, v[:, i] belongs to position rows[i].
        x: inputs of the scan.
        dt: step sizes, after softplus and clamp.
        A: decay rate per head, negative; None when log_decay is given.
        B: input maps; any strides over batch, position and group.
        C: output maps at all positions, likewise.
        D: skip weight per head; none when None.
        log_decay: dt * A, where it is at hand or was changed; nowhere positive.
        rows: destination positions to compute, in any order; all when None.
        heads: heads to sum over; all when None.
        input_precision: of products of float32 inputs; bfloat16 and float16 inputs are multiplied exactly.
        tiles: shape of the work of one program.

    Returns:
        [batch, dest_pos, src_pos].

    Raises:
        ImportError, RuntimeError: no Triton, or no GPU (see `check_launchable`).
        ValueError: both or neither of A and log_decay, an unknown precision, v without one row per
            destination, rows or heads outside the sequence or model.
    """
    check_launchable("fused_contribution", v, x, dt, A, B, C, D, log_decay, rows)
    check_precision(input_precision)
    n_rows = x.shape[1] if rows is None else rows.numel()
    if v.shape[1] != n_rows:
        raise ValueError(f"v needs one row per destination: {n_rows} are asked for, but v has {v.shape[1]}.")
    log_decay = decay_or_product(dt, A, log_decay)
    B, C = in_one_dtype(B, C)
    v, x = in_one_dtype(v, x)
    rows = checked_rows(rows, dt.shape[1])
    plan = plan_heads(heads, dt.shape[2], B.shape[2], dt.device)
    return _Contribution.apply(v, x, dt, log_decay, B, C, D, rows, plan, input_precision, tiles or CONTRIBUTION_TILES)


class _Contribution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, v: Tensor, x: Tensor, dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
        rows: Tensor | None, *setting: Any,
    ) -> Tensor:  # fmt: skip
        plan, precision, tiles = setting
        running = running_decay(dt, log_decay, plan)
        batch, length, n_rows = x.shape[0], x.shape[1], v.shape[1]
        out = torch.empty(batch, n_rows, length, dtype=torch.float32, device=x.device)
        ctx.save_for_backward(running, v, x, B, C, D, rows)
        ctx.setting, ctx.n_heads, ctx.dtypes = setting, dt.shape[2], (dt.dtype, log_decay.dtype)
        if out.numel() == 0:
            return out
        grid = (triton.cdiv(length, tiles.block_s), triton.cdiv(n_rows, tiles.block_t), batch)
        with torch.cuda.device_of(x):
            _contribution_kernel[grid](
                out, running, v, x, B, C, D, rows, plan.head, plan.group, plan.offset,
                n_rows, length, plan.n_heads, plan.n_groups,
                *B.stride()[:3], *C.stride()[:3], *v.stride()[:3], *x.stride()[:3],
                HAS_D=D is not None, P=x.shape[3], N=B.shape[3], ALL_ROWS=rows is None, PRECISION=precision,
                BLOCK_T=tiles.block_t, BLOCK_S=tiles.block_s, BLOCK_N=tiles.block_n,
                num_warps=tiles.num_warps, num_stages=tiles.num_stages,
            )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        plan, precision, _ = ctx.setting
        running, v, x, B, C, D, rows = ctx.saved_tensors
        d_v, d_x, d_dt, d_log_decay, d_B, d_C, d_D = contribution_gradients(
            d_out, running, v, x, B, C, D, rows, plan, ctx.n_heads, precision, BACKWARD_TILES
        )
        d_dt, d_log_decay = d_dt.to(ctx.dtypes[0]), d_log_decay.to(ctx.dtypes[1])
        return d_v, d_x, d_dt, d_log_decay, d_B, d_C, d_D, None, None, None, None


@triton.jit
@no_type_check
def _contribution_kernel(
    out, running, v, x, b_maps, c_maps, skip, rows, heads, groups, offsets,
    n_rows, length, n_selected, n_used, stride_bb, stride_bt, stride_bg, stride_cb, stride_ct, stride_cg,
    stride_vb, stride_vt, stride_vh, stride_xb, stride_xt, stride_xh,
    HAS_D: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ALL_ROWS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of K, summed over the selected heads."""
    batch = tl.program_id(2).to(tl.int64)
    row, t, row_ok, last = destination_rows(rows, tl.program_id(1) * BLOCK_T, n_rows, ALL_ROWS, BLOCK_T)
    s = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    s_ok = s < length
    diagonal = s[None, :] == t[:, None]
    total = tl.zeros((BLOCK_T, BLOCK_S), tl.float32)
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
            for i in range(tl.load(offsets + used), tl.load(offsets + used + 1)):
                head = tl.load(heads + i)
                along = product_tile(
                    v + batch * stride_vb + head * stride_vh, stride_vt, row, row_ok,
                    x + batch * stride_xb + head * stride_xh, stride_xt, s, s_ok,
                    P, PRECISION, BLOCK_T, BLOCK_S, BLOCK_N,
                )  # fmt: skip
                trace = running + (batch * n_selected + i) * 3 * length
                if is_below:
                    since, until = decay_vectors(trace, length, t, row_ok, s, s_ok, pivot)
                    weight = scores * (since[:, None] * until[None, :])
                else:
                    decay, dt_s = decay_tile(trace, length, t, row_ok, s, s_ok)
                    weight = scores * (decay * dt_s[None, :])
                if HAS_D:
                    weight += tl.where(diagonal, tl.load(skip + head).to(tl.float32), 0.0)
                total += weight * along
    place = (batch * n_rows + row)[:, None] * length + s[None, :]
    causal = s[None, :] <= t[:, None]
    tl.store(out + place, tl.where(causal, total, 0.0), mask=row_ok[:, None] & s_ok[None, :])
