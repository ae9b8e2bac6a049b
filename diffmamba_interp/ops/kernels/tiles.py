"""What the hidden-attention kernels share: the shape of their work and the device functions of one tile.

A tile is BLOCK_T destination rows times BLOCK_S source positions of one L x L picture. A row is an index into
the rows that were asked for, t is its position; both are the same when all rows are.
"""

from dataclasses import dataclass
from typing import Literal, get_args, no_type_check

import torch
from torch import Tensor

from diffmamba_interp.ops.kernels.triton_import import INTERPRETED, tl, triton

InputPrecision = Literal["ieee", "tf32", "tf32x3"]

# Products of float32 tiles. Against float64: ieee and tf32x3 about 3e-7, tf32 about 1e-3. tf32x3 adds three products of
# the tensor cores, which takes a third of the time of ieee.
DEFAULT_INPUT_PRECISION: InputPrecision = "tf32x3"


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Shape of the work of one program; it changes the speed and not the result.

    Both blocks should be smaller than 32 * num_warps: then the vectors along a tile's edges are loaded where
    the tile needs them; longer ones take a detour through shared memory for every head.

    Attributes:
        block_t: destination rows in a tile, a power of 2, at least 16 on a GPU.
        block_s: source positions in a tile, likewise.
        block_n: elements of d_state or d_head that one product takes at a time, likewise.
        head_splits: programs that share the heads of a group, each with its own C B^T (full form only).
        num_warps: warps in a program.
        num_stages: depth of the load pipeline.
    """

    block_t: int = 64
    block_s: int = 64
    block_n: int = 32
    head_splits: int = 1
    num_warps: int = 4
    num_stages: int = 2


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that `tl.dot` does not know."""
    if precision not in get_args(InputPrecision):
        raise ValueError(f"input_precision must be one of {get_args(InputPrecision)}, but is {precision!r}.")


def in_one_dtype(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The two in the wider of their dtypes and with a contiguous last axis, as `product_tile` reads them.

    Raises:
        ValueError: one of them is float64, which the kernels would silently round.
    """
    dtype = torch.promote_types(left.dtype, right.dtype)
    if dtype == torch.float64:
        raise ValueError("The kernels compute in float32: pass float32 tensors, or use the reference.")
    if INTERPRETED and dtype == torch.bfloat16:
        dtype = torch.float32  # Triton's interpreter multiplies bfloat16 tiles as integers
    left, right = (value.to(dtype) for value in (left, right))
    left, right = (value if value.stride(-1) == 1 else value.contiguous() for value in (left, right))
    return left, right


@triton.jit
@no_type_check
def destination_rows(rows, first, n_rows, ALL_ROWS: tl.constexpr, BLOCK_T: tl.constexpr):
    """Index, position and validity of the rows of a tile, and the last position among them.

    A row past the end is given position -1, before every source: all masks s <= t are false there.
    """
    row = first + tl.arange(0, BLOCK_T)
    row_ok = row < n_rows
    if ALL_ROWS:
        t = tl.where(row_ok, row, -1)
    else:
        t = tl.load(rows + row, mask=row_ok, other=-1).to(tl.int32)
    return row, t, row_ok, tl.max(t, 0)


@triton.jit
@no_type_check
def product_tile(
    left, left_stride, i, i_ok, right, right_stride, j, j_ok,
    SIZE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """left[i] . right[j] over SIZE contiguous elements, [BLOCK_I, BLOCK_J] in float32."""
    left_rows = left + i.to(tl.int64)[:, None] * left_stride
    right_rows = right + j.to(tl.int64)[:, None] * right_stride
    total = tl.zeros((BLOCK_I, BLOCK_J), tl.float32)
    for start in range(0, SIZE, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        n_ok = (n < SIZE)[None, :]
        a = tl.load(left_rows + n[None, :], mask=i_ok[:, None] & n_ok, other=0.0)
        b = tl.load(right_rows + n[None, :], mask=j_ok[:, None] & n_ok, other=0.0)
        total = tl.dot(a, tl.trans(b), total, input_precision=PRECISION)
    return total


@triton.jit
@no_type_check
def restaged(tile, place, ok):
    """The same tile in the layout of a coalesced load.

    A product leaves its tile spread over the threads as the tensor cores do; a loop over heads in that layout
    would load and store piecemeal. `place` is a part of the result that this program overwrites later.
    """
    tl.store(place, tile, mask=ok)
    tl.debug_barrier()
    tile = tl.load(place, mask=ok, other=0.0)
    tl.debug_barrier()
    return tile


@triton.jit
@no_type_check
def decay_tile(running, length, t, row_ok, s, s_ok):
    """exp(cum[t] - cum[s]) for s <= t, else 0, and dt[s]; `running` is one head of `running_decay`.

    The difference of the high parts is exact or rounded once, whatever the sums; the low parts add what the
    high parts dropped. The mask comes before the exponential, which would overflow above the diagonal.
    """
    high_t = tl.load(running + t, mask=row_ok, other=0.0)
    low_t = tl.load(running + length + t, mask=row_ok, other=0.0)
    high_s = tl.load(running + s, mask=s_ok, other=0.0)
    low_s = tl.load(running + length + s, mask=s_ok, other=0.0)
    dt_s = tl.load(running + 2 * length + s, mask=s_ok, other=0.0)
    gap = (high_t[:, None] - high_s[None, :]) + (low_t[:, None] - low_s[None, :])
    return tl.exp2(tl.where(s[None, :] <= t[:, None], gap, float("-inf"))), dt_s


@triton.jit
@no_type_check
def is_below_diagonal(t, row_ok, pivot):
    """Whether every source up to `pivot`, the last one of a tile, lies at or before every valid row."""
    return pivot <= tl.min(tl.where(row_ok, t, 2147483647), 0)


@triton.jit
@no_type_check
def decay_vectors(running, length, t, row_ok, s, s_ok, pivot):
    """The factors of a tile below the diagonal: exp(cum[t] - cum[pivot]), and exp(cum[pivot] - cum[s]) dt[s].

    With s <= pivot <= t neither exponent is positive, so a tile needs exponentials of its edges only.
    """
    high_p, low_p = tl.load(running + pivot), tl.load(running + length + pivot)
    high_t = tl.load(running + t, mask=row_ok, other=0.0)
    low_t = tl.load(running + length + t, mask=row_ok, other=0.0)
    high_s = tl.load(running + s, mask=s_ok, other=0.0)
    low_s = tl.load(running + length + s, mask=s_ok, other=0.0)
    dt_s = tl.load(running + 2 * length + s, mask=s_ok, other=0.0)
    since = tl.exp2(tl.where(row_ok, (high_t - high_p) + (low_t - low_p), float("-inf")))
    until = tl.exp2(tl.where(s_ok, (high_p - high_s) + (low_p - low_s), float("-inf")))
    return since, until * dt_s
