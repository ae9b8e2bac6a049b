"""RMSNorm over the last axis in one launch forward and two backward, whatever the dtypes in and out.

    r[i]      = 1 / sqrt(mean_j x[i,j]^2 + eps)
    out[i,j]  = gain weight[j] x[i,j] r[i]
    x[i,j]    = before[i,j] + added[i,j]                   `fused_add_rms_norm`, which writes x too; forward only
    x[i,j]    = before[i,j] + gain_a weight_a[j] added[i,j] / sqrt(mean_j added[i,j]^2 + eps_a)     the same, `first`

    dn[i,j]   = gain weight[j] dout[i,j]
    dx[i,j]   = r[i] (dn[i,j] - x[i,j] r[i]^2 mean_k(dn[i,k] x[i,k]))
    dweight[j] = gain sum_i dout[i,j] x[i,j] r[i]

A program owns whole rows, so that a row leaves the memory once in each direction; the backward computes r again
from the row it needs anyway and saves only x and weight. Each program of the backward sums dweight over its own
rows, and a second kernel adds these partial sums in a fixed order: gradients are the same in every run.
Means, sums and products are in float32; out has the dtype of weight, dx that of x.
"""

from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffmamba_interp.ops.kernels.triton_import import check_launchable, tl, triton

MAX_NORM_WIDTH = 8192
"""Longest row that a program holds in its registers."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class NormTiles:
    """Shape of the work of one program; beyond the order of dweight's sum it does not change the result.

    Attributes:
        block: elements in a tile, a power of 2; a tile is at least one row.
        num_warps: warps in a program; rows of more than 512 elements per warp take more.
        programs_per_sm: programs of the backward per multiprocessor, each of which leaves one partial dweight;
            as many as its registers hold at once, since one more would run alone at the end.
    """

    block: int = 4096
    num_warps: int = 4
    programs_per_sm: int = 4


@dataclass(frozen=True)
class NormFirst:
    """An RMSNorm of what is added, before it is added: gain * weight * added / sqrt(mean(added^2) + eps)."""

    weight: Float[Tensor, " d"]
    eps: float
    gain: float = 1.0


NORM_TILES = NormTiles()
BACKWARD_NORM_TILES = NormTiles(block=2048)

SUM_BLOCK_ROWS = 128
SUM_BLOCK_D = 16


def fused_rms_norm(
    x: Float[Tensor, "*batch d"],
    weight: Float[Tensor, " d"],
    eps: float,
    *,
    gain: float = 1.0,
    tiles: NormTiles = NORM_TILES,
) -> Float[Tensor, "*batch d"]:
    """gain * weight * x / sqrt(mean(x^2) + eps), the mean over the last axis. Differentiable in x and weight.

    Args:
        x: rows; leading axes of any number. Copied first if it is not contiguous.
        weight: one factor per element of a row; its dtype is the result's.
        eps: added to the mean square.
        gain: a constant factor, applied in float32: `gain * weight` is never rounded to weight's dtype.
        tiles: shape of the work of one program of the forward.

    Returns:
        The normalised rows, contiguous, in the dtype of weight.

    Raises:
        ImportError, RuntimeError: no Triton, or no GPU (see `check_launchable`).
        ValueError: a dtype that is not served, rows longer than `MAX_NORM_WIDTH`, or a weight of another length.
    """
    check_launchable("fused_rms_norm", x, weight)
    _require_served(x, weight)
    return _RMSNorm.apply(x, weight, float(eps), float(gain), tiles)


def fused_add_rms_norm(
    before: Float[Tensor, "*batch d"],
    added: Float[Tensor, "*batch d"],
    weight: Float[Tensor, " d"],
    eps: float,
    *,
    first: NormFirst | None = None,
    tiles: NormTiles = NORM_TILES,
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
    """x = before + added, rounded to the wider of their dtypes as PyTorch rounds it, and `fused_rms_norm` of that x.

    With `first` what is added is the norm of `added`, rounded to the dtype of that norm's weight as `fused_rms_norm`
    rounds it, and never written. The sum leaves the memory once instead of three times. No gradients: raises
    RuntimeError where one is wanted. Otherwise arguments, results and errors are as for `fused_rms_norm`.
    """
    inner = weight if first is None else first.weight
    check_launchable("fused_add_rms_norm", before, added, weight, inner)
    _require_served(before, weight)
    _require_served(added, inner, "added")
    if before.shape != added.shape:
        raise ValueError(f"before has shape {tuple(before.shape)} and added {tuple(added.shape)}: give equal ones.")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (before, added, weight, inner)):
        raise RuntimeError("fused_add_rms_norm has no backward: add, and call fused_rms_norm, where gradients count.")
    before, added, weight, inner = (tensor.contiguous() for tensor in (before, added, weight, inner))
    dtype = torch.promote_types(before.dtype, added.dtype if first is None else inner.dtype)
    total = torch.empty(before.shape, dtype=dtype, device=before.device)
    out = torch.empty(before.shape, dtype=weight.dtype, device=before.device)
    n_rows, block_rows, block_d, num_warps = _row_blocks(before, tiles)
    if n_rows > 0:
        with torch.cuda.device_of(before):
            _add_forward_kernel[(triton.cdiv(n_rows, block_rows),)](
                out, total, before, added, weight, inner, n_rows, before.shape[-1], eps,
                0.0 if first is None else first.eps, 1.0 if first is None else first.gain,
                NORM_FIRST=first is not None, BLOCK_ROWS=block_rows, BLOCK_D=block_d, num_warps=num_warps,
            )  # fmt: skip
    return total, out


def _require_served(x: Tensor, weight: Tensor, name_of_x: str = "x") -> None:
    for name, value in ((name_of_x, x), ("weight", weight)):
        if value.dtype not in DTYPES:
            raise ValueError(
                f"fused_rms_norm takes float32, bfloat16 or float16, but {name} is {value.dtype}: "
                "use torch.nn.functional.rms_norm."
            )
    if x.shape[-1] > MAX_NORM_WIDTH:
        raise ValueError(
            f"fused_rms_norm takes rows of at most {MAX_NORM_WIDTH} elements, but {name_of_x} has rows of "
            f"{x.shape[-1]}: use torch.nn.functional.rms_norm."
        )
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"weight must have one factor per element of a row, {x.shape[-1]}, but has shape {tuple(weight.shape)}."
        )


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *setting: Any) -> Tensor:
        eps, gain, tiles = setting
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.setting = setting
        out = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
        n_rows, block_rows, block_d, num_warps = _row_blocks(x, tiles)
        if n_rows > 0:
            with torch.cuda.device_of(x):
                _forward_kernel[(triton.cdiv(n_rows, block_rows),)](
                    out, x, weight, n_rows, x.shape[-1], eps, gain,
                    BLOCK_ROWS=block_rows, BLOCK_D=block_d, num_warps=num_warps,
                )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        eps, gain, _ = ctx.setting
        need_dweight = ctx.needs_input_grad[1]
        dout, d = dout.contiguous(), x.shape[-1]
        n_rows, block_rows, block_d, num_warps = _row_blocks(x, BACKWARD_NORM_TILES)
        n_tiles = triton.cdiv(n_rows, block_rows)
        n_programs = min(n_tiles, BACKWARD_NORM_TILES.programs_per_sm * _multiprocessors(x.device))
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dweight = torch.empty(d, dtype=weight.dtype, device=x.device) if need_dweight else None
        parts = torch.empty(n_programs, d, dtype=torch.float32, device=x.device) if need_dweight else None
        with torch.cuda.device_of(x):
            if n_rows > 0:
                _backward_kernel[(n_programs,)](
                    dx, parts, dout, x, weight, n_rows, d, eps, gain, triton.cdiv(n_tiles, n_programs),
                    NEED_DWEIGHT=need_dweight, BLOCK_ROWS=block_rows, BLOCK_D=block_d, num_warps=num_warps,
                )  # fmt: skip
            if need_dweight:
                _sum_kernel[(triton.cdiv(d, SUM_BLOCK_D),)](
                    dweight, parts, n_programs, d, BLOCK_ROWS=SUM_BLOCK_ROWS, BLOCK_D=SUM_BLOCK_D
                )
        return dx, dweight, None, None, None


def _row_blocks(x: Tensor, tiles: NormTiles) -> tuple[int, int, int, int]:
    """Number of rows, then rows and elements per row of a tile, and the warps that hold it."""
    d = x.shape[-1]
    block_d = triton.next_power_of_2(d)
    return x.numel() // d, max(1, tiles.block // block_d), block_d, max(tiles.num_warps, block_d // 512)


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@triton.jit
@no_type_check
def _row_tile(first, n_rows, d, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Offsets of the elements of a tile of rows, which of them exist, and which of its rows do."""
    row = first + tl.arange(0, BLOCK_ROWS)
    j = tl.arange(0, BLOCK_D)
    row_ok = (row < n_rows)[:, None]
    return row.to(tl.int64)[:, None] * d + j[None, :], row_ok & (j < d)[None, :], row_ok


@triton.jit
@no_type_check
def _reciprocal_rms(x, row_ok, d, eps):
    """r of every row of the tile, [BLOCK_ROWS, 1]; 1 in rows past the end, which eps = 0 would make infinite."""
    mean_square = tl.sum(x * x, 1)[:, None] / d
    return tl.rsqrt(tl.where(row_ok, mean_square + eps, 1.0))


@triton.jit
@no_type_check
def _forward_kernel(out, x, weight, n_rows, d, eps, gain, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """One tile of out."""
    place, ok, row_ok = _row_tile(tl.program_id(0) * BLOCK_ROWS, n_rows, d, BLOCK_ROWS, BLOCK_D)
    j = tl.arange(0, BLOCK_D)
    factor = gain * tl.load(weight + j, mask=j < d, other=0.0).to(tl.float32)[None, :]
    value = tl.load(x + place, mask=ok, other=0.0).to(tl.float32)
    normalised = value * _reciprocal_rms(value, row_ok, d, eps)
    tl.store(out + place, (factor * normalised).to(out.dtype.element_ty), mask=ok)


@triton.jit
@no_type_check
def _add_forward_kernel(
    out, total, before, added, weight, inner, n_rows, d, eps, inner_eps, inner_gain,
    NORM_FIRST: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One tile of total = before + added and of its norm, which is that of the rounded sum."""
    place, ok, row_ok = _row_tile(tl.program_id(0) * BLOCK_ROWS, n_rows, d, BLOCK_ROWS, BLOCK_D)
    j = tl.arange(0, BLOCK_D)
    factor = tl.load(weight + j, mask=j < d, other=0.0).to(tl.float32)[None, :]
    left = tl.load(before + place, mask=ok, other=0.0).to(tl.float32)
    right = tl.load(added + place, mask=ok, other=0.0).to(tl.float32)
    if NORM_FIRST:
        inner_factor = inner_gain * tl.load(inner + j, mask=j < d, other=0.0).to(tl.float32)[None, :]
        scaled = inner_factor * (right * _reciprocal_rms(right, row_ok, d, inner_eps))
        # Rounded as if it had been written: the sum is the same number wherever it is made.
        right = scaled.to(inner.dtype.element_ty).to(tl.float32)
    rounded = (left + right).to(total.dtype.element_ty)
    tl.store(total + place, rounded, mask=ok)
    value = rounded.to(tl.float32)
    normalised = value * _reciprocal_rms(value, row_ok, d, eps)
    tl.store(out + place, (factor * normalised).to(out.dtype.element_ty), mask=ok)


@triton.jit
@no_type_check
def _backward_kernel(
    dx, parts, dout, x, weight, n_rows, d, eps, gain, repeats,
    NEED_DWEIGHT: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`repeats` tiles of dx, n_programs tiles apart, and what their rows add to dweight."""
    program, n_programs = tl.program_id(0), tl.num_programs(0)
    j = tl.arange(0, BLOCK_D)
    factor = gain * tl.load(weight + j, mask=j < d, other=0.0).to(tl.float32)[None, :]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_D), tl.float32)
    for repeat in range(repeats):
        first = (repeat * n_programs + program) * BLOCK_ROWS
        place, ok, row_ok = _row_tile(first, n_rows, d, BLOCK_ROWS, BLOCK_D)
        value = tl.load(x + place, mask=ok, other=0.0).to(tl.float32)
        upstream = tl.load(dout + place, mask=ok, other=0.0).to(tl.float32)
        dn = factor * upstream
        r = _reciprocal_rms(value, row_ok, d, eps)
        along = tl.sum(dn * value, 1)[:, None] / d
        gradient = r * (dn - value * (r * r * along))
        tl.store(dx + place, gradient.to(dx.dtype.element_ty), mask=ok)
        if NEED_DWEIGHT:
            sums += upstream * value * r
    if NEED_DWEIGHT:
        tl.store(parts + program * d + j, gain * tl.sum(sums, 0), mask=j < d)


@triton.jit
@no_type_check
def _sum_kernel(total, parts, n_parts, d, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """A block of columns of parts, summed over its rows."""
    j = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    sums = tl.zeros((BLOCK_ROWS, BLOCK_D), tl.float32)
    for first in range(0, n_parts, BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)
        ok = (row < n_parts)[:, None] & (j < d)[None, :]
        sums += tl.load(parts + row[:, None] * d + j[None, :], mask=ok, other=0.0)
    tl.store(total + j, tl.sum(sums, 0).to(total.dtype.element_ty), mask=j < d)
