"""Results as JSON that is small and readable: few digits, a row of numbers on one line, NaN as null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_LINE_DEPTH = 2


def results_json(content: Mapping[str, Any], *, digits: int = 5) -> str:
    """The text of a results.json: what holds no more than plain lists and objects stands on one line.

    digits: significant ones of every number with a fraction, however small it is.
    """
    return _laid_out(_plain(content, digits), 0)


def _laid_out(value: Any, indent: int) -> str:
    if _depth(value) <= _LINE_DEPTH and indent:
        return json.dumps(value, allow_nan=False)
    start = "\n" + " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_laid_out(item, indent + 1)}" for key, item in value.items()]
        opening, closing = "{}"
    else:
        items = [_laid_out(item, indent + 1) for item in value]
        opening, closing = "[]"
    return f"{opening}{start}{f',{start}'.join(items)}\n{' ' * indent}{closing}"


def _depth(value: Any) -> int:
    """How many lists and objects are nested in one another."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _plain(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item, digits) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.{digits}g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
