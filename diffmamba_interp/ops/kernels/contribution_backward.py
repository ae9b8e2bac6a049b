"""Gradients of the contribution along a direction.

    dv[t,h] = sum_s dK[t,s] H[h,t,s] x[s,h] + D[h] dK[t,t] x[t,h]
    dx[s,h] = sum_t dK[t,s] H[h,t,s] v[t,h] + D[h] dK[s,s] v[s,h]
    dD[h]   = sum_t dK[t,t] <v[t,h], x[t,h]>

and, with dH = dK <v, x>, the gradients of dt, log_decay, B and C as in `hidden_attention_backward`, whose
kernel also leaves G = C B^T behind. The two kernels here read G instead of computing it once per head.
"""

from typing import no_type_check

import torch
from torch import Tensor

from diffmamba_interp.ops.kernels.hidden_attention_backward import map_gradients, score_gradients
from diffmamba_interp.ops.kernels.running_decay import HeadPlan, decay_gradients
from diffmamba_interp.ops.kernels.tiles import Tiles, decay_tile, destination_rows
from diffmamba_interp.ops.kernels.triton_import import tl, triton


def contribution_gradients(
    d_out: Tensor, running: Tensor, v: Tensor, x: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    rows: Tensor | None, plan: HeadPlan, n_heads: int, precision: str, tiles: Tiles,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of v, x, dt, log_decay, B, C and D (None without D); dt's and log_decay's in float32."""
    d_out = d_out.contiguous()
    parts = score_gradients(d_out, running, B, C, rows, None, v, x, plan, "contribution", precision, tiles)
    d_v, d_x = _vector_gradients(d_out, parts.scores, running, v, x, rows, plan, precision, tiles)
    d_D = None if D is None else _add_skip(d_out, v, x, D, rows, plan, d_v, d_x)
    d_dt, d_log_decay = decay_gradients(parts.d_cum, parts.d_dt, plan, n_heads)
    d_B, d_C = map_gradients(parts.d_scores, B, C, rows, plan)
    return d_v.to(v.dtype), d_x.to(x.dtype), d_dt, d_log_decay, d_B, d_C, d_D


def _vector_gradients(
    d_out: Tensor, scores: Tensor | None, running: Tensor, v: Tensor, x: Tensor, rows: Tensor | None,
    plan: HeadPlan, precision: str, tiles: Tiles,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What H passes to v and x, contiguous float32; zero for heads that were not selected."""
    batch, length, n_rows, d_head = x.shape[0], x.shape[1], v.shape[1], x.shape[3]
    group_of = torch.repeat_interleave(plan.offset.diff(), output_size=plan.n_heads)
    d_v = torch.zeros(v.shape, dtype=torch.float32, device=v.device)
    d_x = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    if d_out.numel() == 0:
        return d_v, d_x
    for target, other, kernel, size, block in (
        (d_v, x, _row_kernel, n_rows, tiles.block_t),
        (d_x, v, _column_kernel, length, tiles.block_s),
    ):
        with torch.cuda.device_of(x):
            kernel[(triton.cdiv(size, block), plan.n_heads, batch)](
                target, d_out, scores, other, running, rows, plan.head, group_of,
                n_rows, length, x.shape[2], plan.n_heads, plan.n_groups, *other.stride()[:3],
                P=d_head, BLOCK_P=max(16, triton.next_power_of_2(d_head)), ALL_ROWS=rows is None,
                PRECISION=precision, BLOCK_T=tiles.block_t, BLOCK_S=tiles.block_s,
                num_warps=tiles.num_warps, num_stages=tiles.num_stages,
            )  # fmt: skip
    return d_v, d_x


def _add_skip(
    d_out: Tensor, v: Tensor, x: Tensor, D: Tensor, rows: Tensor | None, plan: HeadPlan,
    d_v: Tensor, d_x: Tensor,
) -> Tensor:  # fmt: skip
    """Add what the skip connection passes to d_v and d_x, in place, and return dD."""
    rows = torch.arange(x.shape[1], device=x.device) if rows is None else rows
    selected = torch.zeros_like(D, dtype=torch.float32)
    selected[plan.head.long()] = 1.0
    diagonal = d_out.gather(2, rows[None, :, None].expand(d_out.shape[0], -1, 1))[..., None]
    x_rows, v = x.float()[:, rows], v.float()
    weight = (D.float() * selected)[:, None]
    d_v += diagonal * weight * x_rows
    d_x.index_add_(1, rows, diagonal * weight * v)
    return ((diagonal * v * x_rows).sum(dim=(0, 1, 3)) * selected).to(D.dtype)


@triton.jit
@no_type_check
def _weight_tile(d_out, scores, running, length, row, t, row_ok, s, s_ok):
    """dK H of one head, 0 outside the causal part; d_out, scores and running are those of one head."""
    place = row.to(tl.int64)[:, None] * length + s[None, :]
    ok = row_ok[:, None] & s_ok[None, :]
    decay, dt_s = decay_tile(running, length, t, row_ok, s, s_ok)
    pulled = tl.load(d_out + place, mask=ok, other=0.0) * tl.load(scores + place, mask=ok, other=0.0)
    return tl.where(s[None, :] <= t[:, None], pulled * (decay * dt_s[None, :]), 0.0)


@triton.jit
@no_type_check
def _row_kernel(
    d_v, d_out, scores, x, running, rows, heads, group_of,
    n_rows, length, n_heads, n_selected, n_used, stride_b, stride_t, stride_h,
    P: tl.constexpr, BLOCK_P: tl.constexpr, ALL_ROWS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """dv of BLOCK_T rows of one head: a pass over the sources up to the last of them."""
    i = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    head = tl.load(heads + i)
    row, t, row_ok, last = destination_rows(rows, tl.program_id(0) * BLOCK_T, n_rows, ALL_ROWS, BLOCK_T)
    d_out += batch * n_rows * length
    scores += (batch * n_used + tl.load(group_of + i)) * n_rows * length
    running += (batch * n_selected + i) * 3 * length
    p = tl.arange(0, BLOCK_P)
    total = tl.zeros((BLOCK_T, BLOCK_P), tl.float32)
    for start in range(0, last + 1, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        s_ok = s < length
        weight = _weight_tile(d_out, scores, running, length, row, t, row_ok, s, s_ok)
        source = x + batch * stride_b + head * stride_h + s.to(tl.int64)[:, None] * stride_t + p[None, :]
        x_s = tl.load(source, mask=s_ok[:, None] & (p < P)[None, :], other=0.0).to(tl.float32)
        total = tl.dot(weight, x_s, total, input_precision=PRECISION)
    target = d_v + ((batch * n_rows + row)[:, None] * n_heads + head) * P + p[None, :]
    tl.store(target, total, mask=row_ok[:, None] & (p < P)[None, :])


@triton.jit
@no_type_check
def _column_kernel(
    d_x, d_out, scores, v, running, rows, heads, group_of,
    n_rows, length, n_heads, n_selected, n_used, stride_b, stride_t, stride_h,
    P: tl.constexpr, BLOCK_P: tl.constexpr, ALL_ROWS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """dx of BLOCK_S sources of one head: a pass over the rows, from the diagonal on."""
    i = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    head = tl.load(heads + i)
    s = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    s_ok = s < length
    d_out += batch * n_rows * length
    scores += (batch * n_used + tl.load(group_of + i)) * n_rows * length
    running += (batch * n_selected + i) * 3 * length
    p = tl.arange(0, BLOCK_P)
    total = tl.zeros((BLOCK_S, BLOCK_P), tl.float32)
    begin = 0  # rows that were picked may be in any order
    if ALL_ROWS:
        begin = tl.program_id(0) * BLOCK_S // BLOCK_T * BLOCK_T
    for start in range(begin, n_rows, BLOCK_T):
        row, t, row_ok, _ = destination_rows(rows, start, n_rows, ALL_ROWS, BLOCK_T)
        weight = _weight_tile(d_out, scores, running, length, row, t, row_ok, s, s_ok)
        source = v + batch * stride_b + head * stride_h + row.to(tl.int64)[:, None] * stride_t + p[None, :]
        v_t = tl.load(source, mask=row_ok[:, None] & (p < P)[None, :], other=0.0).to(tl.float32)
        total = tl.dot(tl.trans(weight), v_t, total, input_precision=PRECISION)
    target = d_x + ((batch * length + s)[:, None] * n_heads + head) * P + p[None, :]
    tl.store(target, total, mask=s_ok[:, None] & (p < P)[None, :])
