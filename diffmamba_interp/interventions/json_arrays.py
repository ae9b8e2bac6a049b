"""Arrays in JSON: nested lists, with None for NaN, which JSON lacks."""

from __future__ import annotations

from typing import Any

import numpy as np


def array_to_json(value: Any) -> Any:
    """Nested lists of plain numbers; what is no array or tuple stays as it is."""
    if isinstance(value, np.ndarray):
        return array_to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [array_to_json(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def array_from_json(value: Any) -> np.ndarray:
    """The inverse of `array_to_json`, in float64."""
    return np.asarray(value, dtype=np.float64)
