"""A record comes back from JSON as it was, by the types of its fields alone."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

from diffmamba_interp.files.json_records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class Part(JsonRecord):
    name: str
    value: float
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pair(Part):
    places: tuple[int | tuple[int, ...], ...]
    groups: tuple[tuple[int, ...] | None, ...]
    first: Part
    second: Part | None
    by_name: Mapping[str, tuple[Part, ...]]
    axis: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays(JsonRecord):
    wide: Float[np.ndarray, "row column"]
    narrow: Float32[np.ndarray, " row"] | None
    whole: Int64[np.ndarray, " row"]
    truths: Bool[np.ndarray, "row column"]
    tensor: Float[Tensor, " row"]
    ids: Int[Tensor, " row"] | None
    bare: Tensor
    by_name: Mapping[str, Float[np.ndarray, "..."]] = field(default_factory=dict)


def through_json(record: JsonRecord) -> JsonRecord:
    return type(record).from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False)))


def test_records_in_records_come_back_with_tuples_and_what_may_be_missing() -> None:
    part = Part(name="a", value=-math.inf, counts=(1, 2))
    pair = Pair(
        name="b",
        value=2.0,
        places=(3, (4, 5)),
        groups=(None, (0,), ()),
        first=part,
        second=None,
        by_name={"x": (part, part), "y": ()},
    )
    assert through_json(pair) == pair
    assert through_json(Pair(**{**vars(pair), "second": part})).second == part


def test_nan_comes_back_in_a_number_and_in_arrays_of_every_kind() -> None:
    arrays = Arrays(
        wide=np.array([[1.0, np.nan], [np.inf, -np.inf]]),
        narrow=np.array([0.1, np.nan], np.float32),
        whole=np.array([1, 2]),
        truths=np.array([[True, False]]),
        tensor=torch.tensor([0.1, math.nan]),
        ids=torch.tensor([3, 4]),
        bare=torch.tensor(math.nan),
        by_name={"a": np.array([np.nan, 2.0])},
    )
    back = through_json(arrays)
    for name in ("wide", "narrow", "whole", "truths"):
        np.testing.assert_array_equal(getattr(back, name), getattr(arrays, name))
        assert getattr(back, name).dtype == getattr(arrays, name).dtype
    np.testing.assert_array_equal(back.by_name["a"], arrays.by_name["a"])
    for name in ("tensor", "ids", "bare"):
        torch.testing.assert_close(getattr(back, name), getattr(arrays, name), rtol=0, atol=0, equal_nan=True)
    assert through_json(Arrays(**{**vars(arrays), "narrow": None, "ids": None})).ids is None
    assert math.isnan(through_json(Part(name="a", value=math.nan)).value)


@pytest.mark.parametrize(("values", "error"), [({"name": "a"}, TypeError), ({"name": "a", "other": 1}, KeyError)])
def test_a_field_that_is_missing_or_unknown_is_refused(values: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Part.from_dict(values)
