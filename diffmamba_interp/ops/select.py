"""Which implementation runs, the GPU kernels or plain PyTorch, and why."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Literal

import torch

from diffmamba_interp.ops import fused as kernels

Impl = Literal["auto", "fused", "reference"]
Resolved = Literal["fused", "reference"]

INSTALL_HINT = "Install the kernels on a machine with an NVIDIA GPU: pip install 'diffmamba-interp[gpu]'."

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The implementation and the reason for it, in words."""

    impl: Resolved
    reason: str


def choose_impl(impl: Impl, device: torch.device | str | None, dtype: torch.dtype = torch.float32) -> Choice:
    """Resolve `impl` for weights of `dtype` on `device` (None: a GPU if there is one).

    `"auto"` takes the kernels where they can run and says once, in the log, what it took. `"fused"` raises
    RuntimeError, saying what is missing, where they cannot.
    """
    if impl not in ("auto", "fused", "reference"):
        raise ValueError(f"impl is {impl!r}: it must be 'auto', 'fused' or 'reference'.")
    if impl == "reference":
        return Choice("reference", "asked for")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    obstacle = _obstacle(torch.device(device).type)
    if obstacle is None and dtype not in KERNEL_DTYPES:
        obstacle = f"the weights are {dtype}, and the kernels serve float32, bfloat16 and float16"
    if obstacle is None:
        return _said("fused", f"mamba_ssm's scan, convolution by {kernels.conv_in_use()}")
    if impl == "fused":
        raise RuntimeError(f"impl='fused' cannot run: {obstacle}. {INSTALL_HINT} Or use impl='auto'.")
    return _said("reference", obstacle)


@functools.cache
def _obstacle(device_type: str) -> str | None:
    """Why the kernels cannot run on such a device, or None."""
    if device_type != "cuda":
        return f"the tensors are on device {device_type!r}, and the kernels need an NVIDIA GPU"
    return kernels.import_obstacle()


@functools.cache
def _said(impl: Resolved, reason: str) -> Choice:
    log.info("scan: %s (%s)", impl, reason)
    return Choice(impl, reason)
