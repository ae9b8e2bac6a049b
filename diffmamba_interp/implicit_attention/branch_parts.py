"""Values of the two branches of a block, and what their difference is: one rule for every kind of picture.

difference = minuend - lambda * subtrahend             `subtrahend` is always without lambda

Where each head has a lambda of its own, lambda * subtrahend is summed over heads (or reduced) head by head, and kept.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")

MAX_VALUE_LENGTH = 60


class ShortRepr:
    """Base of dataclasses (made with `repr=False`) that hold tensors: shown by dtype and shape, on a line."""

    def __repr__(self) -> str:
        shown = ((item.name, getattr(self, item.name)) for item in fields(self))  # type: ignore[arg-type]
        values = ", ".join(f"{name}={_short(value)}" for name, value in shown if value is not None)
        return f"{type(self).__name__}({values})"


class BranchParts(ShortRepr):
    """Access by name to the values of a plain block (`weights`) or of a differential one.

    parts: (weights,), or (minuend, subtrahend). weight: lambda, a scalar, [batch, row] or [batch, row, head]; None if
    plain. scaled: lambda times the subtrahend, where lambda is each head's own; otherwise None.
    row_axis: axis of the destinations in the parts. exact_difference: used instead of the rule where the
    difference is not linear in the parts (norms).
    """

    parts: tuple[Tensor, ...]
    weight: Tensor | None
    scaled: Tensor | None

    @property
    def row_axis(self) -> int:
        return 1

    @property
    def exact_difference(self) -> Tensor | None:
        return None

    @property
    def is_differential(self) -> bool:
        return len(self.parts) == 2

    @property
    def weights(self) -> Tensor:
        """The values of a plain block. Raises AttributeError in a differential one."""
        if self.is_differential:
            raise AttributeError(
                "this block is differential and has no `weights`: ask for minuend, subtrahend or difference."
            )
        return self.parts[0]

    @property
    def minuend(self) -> Tensor:
        """The values of the branch that is kept. Raises AttributeError in a plain block."""
        return self._of_differential("minuend", self.parts[0])

    @property
    def subtrahend(self) -> Tensor:
        """The values of the branch that is subtracted, without lambda. Raises AttributeError in a plain block."""
        return self._of_differential("subtrahend", self.parts[-1])

    @property
    def lambda_(self) -> Tensor:
        """The weight of the subtrahend: a scalar, [batch, row] of a gate or where a hook gave several, or [batch, row,
        head], of all heads."""
        return self._of_differential("lambda_", self.weight)

    @property
    def lambda_subtrahend(self) -> Tensor:
        """lambda times the subtrahend, as it enters the difference. Raises AttributeError in a plain block."""
        second = self.subtrahend
        return along_rows(self.lambda_, second.ndim, self.row_axis) * second if self.scaled is None else self.scaled

    @property
    def difference(self) -> Tensor:
        """minuend - lambda * subtrahend. Raises AttributeError in a plain block."""
        minuend = self._of_differential("difference", self.parts[0])
        return minuend - self.lambda_subtrahend if self.exact_difference is None else self.exact_difference

    @property
    def net(self) -> Tensor:
        """What the block does with both branches together: `weights`, or `difference`."""
        return self.difference if self.is_differential else self.weights

    def _of_differential(self, name: str, value: T | None) -> T:
        if not self.is_differential or value is None:
            raise AttributeError(f"this block is plain and has no `{name}`: ask for weights.")
        return value


def along_rows(weight: Tensor, ndim: int, row_axis: int) -> Tensor:
    """A scalar as it is; [batch, row] so that it broadcasts against `ndim` axes with rows at `row_axis`; [batch, row,
    head] likewise, with heads at the axis before the rows."""
    if weight.ndim == 0:
        return weight
    shape = [1] * ndim
    shape[0], shape[row_axis] = weight.shape[:2]
    if weight.ndim == 3:
        shape[row_axis - 1] = weight.shape[2]
        weight = weight.mT
    return weight.reshape(shape)


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return f"{float(value.detach()):.4g}"
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor | ShortRepr):
        return f"({', '.join(_short(item) for item in value)})"
    text = repr(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 1]}…"
