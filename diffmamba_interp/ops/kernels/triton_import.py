"""The one place where Triton is imported: kernels can be defined without it and say so only when they run.

A kernel module takes `triton` and `tl` from here. Where Triton is missing, broken or too old both are placeholders
that accept the decorators and annotations of a kernel; `check_launchable` then raises before anything is launched.
Kernels carry `@no_type_check` below `@triton.jit`, because Triton compiles the undecorated source.
"""

import importlib
from typing import Any

from torch import Tensor


class _MissingTriton:
    """Stands in for `triton` and `triton.language` while kernels are being defined."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, function: Any = None, *_: Any, **__: Any) -> Any:
        return function


def _import_triton() -> tuple[Any, Any, str | None]:
    """`triton`, `triton.language`, and why no kernel can run: None where both are the real ones."""
    try:
        package, language = (importlib.import_module(name) for name in ("triton", "triton.language"))
    except ModuleNotFoundError as error:
        if error.name == "triton":
            obstacle = "Triton is not installed: `pip install triton` (Linux, CUDA GPU)"
        else:
            obstacle = f"Triton cannot be imported ({error}): install it again"
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        obstacle = f"Triton cannot be imported ({type(error).__name__}: {error}): install it again"
    else:
        # Absent before 3.4; the kernels are tested with no older release.
        if hasattr(package, "knobs"):
            return package, language, None
        version = getattr(package, "__version__", "of unknown version")
        obstacle = f"Triton {version} is too old: 3.4 or newer is needed, as PyTorch 2.8 and later bring it"
    return _MissingTriton(), _MissingTriton(), obstacle


triton, tl, TRITON_OBSTACLE = _import_triton()
INTERPRETED = TRITON_OBSTACLE is None and bool(triton.knobs.runtime.interpret)


def check_launchable(name: str, *tensors: Tensor | None) -> None:
    """Raise unless a Triton kernel can run on these tensors.

    Args:
        name: the function that was called, for the message.
        tensors: its tensors; None stands for one that was not given.

    Raises:
        ImportError: Triton is not installed, too old or broken.
        ValueError: the tensors are on different devices.
        RuntimeError: the tensors are not on a GPU and Triton does not interpret its kernels.
    """
    if TRITON_OBSTACLE is not None:
        raise ImportError(
            f'{name} needs Triton. {TRITON_OBSTACLE}, or choose impl="reference", which needs PyTorch alone.'
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
