"""The type hook of these tests: types are checked everywhere, shapes wherever an annotation has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError

from tests.type_checks import checked

if TYPE_CHECKING:
    from nowhere import Unknown

Row = Float[np.ndarray, " column"]


@checked(typechecker=None)
def repeated(word: str, n: int = 1, **more: Any) -> list[str]:
    return [word] * n if n < 5 else "too many"  # type: ignore[return-value]


@checked(typechecker=None)
def unknown(value: Unknown, n: int) -> Unknown:
    return value


@checked(typechecker=None)
def counted(n: int) -> Iterator[int]:
    yield from range(n)


@checked(typechecker=None)
@dataclass(frozen=True, kw_only=True)
class Plain:
    name: str
    parts: list[str] = field(default_factory=list)


def test_a_function_without_arrays_has_its_arguments_and_its_result_checked() -> None:
    assert repeated("a", 2, other=3) == ["a", "a"]
    assert repeated.__annotations__["n"] == "int"
    with pytest.raises(TypeCheckError, match="n='two'"):
        repeated("a", "two")
    with pytest.raises(TypeCheckError, match="return 'too many'"):
        repeated("a", 7)
    assert list(counted(3)) == [0, 1, 2]
    with pytest.raises(TypeCheckError):
        list(counted("3"))


def test_an_annotation_that_cannot_be_told_leaves_the_others_checked() -> None:
    assert unknown("x", 1) == "x"
    with pytest.raises(TypeCheckError):
        unknown("x", "1")


def test_the_fields_of_a_dataclass_are_checked() -> None:
    assert Plain(name="a").parts == []
    with pytest.raises(TypeCheckError):
        Plain(name=3)
    with pytest.raises(TypeCheckError):
        Plain(name="a", parts="b")


def rows_of(first: Row, second: Row) -> None:
    """By the name of an annotation."""


def optional(first: Row | None, second: list[Row]) -> None:
    """Inside others."""


def mapped(first: dict[str, Float[np.ndarray, " column"]], second: Callable[[Row], int] | Row) -> None:
    """Inside others again."""


@pytest.mark.parametrize(
    ("function", "wrap_first", "wrap_second"),
    [
        (rows_of, lambda row: row, lambda row: row),
        (optional, lambda row: row, lambda row: [row]),
        (mapped, lambda row: {"a": row}, lambda row: row),
    ],
)
def test_shapes_are_compared_wherever_an_annotation_holds_an_array(
    function: Callable, wrap_first: Callable, wrap_second: Callable
) -> None:
    from beartype import beartype

    compared = checked(function, typechecker=beartype)
    compared(wrap_first(np.zeros(2)), wrap_second(np.zeros(2)))
    with pytest.raises(TypeCheckError):
        compared(wrap_first(np.zeros(2)), wrap_second(np.zeros(3)))


def test_the_package_is_checked_so() -> None:
    from diffmamba_interp.hook_names import block_point
    from diffmamba_interp.statistics import bootstrap_of, holm

    with pytest.raises(TypeCheckError):
        block_point("three", "resid_pre")  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        bootstrap_of(lambda counts: counts, "five")  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        holm(np.array(["a"]))
