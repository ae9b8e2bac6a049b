"""What `from_pretrained` may be told: dtype, device and implementation in words, checked where they are given."""

from __future__ import annotations

import math
from collections import Counter
from typing import get_args

import torch

from diffmamba_interp.models.checkpoint_files import WeightFiles
from diffmamba_interp.ops.select import Impl

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
SHORT_DTYPES = {
    **{"fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"},
    **{"fp64": "float64", "double": "float64"},
}
STORED_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
"""As safetensors names them."""


def check_dtype(dtype: torch.dtype | str | None) -> None:
    """Raise ValueError for a dtype that `chosen_dtype` would not understand."""
    if dtype != "auto":
        _named_dtype(dtype)


def chosen_dtype(dtype: torch.dtype | str | None, files: WeightFiles) -> torch.dtype:
    """The dtype to load in: as named; None is float32; `"auto"` is the one in which most of the weights are stored."""
    if dtype != "auto":
        return _named_dtype(dtype)
    entries: Counter[str] = Counter()
    for name, stored in files.dtypes.items():
        entries[STORED_DTYPES.get(stored, stored)] += math.prod(files.shapes[name])
    return _named_dtype(entries.most_common(1)[0][0])


def chosen_device(device: torch.device | str | int | None) -> torch.device:
    """The device as `named_device` reads it. Raises ValueError also for a GPU that is not there."""
    chosen = named_device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ValueError(
            f"device is {device!r}, but torch sees {there or 'no'} GPU{'s' * (there != 1)} here: use 'cpu'."
        )
    return chosen


def named_device(device: torch.device | str | int | None) -> torch.device:
    """The device: as torch names it, `"gpu"` for `"cuda"`, a number for that GPU; None is the CPU.

    Raises ValueError for what is no device, and for one that holds no values.
    """
    name: torch.device | str | int = "cpu" if device is None else device
    if isinstance(name, str) and name.strip().lower().partition(":")[0] == "gpu":
        name = "cuda" + name.strip()[len("gpu") :]
    try:
        if isinstance(name, int):
            name = f"cuda:{name}"
        chosen = torch.device(name.strip().lower() if isinstance(name, str) else name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}: give 'cpu', 'cuda' (a GPU) or 'cuda:1' (the second).") from error
    if chosen.type == "meta":
        raise ValueError("device is 'meta', which holds no values: give 'cpu' or 'cuda'.")
    return chosen


def check_impl(impl: str) -> None:
    """Raise ValueError for a name that is no implementation; whether it can run is asked when it does."""
    if impl not in get_args(Impl):
        raise ValueError(f"impl is {impl!r}: it must be 'auto', 'fused' or 'reference'.")


def _named_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.").lower()
    name = SHORT_DTYPES.get(name, name)
    if name not in DTYPES:
        raise ValueError(f"dtype is {dtype}: weights are floating-point: {', '.join(DTYPES)}, or 'auto' (as stored).")
    return DTYPES[name]
