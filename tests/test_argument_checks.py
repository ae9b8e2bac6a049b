"""Annotations are checked where a caller can see it, in the caller's words."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, Share, checked, checked_fields, fitting


@pytest.mark.parametrize(
    ("hint", "value", "arrives"),
    [
        (int, np.int64(3), 3),
        (int, torch.tensor(3), 3),
        (float, np.float32(0.5), 0.5),
        (float, 2, 2.0),
        (bool, np.True_, True),
        (Sequence[int], np.array([1, 2]), [1, 2]),
        (Sequence[int], [np.int64(1), 2], [1, 2]),
        (tuple[int, int], [1, 2], (1, 2)),
        (int | Sequence[int] | None, None, None),
        (Literal["a", "b"], "b", "b"),
        (Sequence[int], range(10**12), range(10**12)),
        ("a name that is not imported", 3, 3),
    ],
)
def test_what_fits_arrives_as_pythons_own(hint: Any, value: Any, arrives: Any) -> None:
    fitted = fitting("it", value, hint)
    assert fitted == arrives
    assert type(fitted) is type(arrives)


@pytest.mark.parametrize(
    ("hint", "value", "error", "message"),
    [
        (int, 1.5, TypeError, "it is 1.5: give a whole number."),
        (int, True, TypeError, "it is True"),
        (int, torch.tensor(True), TypeError, "it is of dtype bool and shape"),
        (Count, 0, ValueError, "it is 0: give a whole number, at least 1."),
        (Share, float("nan"), ValueError, "it is nan: give a number, from 0 to 1."),
        (str, None, TypeError, "it is None: give text."),
        (Literal["a", "b"], "c", ValueError, "it is 'c': give one of 'a', 'b'."),
        (Sequence[str], "text", TypeError, "it is 'text': give a sequence"),
        (Sequence[int], [1, 1.5], TypeError, "it holds 1.5: give a sequence, each item a whole number."),
        (tuple[int, int], (1, 2, 3), ValueError, r"it is \(1, 2, 3\): give \(a whole number, a whole number\)."),
        (Mapping[str, int], {"x": "y"}, TypeError, "it holds 'y'"),
        (Callable[[int], int], 3, TypeError, "it is 3: give a function."),
        (Iterable[int], torch.tensor(3), TypeError, "it is of dtype int64"),
        (Int[Tensor, "batch pos"], torch.tensor([1]), ValueError, r"Add the batch axis: it\[None\]"),
        (Int[Tensor, "batch pos"], torch.rand(1, 2), TypeError, "give a tensor of whole numbers"),
        (Float[Tensor, "*batch d"], torch.tensor(0.5), ValueError, r"\[\*batch, d\]"),
    ],
)
def test_what_does_not_fit_is_said_by_its_name(hint: Any, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fitting("it", value, hint)


def test_a_checked_function_keeps_its_signature_and_says_what_is_missing() -> None:
    @checked
    def double(n: int, *, times: Count = 2) -> int:
        """Doubles."""
        return n * times

    assert double(np.int64(2)) == 4  # type: ignore[arg-type]
    assert double.__name__ == "double"
    with pytest.raises(TypeError, match="missing a required argument: 'n'"):
        double()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="times is 0"):
        double(1, times=0)


def test_a_checked_generator_refuses_before_it_is_read() -> None:
    @checked
    def count(n: int) -> Iterable[int]:
        yield from range(n)

    with pytest.raises(TypeError, match="n is 'x'"):
        count("x")  # type: ignore[arg-type]


def test_the_fields_of_a_dataclass_are_checked_when_it_is_made() -> None:
    @checked_fields
    @dataclass(frozen=True, kw_only=True)
    class Place:
        block: int
        heads: Sequence[int] = ()

    assert Place(block=np.int64(1), heads=np.array([0])) == Place(block=1, heads=[0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="block is 'x'"):
        Place(block="x")  # type: ignore[arg-type]
