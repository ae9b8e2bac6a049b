"""Whether the Triton kernels of implicit attention serve given tensors, and their launch for rows by sample."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from diffmamba_interp.ops.select import Impl

log = logging.getLogger(__name__)


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
    obstacle = _triton_obstacle()
    if obstacle is not None:
        return _said(False, obstacle)
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return _said(False, "the tensors are in float64, and the kernels compute in float32")
    return _said(True, "Triton is installed and the tensors are on a CUDA device")


def kernels_serve(*tensors: Tensor) -> bool:
    """Whether all tensors are on a CUDA GPU and Triton can be used, so that `impl="auto"` takes the kernels."""
    return all(tensor.is_cuda for tensor in tensors) and _triton_obstacle() is None


def launched(launch: Callable[[slice, Tensor | None], Tensor], rows: Tensor | None) -> Tensor:
    """What a kernel makes of (samples, their rows): once if all samples have the same rows, else once per sample."""
    if rows is None or rows.shape[0] == 1 or bool((rows == rows[:1]).all()):
        return launch(slice(None), None if rows is None else rows[0])
    return torch.cat([launch(slice(i, i + 1), rows[i]) for i in range(rows.shape[0])])


@functools.cache
def _said(fused: bool, reason: str) -> bool:
    log.info("implicit attention: %s (%s)", "fused" if fused else "reference", reason)
    return fused


def _triton_obstacle() -> str | None:
    """Why no kernel can run, or None. Triton is imported to tell, so it is asked last, of tensors on a GPU."""
    from diffmamba_interp.ops.kernels.triton_import import TRITON_OBSTACLE

    return TRITON_OBSTACLE
