"""Results as JSON and back, by the types of their fields: numbers, arrays, tensors, sequences, records in records.

    @dataclass(frozen=True, kw_only=True)
    class Cell(JsonRecord):
        models: tuple[ModelAccuracy, ...]           Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
        difference: Estimate | None

NaN and infinity are written and read by the rule of `json_files`. An array of any floating dtype comes back in float64,
a tensor in float32, one of a stated dtype in that.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from diffmamba_interp.files.json_files import number, numbers, plain

R = TypeVar("R", bound="JsonRecord")


class JsonRecord:
    """Base of dataclasses that go to JSON and back."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives the same record back."""
        return plain({item.name: getattr(self, item.name) for item in fields(self)})  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls: type[R], values: Mapping[str, Any]) -> R:
        """The inverse of `to_dict`. Raises KeyError for an unknown field, TypeError for a missing one."""
        return _value(cls, values)


def _value(hint: Any, value: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        # Of the kinds that a field may have, the one that JSON's value looks like.
        kinds = [kind for kind in inner if kind is not types.NoneType]
        fitting = [kind for kind in kinds if (get_origin(kind) is tuple) == isinstance(value, list)] or kinds
        return None if value is None and types.NoneType in inner else _value(fitting[0], value)
    if isinstance(hint, type) and is_dataclass(hint):
        hints = _hints(hint)
        return hint(**{name: _value(hints[name], item) for name, item in value.items()})
    if hint is Tensor or hasattr(hint, "array_type"):
        return _array(hint, value)
    if origin is tuple:
        of_items = inner[:1] * len(value) if inner[-1] is ... else inner
        return tuple(_value(kind, item) for kind, item in zip(of_items, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {name: _value(inner[1], item) for name, item in value.items()}
    return number(value) if hint is float else value


def _array(hint: Any, value: Any) -> Any:
    dtypes = getattr(hint, "dtypes", ["float32"])
    if all(name.startswith("bool") for name in dtypes):
        return np.asarray(value, dtype=bool)
    is_whole = all(name.startswith(("int", "uint")) for name in dtypes)
    array = np.asarray(value, dtype=np.int64) if is_whole else numbers(value)
    if hint is Tensor or hint.array_type is Tensor:
        return torch.from_numpy(array if is_whole else array.astype(np.float32))
    return array.astype(dtypes[0]) if len(dtypes) == 1 else array


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
