"""Which rows and heads are asked for, which implementation serves them, and whether they fit into memory."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from diffmamba_interp.argument_checks import fitting
from diffmamba_interp.ops.kernels.triton_import import TRITON_OBSTACLE

Impl = Literal["auto", "fused", "reference"]
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
