"""Hidden attention of a Mamba-1 scan per channel, or reduced over channels on the fly, forward only.

    H[d,t,s] = sum_n C[t,n] exp(A[d,n] (cum[t,d] - cum[s,d])) dt[s,d] B[s,n]  for s <= t, else 0     cum = cumsum(dt)

    mean[t,s] = mean_d H[d,t,s],   abs_mean[t,s] = mean_d |H[d,t,s]|,   max_abs[t,s] = max_d |H[d,t,s]|
    along[t,s] = sum_d H[d,t,s] v[t,d] x[s,d]

A tile of destinations times a tile of sources before it is a product over the states of two factors, with r the tile's
first destination, so that no exponential is taken per pair and none can overflow:

    late[t,n] = C[t,n] exp(A[d,n] (cum[t] - cum[r]))       early[n,s] = exp(A[d,n] (cum[r] - cum[s])) dt[s] B[s,n]

Tiles of 64 leave squares on the diagonal; inside them, tiles of 16 leave smaller ones, which are computed pair by pair.
A program takes one tile and a share of the channels in a loop. A sum along a direction is one product over all channels
and states, accumulated in place.
"""

from collections.abc import Sequence
from typing import Literal, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.ops.kernels.running_decay import plan_heads, running_decay
from diffmamba_interp.ops.kernels.tiles import DEFAULT_INPUT_PRECISION, InputPrecision, check_precision
from diffmamba_interp.ops.kernels.triton_import import check_launchable, tl, triton

Reduction = Literal["mean", "abs_mean", "max_abs"]

BLOCK = 64
SMALL_BLOCK = 16
"""Destinations and sources of a tile, and of one on the diagonal; the first is a multiple of the second."""

MANY_PROGRAMS = 2048
MAX_SHARES = 8
"""Channels are divided among up to so many programs a tile, as long as there are fewer programs than that."""


def fused_selective_attention(
    dt: Float[Tensor, "batch pos channel"],
    A: Float[Tensor, "channel d_state"],
    B: Float[Tensor, "batch pos d_state"],
    C: Float[Tensor, "batch pos d_state"],
    *,
    heads: Sequence[int] | None = None,
    reduce: Reduction | None = None,
    input_precision: InputPrecision = DEFAULT_INPUT_PRECISION,
) -> Float[Tensor, "batch selected pos pos"] | Float[Tensor, "batch pos pos"]:
    """Hidden attention of the chosen channels (all if None) by a Triton kernel, in float32; all destinations.

    Reduced, it takes the memory of up to `MAX_SHARES` results. Not differentiable.

    Raises:
        ImportError, RuntimeError: no Triton, or no GPU (see `check_launchable`). ValueError: an unknown reduction.
    """
    check_launchable("fused_selective_attention", dt, A, B, C)
    if reduce not in (None, "mean", "abs_mean", "max_abs"):
        raise ValueError(f'reduce must be None, "mean", "abs_mean" or "max_abs", but is {reduce!r}.')
    return _launch(dt, A, B, C, None, None, heads, reduce or "full", input_precision)


def fused_selective_contribution(
    v: Float[Tensor, "batch pos channel"],
    x: Float[Tensor, "batch pos channel"],
    dt: Float[Tensor, "batch pos channel"],
    A: Float[Tensor, "channel d_state"],
    B: Float[Tensor, "batch pos d_state"],
    C: Float[Tensor, "batch pos d_state"],
    D: Float[Tensor, " channel"],
    *,
    heads: Sequence[int] | None = None,
    input_precision: InputPrecision = DEFAULT_INPUT_PRECISION,
) -> Float[Tensor, "batch pos pos"]:
    """sum_d (H[d,t,s] + D[d] [t=s]) v[t,d] x[s,d] over the chosen channels; arguments as above."""
    check_launchable("fused_selective_contribution", v, x, dt, A, B, C, D)
    out = _launch(dt, A, B, C, v, x, heads, "along", input_precision)
    chosen = list(range(dt.shape[2]) if heads is None else heads)
    same = torch.einsum("btd,btd,d->bt", v[:, :, chosen].float(), x[:, :, chosen].float(), D[chosen].float())
    out.diagonal(dim1=1, dim2=2).add_(same)
    return out


def _launch(
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    v: Tensor | None,
    x: Tensor | None,
    heads: Sequence[int] | None,
    form: str,
    precision: InputPrecision,
) -> Tensor:
    check_precision(precision)
    plan = plan_heads(heads, dt.shape[2], 1, dt.device)
    (batch, length, _), n_channels = dt.shape, plan.n_heads
    chosen = plan.head.long()
    rates = A[chosen].float().contiguous()
    running = running_decay(dt, dt, plan)
    B, C = B.float().contiguous(), C.float().contiguous()
    v, x = (None if value is None else value[:, :, chosen].float().mT.contiguous() for value in (v, x))
    n_tiles = triton.cdiv(length, BLOCK)
    shares = 1 if form == "full" else min(MAX_SHARES, n_channels, triton.cdiv(MANY_PROGRAMS, batch * n_tiles**2))
    shape = (batch, n_channels, length, length) if form == "full" else (shares, batch, length, length)
    out = torch.zeros(shape, dtype=torch.float32, device=dt.device)
    if out.numel() == 0:
        return out if form == "full" else out.sum(dim=0)
    share = n_channels if form == "full" else triton.cdiv(n_channels, shares)
    shares = triton.cdiv(n_channels, share)
    d_state = A.shape[1]
    sizes = dict(N=d_state, BLOCK_N=max(16, triton.next_power_of_2(d_state)), FORM=form)
    arguments = (out, running, rates, B, C, v, x, length, n_channels, share)
    n_small = triton.cdiv(length, SMALL_BLOCK)
    with torch.cuda.device_of(dt):
        for block, tiles, group in ((BLOCK, n_tiles, n_tiles), (SMALL_BLOCK, n_small, BLOCK // SMALL_BLOCK)):
            _below_kernel[(tiles, group, batch * shares)](
                *arguments, group, GROUP_BLOCK=block, PRECISION=precision, num_warps=4 if block == BLOCK else 1, **sizes
            )
        _diagonal_kernel[(n_small, batch * shares)](*arguments, GROUP_BLOCK=SMALL_BLOCK, num_warps=4, **sizes)
    if form == "full":
        return out
    if form == "max_abs":
        return out.amax(dim=0)
    return out.sum(dim=0) if form == "along" else out.sum(dim=0) / n_channels


@triton.jit
@no_type_check
def _below_kernel(
    out, running, rates, b_maps, c_maps, v, x, length, n_channels, share, group,
    N: tl.constexpr, BLOCK_N: tl.constexpr, FORM: tl.constexpr, GROUP_BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile below the diagonal: destination tile i, source tile j < i of the same group of tiles."""
    i = tl.program_id(0)
    j = (i // group) * group + tl.program_id(1)
    if j < i:
        n_batch = tl.num_programs(2) // tl.cdiv(n_channels, share)
        batch = tl.program_id(2) % n_batch
        part = tl.program_id(2) // n_batch
        t = i * GROUP_BLOCK + tl.arange(0, GROUP_BLOCK)
        s = j * GROUP_BLOCK + tl.arange(0, GROUP_BLOCK)
        n = tl.arange(0, BLOCK_N)
        t_ok = t < length
        maps = batch.to(tl.int64) * length * N
        c = tl.load(c_maps + maps + t[:, None] * N + n[None, :], mask=t_ok[:, None] & (n[None, :] < N), other=0.0)
        b = tl.load(b_maps + maps + s[None, :] * N + n[:, None], mask=n[:, None] < N, other=0.0)
        total = tl.zeros((GROUP_BLOCK, GROUP_BLOCK), tl.float32)
        for d in range(part * share, min((part + 1) * share, n_channels)):
            channel = batch.to(tl.int64) * n_channels + d
            high = running + channel * 3 * length
            a = tl.load(rates + d * N + n, mask=n < N, other=0.0)
            first_high, first_low = tl.load(high + i * GROUP_BLOCK), tl.load(high + length + i * GROUP_BLOCK)
            since = tl.load(high + t, mask=t_ok, other=0.0) - first_high
            since += tl.load(high + length + t, mask=t_ok, other=0.0) - first_low
            until = (first_high - tl.load(high + s)) + (first_low - tl.load(high + length + s))
            # Behind the sequence's end `since` is negative and could overflow.
            since = tl.where(t_ok, since, 0.0)
            weight = tl.load(high + 2 * length + s)
            late = c * tl.exp2(a[None, :] * since[:, None])
            early = b * tl.exp2(a[:, None] * until[None, :])
            if FORM == "along":
                late *= tl.load(v + channel * length + t, mask=t_ok, other=0.0)[:, None]
                early *= (weight * tl.load(x + channel * length + s))[None, :]
                total = tl.dot(late, early, total, input_precision=PRECISION)
            else:
                H = tl.dot(late, early * weight[None, :], input_precision=PRECISION)
                if FORM == "full":
                    place = (channel * length + t[:, None]) * length + s[None, :]
                    tl.store(out + place, H, mask=t_ok[:, None])
                elif FORM == "mean":
                    total += H
                elif FORM == "abs_mean":
                    total += tl.abs(H)
                else:
                    total = tl.maximum(total, tl.abs(H))
        if FORM != "full":
            place = ((part * n_batch + batch).to(tl.int64) * length + t[:, None]) * length + s[None, :]
            tl.store(out + place, total, mask=t_ok[:, None])


@triton.jit
@no_type_check
def _diagonal_kernel(
    out, running, rates, b_maps, c_maps, v, x, length, n_channels, share,
    N: tl.constexpr, BLOCK_N: tl.constexpr, FORM: tl.constexpr, GROUP_BLOCK: tl.constexpr,
):  # fmt: skip
    """A square on the diagonal, pair by pair; masked before the exponential."""
    i = tl.program_id(0)
    n_batch = tl.num_programs(1) // tl.cdiv(n_channels, share)
    batch = tl.program_id(1) % n_batch
    part = tl.program_id(1) // n_batch
    t = i * GROUP_BLOCK + tl.arange(0, GROUP_BLOCK)
    n = tl.arange(0, BLOCK_N)
    ok = t < length
    both = ok[:, None] & (n[None, :] < N)
    maps = batch.to(tl.int64) * length * N
    c = tl.load(c_maps + maps + t[:, None] * N + n[None, :], mask=both, other=0.0)
    b = tl.load(b_maps + maps + t[:, None] * N + n[None, :], mask=both, other=0.0)
    scores = c[:, None, :] * b[None, :, :]
    seen = (t[:, None] >= t[None, :]) & ok[:, None]
    total = tl.zeros((GROUP_BLOCK, GROUP_BLOCK), tl.float32)
    for d in range(part * share, min((part + 1) * share, n_channels)):
        channel = batch.to(tl.int64) * n_channels + d
        running_d = running + channel * 3 * length
        a = tl.load(rates + d * N + n, mask=n < N, other=0.0)
        high = tl.load(running_d + t, mask=ok, other=0.0)
        low = tl.load(running_d + length + t, mask=ok, other=0.0)
        weight = tl.load(running_d + 2 * length + t, mask=ok, other=0.0)
        elapsed = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
        elapsed = tl.where(seen, elapsed, 0.0)
        H = tl.sum(scores * tl.exp2(a[None, None, :] * elapsed[:, :, None]), axis=2) * weight[None, :]
        H = tl.where(seen, H, 0.0)
        if FORM == "along":
            v_t = tl.load(v + channel * length + t, mask=ok, other=0.0)
            x_s = tl.load(x + channel * length + t, mask=ok, other=0.0)
            total += H * v_t[:, None] * x_s[None, :]
        elif FORM == "full":
            place = (channel * length + t[:, None]) * length + t[None, :]
            tl.store(out + place, H, mask=seen)
        elif FORM == "mean":
            total += H
        elif FORM == "abs_mean":
            total += tl.abs(H)
        else:
            total = tl.maximum(total, tl.abs(H))
    if FORM != "full":
        place = ((part * n_batch + batch).to(tl.int64) * length + t[:, None]) * length + t[None, :]
        tl.store(out + place, total, mask=seen)
