"""Results as JSON that is small and readable: few digits, a list of numbers on one line, NaN as null."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_INNERMOST = re.compile(r"\[[^\[\]{}]*\]")


def results_json(content: Mapping[str, Any], *, digits: int = 5) -> str:
    """The text of a results.json. digits: significant ones of every number with a fraction, however small it is."""
    text = json.dumps(_plain(content, digits), indent=1, allow_nan=False)
    # A string holds no line end as such, so only the layout is joined.
    return _INNERMOST.sub(lambda match: re.sub(r"\n\s*", " ", match[0]).replace("[ ", "[").replace(" ]", "]"), text)


def _plain(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item, digits) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.{digits}g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
