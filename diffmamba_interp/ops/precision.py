"""The one rule of numeric precision: sums, norms and exponentials in at least float32."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(value: Tensor) -> Tensor:
    """The value in float32, or unchanged if it is wider."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def running_sum(value: Tensor, dim: int) -> Tensor:
    """cumsum in float64, or in float32 on Apple's GPUs, which have no float64."""
    return torch.cumsum(value.to(torch.float32 if value.device.type == "mps" else torch.float64), dim=dim)
