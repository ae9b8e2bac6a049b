"""The one place where Triton is imported: kernels can be defined without it and say so only when they run.

A kernel module takes `triton` and `tl` from here. Where Triton is missing both are placeholders that accept
the decorators and annotations of a kernel; `check_launchable` then raises before anything is launched.
Kernels carry `@no_type_check` below `@triton.jit`, because Triton compiles the undecorated source.
"""

import importlib.util
from typing import Any

from torch import Tensor

TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


class _MissingTriton:
    """Stands in for `triton` and `triton.language` while kernels are being defined."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, function: Any = None, *_: Any, **__: Any) -> Any:
        return function


if TRITON_INSTALLED:
    import triton
    import triton.language as tl

    INTERPRETED = bool(triton.knobs.runtime.interpret)
else:
    triton = tl = _MissingTriton()
    INTERPRETED = False


def check_launchable(name: str, *tensors: Tensor | None) -> None:
    """Raise unless a Triton kernel can run on these tensors.

    Args:
        name: the function that was called, for the message.
        tensors: its tensors; None stands for one that was not given.

    Raises:
        ImportError: Triton is not installed.
        ValueError: the tensors are on different devices.
        RuntimeError: the tensors are not on a GPU and Triton does not interpret its kernels.
    """
    if not TRITON_INSTALLED:
        raise ImportError(
            f"{name} needs Triton, which is not installed: `pip install triton` (Linux, CUDA GPU), "
            'or choose impl="reference", which needs PyTorch alone.'
        )
    devices = {tensor.device for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"{name} needs all tensors on one device, but got {sorted(map(str, devices))}.")
    device = next(iter(devices))
    if device.type != "cuda" and not INTERPRETED:
        raise RuntimeError(
            f"{name} runs on a CUDA GPU, but its tensors are on {device}: move them, choose "
            'impl="reference", or set TRITON_INTERPRET=1 before Triton is imported (slow, for tests).'
        )
