"""Which rows and heads are asked for, which implementation serves them, and whether they fit into memory."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.argument_checks import fitting, shown
from diffmamba_interp.ops.kernels.triton_import import TRITON_OBSTACLE

Impl = Literal["auto", "fused", "reference"]
Rows = Tensor | Sequence[int] | Sequence[Sequence[int]] | None
Heads = int | Sequence[int] | None

DEFAULT_MAX_BYTES = 4 * 2**30
"""Bytes that one extraction may take unless told otherwise: 4 GiB."""

log = logging.getLogger(__name__)


def select_heads(heads: Heads, n_heads: int) -> tuple[int, ...]:
    """The chosen heads as a tuple, all of them for None; one may be given bare.

    Raises ValueError for an empty choice, a repeated head, or one that does not exist.
    """
    asked = range(n_heads) if heads is None else (heads,) if isinstance(heads, int) else heads
    chosen = tuple(fitting("heads", asked, Sequence[int]))
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= head < n_heads for head in chosen):
        raise ValueError(f"heads is {list(chosen)}: give different indices in 0 to {n_heads - 1}, at least one.")
    return chosen


def select_rows(rows: Rows, lengths: Tensor, n_pos: int, name: str = "rows") -> Tensor | None:
    """The chosen destination positions as int64 [batch, row], or None for all.

    `rows`: positions for every sample, [row], or for each sample, [batch, row]. Negative ones count from the
    end of each sample: -1 is its last position, at `lengths - 1`.

    Raises ValueError for a row outside its sample.
    """
    if rows is None:
        return None
    try:
        chosen = torch.as_tensor(rows, device=lengths.device)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {shown(rows)}: give whole numbers, [row] or [batch, row].") from error
    if chosen.numel() == 0:
        raise ValueError(f"{name} is empty: give at least one position, or None for all.")
    if chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool or chosen.ndim not in (1, 2):
        raise ValueError(
            f"{name} has dtype {chosen.dtype} and shape {tuple(chosen.shape)}: give whole numbers, [row] for "
            "every sample or [batch, row]."
        )
    chosen = chosen.long()
    if chosen.ndim == 1:
        chosen = chosen.expand(lengths.shape[0], -1)
    elif chosen.shape[0] != lengths.shape[0]:
        raise ValueError(f"{name} is for {chosen.shape[0]} samples, but there are {lengths.shape[0]}.")
    resolved = torch.where(chosen < 0, chosen + lengths[:, None], chosen)
    if bool(((resolved < 0) | (resolved >= lengths[:, None])).any()):
        raise ValueError(
            f"{name} is {chosen.unique().tolist()}: each must lie in its sample, from -length to length - 1, and "
            f"the lengths are {lengths.unique().tolist()} (padded to {n_pos})."
        )
    return resolved


def use_fused(impl: Impl, *tensors: Tensor) -> bool:
    """Whether the Triton kernels serve these tensors; `"auto"` says once, in the log, what it took.

    `"fused"` where they cannot run raises from the kernel itself, which says why.
    """
    if impl not in ("auto", "fused", "reference"):
        raise ValueError(f"impl is {impl!r}: it must be 'auto', 'fused' or 'reference'.")
    if impl != "auto":
        return impl == "fused"
    if not all(tensor.is_cuda for tensor in tensors):
        return _said(False, "the tensors are not on a CUDA device")
    if TRITON_OBSTACLE is not None:
        return _said(False, TRITON_OBSTACLE)
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return _said(False, "the tensors are in float64, and the kernels compute in float32")
    return _said(True, "Triton is installed and the tensors are on a CUDA device")


def take_rows(value: Float[Tensor, "batch pos *rest"], rows: Tensor | None) -> Float[Tensor, "batch row *rest"]:
    """The chosen positions [batch, row] of each sample, or all of them."""
    if rows is None:
        return value
    return value[torch.arange(value.shape[0], device=value.device)[:, None], rows]


def launched(launch: Callable[[slice, Tensor | None], Tensor], rows: Tensor | None) -> Tensor:
    """What a kernel makes of (samples, their rows): once if all samples have the same rows, else once per sample."""
    if rows is None or rows.shape[0] == 1 or bool((rows == rows[:1]).all()):
        return launch(slice(None), None if rows is None else rows[0])
    return torch.cat([launch(slice(i, i + 1), rows[i]) for i in range(rows.shape[0])])


class MemoryLimitError(MemoryError):
    """Raised before anything is allocated, when an estimate exceeds the limit.

    estimate_bytes, max_bytes: what was asked for and what was allowed.
    """

    def __init__(self, what: str, estimate_bytes: int, max_bytes: int, advice: str) -> None:
        self.estimate_bytes = estimate_bytes
        self.max_bytes = max_bytes
        super().__init__(
            f"{what} would take about {estimate_bytes / 2**20:,.1f} MiB, more than the limit of "
            f"{max_bytes / 2**20:,.1f} MiB. {advice}, or raise max_bytes (now {max_bytes}, in bytes)."
        )


def require_memory(what: str, estimate_bytes: int, max_bytes: int, advice: str) -> None:
    """Raise MemoryLimitError if the estimate exceeds the limit; `advice` names what to reduce."""
    if estimate_bytes > max_bytes:
        raise MemoryLimitError(what, estimate_bytes, max_bytes, advice)


@functools.cache
def _said(fused: bool, reason: str) -> bool:
    log.info("implicit attention: %s (%s)", "fused" if fused else "reference", reason)
    return fused
