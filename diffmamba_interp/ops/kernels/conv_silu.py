"""Depthwise causal convolution with bias and optional SiLU, channels last, forward and backward.

    c[t] = bias + sum_j weight[j] x[t - K + 1 + j]        j = 0..K-1, per channel; x[t < 0] = initial_state
    y[t] = c[t]                            activation None
    y[t] = c[t] sigmoid(c[t])              activation "silu"

    dc[t] = dy[t] y'(c[t])                                y'(c) = sigmoid(c) (1 + c (1 - sigmoid(c))) or 1
    dx[p] = sum_m weight[K - 1 - m] dc[p + m]             m = 0..K-1; p < 0 gives the initial state's gradient
    dweight[j] = sum_t dc[t] x[t - K + 1 + j],   dbias = sum_t dc[t]

A program owns a block of positions times channels. The K shifted reads of a block overlap and come from the
cache, so that each input leaves the memory about once. Sums are in float32; y has the dtype of x.
"""

from dataclasses import dataclass
from typing import Any, Literal, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffmamba_interp.ops.kernels.triton_import import check_launchable, tl, triton

Activation = Literal["silu"] | None


@dataclass(frozen=True, kw_only=True)
class ConvTiles:
    """Shape of the work of one program of the convolution; it does not change the result.

    Attributes:
        block_t: positions in a tile, a power of 2.
        block_c: channels in a tile, a power of 2.
        repeats: tiles that one program of the backward takes in sequence (fewer partial weight gradients).
        num_warps: warps in a program.
    """

    block_t: int = 32
    block_c: int = 128
    repeats: int = 4
    num_warps: int = 4


CONV_TILES = ConvTiles()
BACKWARD_TILES = ConvTiles(block_t=16, repeats=8)


def fused_conv_silu(
    x: Float[Tensor, "batch pos channels"],
    weight: Float[Tensor, "channels d_conv"],
    bias: Float[Tensor, " channels"] | None = None,
    initial_state: Float[Tensor, "batch channels d_conv-1"] | None = None,
    *,
    activation: Activation = "silu",
    tiles: ConvTiles = CONV_TILES,
) -> Float[Tensor, "batch pos channels"]:
    """Depthwise causal convolution of width `d_conv`, bias and activation in one pass over memory.

    Differentiable in x, weight, bias and initial_state (first order).

    Args:
        x: inputs; any strides over batch and position, so a slice of a projection is not copied.
        weight: taps, the last one at lag 0.
        bias: added before the activation.
        initial_state: the d_conv - 1 inputs before position 0, oldest first; zeros when None.
        activation: "silu" or None.
        tiles: shape of the work of one program of the forward.

    Returns:
        The outputs, contiguous, in the dtype of x.

    Raises:
        ImportError, RuntimeError: no Triton, or no GPU (see `check_launchable`).
        ValueError: a dtype or an activation that is not served.
    """
    check_launchable("fused_conv_silu", x, weight, bias, initial_state)
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"fused_conv_silu takes float32, bfloat16 or float16, but x is {x.dtype}.")
    if activation not in (None, "silu"):
        raise ValueError(f'activation must be "silu" or None, but is {activation!r}.')
    return _ConvSilu.apply(x, weight, bias, initial_state, activation == "silu", tiles)


class _ConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, *setting: Any
    ) -> Tensor:
        silu, tiles = setting
        x = x if x.stride(-1) == 1 else x.contiguous()
        weight = weight.contiguous()
        # Channels last, like x, so that the kernel reads both alike.
        state = None if initial_state is None else initial_state.transpose(1, 2).contiguous()
        batch, length, channels = x.shape
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        ctx.save_for_backward(x, weight, bias, state)
        ctx.setting = setting
        if y.numel() == 0:
            return y
        grid = (triton.cdiv(length, tiles.block_t), triton.cdiv(channels, tiles.block_c), batch)
        with torch.cuda.device_of(x):
            _forward_kernel[grid](
                y, x, weight, bias, state, length, channels, x.stride(0), x.stride(1),
                K=weight.shape[1], HAS_BIAS=bias is not None, HAS_STATE=state is not None, SILU=silu,
                BLOCK_T=tiles.block_t, BLOCK_C=tiles.block_c, num_warps=tiles.num_warps,
            )  # fmt: skip
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, state = ctx.saved_tensors
        silu, tiles = ctx.setting[0], BACKWARD_TILES
        batch, length, channels = x.shape
        d_conv = weight.shape[1]
        dy = dy if dy.stride(-1) == 1 else dy.contiguous()
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dstate = None if state is None else torch.empty(state.shape, dtype=state.dtype, device=x.device)
        positions = length + (d_conv - 1 if state is not None else 0)
        n_chunks = triton.cdiv(positions, tiles.block_t * tiles.repeats)
        parts = torch.empty(batch, n_chunks, d_conv + 1, channels, dtype=torch.float32, device=x.device)
        if parts.numel() > 0:
            grid = (n_chunks, triton.cdiv(channels, tiles.block_c), batch)
            with torch.cuda.device_of(x):
                _backward_kernel[grid](
                    dx, dstate, parts, dy, x, weight, bias, state,
                    length, channels, x.stride(0), x.stride(1), dy.stride(0), dy.stride(1), n_chunks,
                    K=d_conv, K_PADDED=triton.next_power_of_2(d_conv + 1), HAS_BIAS=bias is not None,
                    HAS_STATE=state is not None, SILU=silu, REPEATS=tiles.repeats,
                    BLOCK_T=tiles.block_t, BLOCK_C=tiles.block_c, num_warps=tiles.num_warps,
                )  # fmt: skip
        totals = parts.sum(dim=(0, 1))
        dweight = totals[:d_conv].T.to(weight.dtype)
        dbias = None if bias is None else totals[d_conv].to(bias.dtype)
        return dx, dweight, dbias, None if dstate is None else dstate.transpose(1, 2), None, None


@triton.jit
@no_type_check
def _input_tile(x, state, p, channel, channel_ok, length, channels, stride_t, K: tl.constexpr, HAS_STATE: tl.constexpr):
    """x[p, channel] in float32, from the initial state where -K < p < 0, else 0 outside [0, length)."""
    inside = ((p >= 0) & (p < length))[:, None] & channel_ok[None, :]
    tile = tl.load(x + p.to(tl.int64)[:, None] * stride_t + channel[None, :], mask=inside, other=0.0)
    tile = tile.to(tl.float32)
    if HAS_STATE:
        before = ((p < 0) & (p > -K))[:, None] & channel_ok[None, :]
        old = tl.load(state + (p + K - 1)[:, None] * channels + channel[None, :], mask=before, other=0.0)
        tile = tile + old.to(tl.float32)
    return tile


@triton.jit
@no_type_check
def _convolved_tile(
    x, state, weight, bias, p, channel, channel_ok, length, channels, stride_t,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """c[p, channel] in float32."""
    c = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    if HAS_BIAS:
        c += tl.load(bias + channel, mask=channel_ok, other=0.0).to(tl.float32)[None, :]
    for j in tl.static_range(K):
        tap = tl.load(weight + channel * K + j, mask=channel_ok, other=0.0).to(tl.float32)
        c += tap[None, :] * _input_tile(
            x, state, p - (K - 1 - j), channel, channel_ok, length, channels, stride_t, K, HAS_STATE
        )
    return c


@triton.jit
@no_type_check
def _forward_kernel(
    y, x, weight, bias, state, length, channels, stride_b, stride_t,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr, SILU: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One tile of y."""
    batch = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel_ok = channel < channels
    if HAS_STATE:
        state += batch * channels * (K - 1)
    c = _convolved_tile(
        x + batch * stride_b, state, weight, bias, t, channel, channel_ok, length, channels, stride_t,
        K, HAS_BIAS, HAS_STATE, BLOCK_T, BLOCK_C,
    )  # fmt: skip
    if SILU:
        c = c * tl.sigmoid(c)
    out = y + (batch * length + t)[:, None] * channels + channel[None, :]
    tl.store(out, c.to(y.dtype.element_ty), mask=(t < length)[:, None] & channel_ok[None, :])


@triton.jit
@no_type_check
def _backward_kernel(
    dx, dstate, parts, dy, x, weight, bias, state,
    length, channels, stride_b, stride_t, stride_dy_b, stride_dy_t, n_chunks,
    K: tl.constexpr, K_PADDED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr,
    SILU: tl.constexpr, REPEATS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """REPEATS tiles of dx, and what their positions add to dweight (parts 0..K-1) and dbias (part K)."""
    chunk = tl.program_id(0)
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel_ok = channel < channels
    x += batch * stride_b
    dy += batch * stride_dy_b
    if HAS_STATE:
        state += batch * channels * (K - 1)
        dstate += batch * channels * (K - 1)
    part = tl.arange(0, K_PADDED)
    sums = tl.zeros((K_PADDED, BLOCK_C), tl.float32)
    for repeat in range(REPEATS):
        p = (chunk * REPEATS + repeat) * BLOCK_T + tl.arange(0, BLOCK_T)
        if HAS_STATE:
            p -= K - 1
        d_input = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        for m in tl.static_range(K):
            dc = _input_tile(dy, dy, p + m, channel, channel_ok, length, channels, stride_dy_t, K, False)
            if SILU:
                c = _convolved_tile(
                    x, state, weight, bias, p + m, channel, channel_ok, length, channels, stride_t,
                    K, HAS_BIAS, HAS_STATE, BLOCK_T, BLOCK_C,
                )  # fmt: skip
                gate = tl.sigmoid(c)
                dc *= gate * (1.0 + c * (1.0 - gate))
            tap = tl.load(weight + channel * K + (K - 1 - m), mask=channel_ok, other=0.0).to(tl.float32)
            d_input += tap[None, :] * dc
            if m == 0:
                sums += tl.where(part[:, None] == K, tl.sum(dc, 0)[None, :], 0.0)
                for j in tl.static_range(K):
                    shifted = _input_tile(
                        x,
                        state,
                        p - (K - 1 - j),
                        channel,
                        channel_ok,
                        length,
                        channels,
                        stride_t,
                        K,
                        HAS_STATE,
                    )
                    sums += tl.where(part[:, None] == j, tl.sum(dc * shifted, 0)[None, :], 0.0)
        inside = ((p >= 0) & (p < length))[:, None] & channel_ok[None, :]
        target = dx + (batch * length + p)[:, None] * channels + channel[None, :]
        tl.store(target, d_input.to(dx.dtype.element_ty), mask=inside)
        if HAS_STATE:
            before = (p < 0)[:, None] & channel_ok[None, :]
            target = dstate + (p + K - 1)[:, None] * channels + channel[None, :]
            tl.store(target, d_input.to(dstate.dtype.element_ty), mask=before)
    out = parts + ((batch * n_chunks + chunk) * (K + 1) + part)[:, None] * channels + channel[None, :]
    tl.store(out, sums, mask=(part <= K)[:, None] & channel_ok[None, :])
