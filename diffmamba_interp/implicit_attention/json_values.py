"""Tensors in JSON: nested lists, with what JSON has no number for written as "nan", "inf" or "-inf"."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def tensor_to_json(value: Tensor) -> Any:
    """Nested lists of plain numbers."""
    return _plain(value.detach().cpu().tolist())


def tensor_from_json(values: Any) -> Tensor:
    """The inverse of `tensor_to_json`: float32 or int64."""
    return torch.tensor(_numbers(values))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) else value
