"""A repr that shows tensors by dtype and shape, so that a record fits on a line of a notebook."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

MAX_VALUE_LENGTH = 60


class ShortRepr:
    """Base of dataclasses (made with `repr=False`) that hold tensors."""

    def __repr__(self) -> str:
        shown = ((item.name, getattr(self, item.name)) for item in fields(self))  # type: ignore[arg-type]
        values = ", ".join(f"{name}={_short(value)}" for name, value in shown if value is not None)
        return f"{type(self).__name__}({values})"


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return f"{float(value.detach()):.4g}"
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor | ShortRepr):
        return f"({', '.join(_short(item) for item in value)})"
    text = repr(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 1]}…"
