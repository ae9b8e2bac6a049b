"""Rows of logits turned into softmax weights in place, in one visit per row: the pass between a lens' two products.

    top = max_v l[v]      e[v] = exp(l[v] - top)      lse = top + log(sum_v e[v])      total = sum_v round(e[v])

A program owns a row and sweeps it twice: once for the maximum, once to exponentiate, write and sum. The second
sweep finds the row in the L2 cache if few enough rows are under way, so each logit is read from memory about
once and written once. All arithmetic is in float32; `total` sums what was written, after rounding.
"""

from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.ops.kernels.triton_import import check_launchable, tl, triton


@dataclass(frozen=True, kw_only=True)
class RowTiles:
    """Shape of the work of one program; it changes the speed and not the result.

    Attributes:
        block: columns that are read at once, a power of 2.
        num_warps: warps in a program; more warps mean fewer rows under way, which the cache must hold.
    """

    block: int = 8192
    num_warps: int = 16


ROW_TILES = RowTiles()


def exponentiate_rows_fused_(
    logits: Float[Tensor, "tokens d_vocab"], *, tiles: RowTiles = ROW_TILES
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Replace l by exp(l - max(l)) in place; return (logsumexp(l), sum of what was written), both float32.

    Args:
        logits: rows of contiguous columns, float32, bfloat16 or float16; overwritten.
        tiles: shape of the work of one program.

    Raises:
        ImportError, RuntimeError: no Triton, or no GPU (see `check_launchable`).
        ValueError: a dtype that is not served, or columns that are not contiguous.
    """
    check_launchable("exponentiate_rows_fused_", logits)
    if logits.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"exponentiate_rows_fused_ takes float32, bfloat16 or float16, but logits is {logits.dtype}.")
    if logits.stride(1) != 1:
        raise ValueError("exponentiate_rows_fused_ needs contiguous columns: pass logits.contiguous().")
    n_rows, n_columns = logits.shape
    lse = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    total = torch.empty_like(lse)
    block = min(tiles.block, triton.next_power_of_2(n_columns))
    if n_rows:
        with torch.cuda.device_of(logits):
            _exponentiate_kernel[(n_rows,)](
                logits, lse, total, logits.stride(0), N_COLUMNS=n_columns, BLOCK=block, num_warps=tiles.num_warps
            )
    return lse, total


@triton.jit
@no_type_check
def _exponentiate_kernel(
    logits, lse, total, row_stride, N_COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0)
    start = logits + row.to(tl.int64) * row_stride
    columns = tl.arange(0, BLOCK)
    running = tl.full((BLOCK,), float("-inf"), tl.float32)
    for first in range(0, N_COLUMNS, BLOCK):
        ok = first + columns < N_COLUMNS
        l = tl.load(start + first + columns, mask=ok, other=float("-inf"), eviction_policy="evict_last")
        running = tl.maximum(running, l.to(tl.float32))
    top = tl.max(running, 0)
    exact = tl.zeros((BLOCK,), tl.float32)
    rounded = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, N_COLUMNS, BLOCK):
        ok = first + columns < N_COLUMNS
        l = tl.load(start + first + columns, mask=ok, other=float("-inf"), eviction_policy="evict_first")
        e = tl.exp(l.to(tl.float32) - top)
        written = e.to(l.dtype)
        tl.store(start + first + columns, written, mask=ok)
        exact += e
        rounded += written.to(tl.float32)
    tl.store(lse + row, top + tl.log(tl.sum(exact, 0)))
    tl.store(total + row, tl.sum(rounded, 0))
