"""Gradients of hidden attention and of everything that is a sum over its heads.

With G = C B^T, E = exp(cum[t] - cum[s]), H = G E dt and dH the gradient of H (all for s <= t):

    dG[t,s] = sum_h dH E dt[s]          dC = dG B          dB = dG^T C
    pull[h,t,s] = dH G E                ddt[s] = sum_t pull
    dcum[t] += sum_s pull dt[s]         dcum[s] -= dt[s] sum_t pull

    full:     dH = d_out[h]                     mean:    dH = d_out / n
    abs_mean: dH = d_out sign(H) / n            max_abs: dH = d_out sign(H) for the winner, else 0
    contribution: dH[h,t,s] = d_out[t,s] <v[t,h], x[s,h]>

One kernel reads d_out once, keeps dG in registers over the heads of a group, and writes the sums over t and
over s of each tile apart: it needs no atomic additions, whose order would change from run to run.
"""

from typing import NamedTuple, no_type_check

import torch
from torch import Tensor

from diffmamba_interp.ops.kernels.running_decay import HeadPlan, decay_gradients
from diffmamba_interp.ops.kernels.tiles import Tiles, decay_tile, destination_rows, product_tile, restaged
from diffmamba_interp.ops.kernels.triton_import import tl, triton


class ScoreGradients(NamedTuple):
    """What the gradient kernel leaves.

    d_scores, scores: [batch, used group, row, pos], dG and (for contributions, else None) G.
    d_dt, d_cum: [batch, selected, pos], d_cum in float64.
    """

    d_scores: Tensor
    scores: Tensor | None
    d_dt: Tensor
    d_cum: Tensor


def hidden_attention_gradients(
    d_out: Tensor, running: Tensor, B: Tensor, C: Tensor, rows: Tensor | None, winner: Tensor | None,
    plan: HeadPlan, n_heads: int, form: str, precision: str, tiles: Tiles,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of dt and log_decay [batch, pos, head] in float32, and of B and C in their dtype."""
    parts = score_gradients(d_out, running, B, C, rows, winner, None, None, plan, form, precision, tiles)
    d_dt, d_log_decay = decay_gradients(parts.d_cum, parts.d_dt, plan, n_heads)
    return d_dt, d_log_decay, *map_gradients(parts.d_scores, B, C, rows, plan)


def score_gradients(
    d_out: Tensor, running: Tensor, B: Tensor, C: Tensor, rows: Tensor | None, winner: Tensor | None,
    v: Tensor | None, x: Tensor | None, plan: HeadPlan, form: str, precision: str, tiles: Tiles,
) -> ScoreGradients:  # fmt: skip
    """Run the gradient kernel and add up its partial sums; v and x are those of a contribution."""
    d_out = d_out.contiguous()
    batch, length, n_rows = B.shape[0], B.shape[1], d_out.shape[-2]
    grid = (triton.cdiv(length, tiles.block_s), triton.cdiv(n_rows, tiles.block_t), batch * plan.n_groups)
    d_scores = torch.empty(batch, plan.n_groups, n_rows, length, dtype=torch.float32, device=d_out.device)
    scores = torch.empty_like(d_scores) if form == "contribution" else None
    # Zeros, because tiles above the diagonal leave theirs untouched.
    over_t = d_scores.new_zeros(batch, plan.n_heads, grid[1], length)
    over_s = d_scores.new_zeros(batch, plan.n_heads, grid[0], n_rows)
    if d_out.numel() > 0:
        with torch.cuda.device_of(d_out):
            _gradient_kernel[grid](
                d_scores, scores, over_t, over_s, d_out, winner, running, B, C, v, x, rows,
                plan.head, plan.slot, plan.group, plan.offset,
                1.0 / plan.n_heads if form in ("mean", "abs_mean") else 1.0,
                n_rows, length, plan.n_heads, plan.n_groups, *B.stride()[:3], *C.stride()[:3],
                *(v.stride()[:3] if v is not None else (0, 0, 0)),
                *(x.stride()[:3] if x is not None else (0, 0, 0)),
                FORM=form, P=0 if x is None else x.shape[3], N=B.shape[3], ALL_ROWS=rows is None,
                PRECISION=precision, BLOCK_T=tiles.block_t, BLOCK_S=tiles.block_s, BLOCK_N=tiles.block_n,
                num_warps=tiles.num_warps, num_stages=tiles.num_stages,
            )  # fmt: skip
    d_dt = over_t.sum(2)
    d_cum = -(d_dt * running[:, :, 2]).double()
    from_rows = over_s.sum(2).double()
    d_cum = d_cum + from_rows if rows is None else d_cum.index_add(2, rows, from_rows)
    return ScoreGradients(d_scores, scores, d_dt, d_cum)


def map_gradients(d_scores: Tensor, B: Tensor, C: Tensor, rows: Tensor | None, plan: HeadPlan) -> tuple[Tensor, Tensor]:
    """dB = dG^T C and dC = dG B, in the dtype of B and C; zero for groups that no selected head reads."""
    used = plan.group.long()
    b, c = (value.float()[:, :, used].transpose(1, 2) for value in (B, C))
    c = c if rows is None else c[:, :, rows]
    d_b, d_c = d_scores.transpose(2, 3) @ c, d_scores @ b
    if rows is not None:
        d_c = torch.zeros_like(b).index_add(2, rows, d_c)
    d_B, d_C = torch.zeros_like(B), torch.zeros_like(C)
    d_B[:, :, used] = d_b.transpose(1, 2).to(B.dtype)
    d_C[:, :, used] = d_c.transpose(1, 2).to(C.dtype)
    return d_B, d_C


@triton.jit
@no_type_check
def _gradient_kernel(
    d_scores, scores_out, over_t, over_s, d_out, winner, running, b_maps, c_maps, v, x, rows,
    heads, slots, groups, offsets, scale, n_rows, length, n_selected, n_used,
    stride_bb, stride_bt, stride_bg, stride_cb, stride_ct, stride_cg,
    stride_vb, stride_vt, stride_vh, stride_xb, stride_xt, stride_xh,
    FORM: tl.constexpr, P: tl.constexpr, N: tl.constexpr, ALL_ROWS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of dG for one group, and what the tile adds to ddt and dcum of the group's heads."""
    used = tl.program_id(2) % n_used
    batch = (tl.program_id(2) // n_used).to(tl.int64)
    n_t_tiles = tl.num_programs(1)
    n_s_tiles = tl.num_programs(0)
    row, t, row_ok, last = destination_rows(rows, tl.program_id(1) * BLOCK_T, n_rows, ALL_ROWS, BLOCK_T)
    s = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    s_ok = s < length
    ok = row_ok[:, None] & s_ok[None, :]
    causal = s[None, :] <= t[:, None]
    place = row.to(tl.int64)[:, None] * length + s[None, :]
    target = (batch * n_used + used) * n_rows * length + place
    scores = tl.zeros((BLOCK_T, BLOCK_S), tl.float32)
    total = tl.zeros((BLOCK_T, BLOCK_S), tl.float32)
    if tl.program_id(0) * BLOCK_S <= last:
        group = tl.load(groups + used)
        scores = product_tile(
            c_maps + batch * stride_cb + group * stride_cg, stride_ct, t, row_ok,
            b_maps + batch * stride_bb + group * stride_bg, stride_bt, s, s_ok,
            N, PRECISION, BLOCK_T, BLOCK_S, BLOCK_N,
        )  # fmt: skip
        if FORM != "contribution":
            scores = restaged(scores, d_scores + target, ok)
        for i in range(tl.load(offsets + used), tl.load(offsets + used + 1)):
            selected = batch * n_selected + i
            decay, dt_s = decay_tile(running + selected * 3 * length, length, t, row_ok, s, s_ok)
            share = decay * dt_s[None, :]
            plane = batch
            if FORM == "full":
                plane = batch * n_selected + tl.load(slots + i)
            d_hidden = tl.load(d_out + plane * n_rows * length + place, mask=ok, other=0.0) * scale
            d_hidden = tl.where(causal, d_hidden, 0.0)
            if FORM == "abs_mean" or FORM == "max_abs":
                hidden = scores * share
                d_hidden = tl.where(hidden > 0, d_hidden, tl.where(hidden < 0, -d_hidden, 0.0))
            if FORM == "max_abs":
                best = tl.load(winner + batch * n_rows * length + place, mask=ok, other=-1)
                d_hidden = tl.where(best == i, d_hidden, 0.0)
            if FORM == "contribution":
                head = tl.load(heads + i)
                d_hidden *= product_tile(
                    v + batch * stride_vb + head * stride_vh, stride_vt, row, row_ok,
                    x + batch * stride_xb + head * stride_xh, stride_xt, s, s_ok,
                    P, PRECISION, BLOCK_T, BLOCK_S, BLOCK_N,
                )  # fmt: skip
            total += d_hidden * share
            pull = d_hidden * scores * decay
            tl.store(over_t + (selected * n_t_tiles + tl.program_id(1)) * length + s, tl.sum(pull, 0), mask=s_ok)
            row_sum = tl.sum(pull * dt_s[None, :], 1)
            tl.store(over_s + (selected * n_s_tiles + tl.program_id(0)) * n_rows + row, row_sum, mask=row_ok)
    tl.store(d_scores + target, total, mask=ok)
    if FORM == "contribution":
        tl.store(scores_out + target, scores, mask=ok)
