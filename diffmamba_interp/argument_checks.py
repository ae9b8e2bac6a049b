"""What a public function does with arguments of another kind than its signature says: an error in the caller's words.

    @checked
    def generate_stories(task: Task, *, n: Count, ...):        generate_stories("qa1", n=1.5)
                                                               TypeError: n is 1.5: give a whole number, at least 1.

The annotations are the one place that says what fits. Whole numbers may also be numpy's, or tensors of one entry, and
sequences arrays; they arrive in the function as Python's own. Tensors are looked at for dtype and number of axes. What
an annotation cannot say (a block that the model has) the function says itself. Of annotations that are unknown here, or
that name what is not imported at run time, a tokenizer's class excepted, nothing is checked.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included; NaN lies in none."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        if self.high == math.inf:
            return "finite" if self.low == -math.inf else f"at least {self.low:g}"
        return f"from {self.low:g} to {self.high:.10g}"

    def holds(self, number: float | int) -> bool:
        """Whether it is a finite number within the bounds."""
        return math.isfinite(number) and self.low <= number <= self.high


Natural = Annotated[int, Between(0.0)]
Count = Annotated[int, Between(1.0)]
Seed = Annotated[int, Between(0.0, 2.0**32 - 1)]
"""What every generator here takes: numpy's oldest takes no other."""

Share = Annotated[float, Between(0.0, 1.0)]
Resamples = Annotated[int, Between(1.0, 1e7)]
NonNegative = Annotated[float, Between(0.0)]
Finite = Annotated[float, Between(-math.inf)]


class _Unfit(Exception):
    """A value that an annotation does not allow: which one it is, inside what was given, and as which error to say it.

    inside: whether it is an item of what was given.
    """

    def __init__(self, value: Any, hint: Any, kind: type[Exception] = TypeError) -> None:
        self.value, self.hint, self.kind, self.inside = value, hint, kind, False


def checked(function: F) -> F:
    """The function, with its arguments checked against its annotations before it is called.

    Raises TypeError (another kind), or ValueError (the right kind, but no value that fits), naming the argument.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        hints = _hints(function)
        for name, value in bound.arguments.items():
            if name in hints:
                bound.arguments[name] = fitting(name, value, hints[name])
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


def checked_fields(cls: C) -> C:
    """A dataclass whose fields are checked as the arguments of a `checked` function are, when one is made."""
    cls.__init__ = checked(cls.__init__)  # type: ignore[misc]
    return cls


def fitting(name: str, value: Any, hint: Any) -> Any:
    """The value as the annotation wants it. Raises as `checked` does; `name` is the caller's word for it."""
    try:
        return _fit(value, hint)
    except _Unfit as unfit:
        verb = "holds" if unfit.inside else "is"
        remedy = _remedy(name, unfit) if not unfit.inside else ""
        raise unfit.kind(f"{name} {verb} {shown(unfit.value)}: give {_wanted(hint)}.{remedy}") from None


def shown(value: Any) -> str:
    """A value as an error names it, in one short line."""
    if value is None or isinstance(value, bool | int | float | str | bytes | slice | list | tuple | dict | range):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:76]} ..."
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"of dtype {_dtype(value)} and shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{'an' if type(value).__name__[:1] in 'AEIOUaeiou' else 'a'} {type(value).__name__}"


def _fit(value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        return _fit_bounds(value, hint)
    if origin in (Union, types.UnionType):
        return _fit_union(value, hint)
    if origin is Literal:
        return _fit_literal(value, hint)
    if hasattr(hint, "dim_str"):
        return _fit_array(value, hint)
    if hint in _SCALARS:
        return _SCALARS[hint](value, hint)
    if origin in _COLLECTIONS or hint in _COLLECTIONS:
        return _fit_collection(value, hint)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _fit_mapping(value, hint)
    if origin is Callable:
        return _must(callable(value), value, hint)
    if isinstance(hint, type) and not _is_blind_protocol(hint):
        return _must(isinstance(value, hint), value, hint)
    return value


def _must(fits: bool, value: Any, hint: Any, kind: type[Exception] = TypeError) -> Any:
    if not fits:
        raise _Unfit(value, hint, kind)
    return value


def _fit_bounds(value: Any, hint: Any) -> Any:
    base, *bounds = get_args(hint)
    value = _fit(value, base)
    fits = all(bound.holds(value) for bound in bounds if isinstance(bound, Between))
    return _must(fits, value, hint, ValueError)


def _fit_union(value: Any, hint: Any) -> Any:
    wrong: list[_Unfit] = []
    for alternative in get_args(hint):
        try:
            return _fit(value, alternative)
        except _Unfit as unfit:
            wrong.append(unfit)
    # The alternative that came closest tells best what is wrong.
    closest = max(wrong, key=lambda unfit: (unfit.kind is ValueError, unfit.inside))
    raise closest


def _fit_literal(value: Any, hint: Any) -> Any:
    choices = get_args(hint)
    same_kind = any(type(value) is type(choice) for choice in choices)
    return _must(same_kind and value in choices, value, hint, ValueError if same_kind else TypeError)


def _fit_whole(value: Any, hint: Any) -> Any:
    _must("bool" not in _dtype(value) and getattr(value, "ndim", 0) == 0, value, hint)
    try:
        return operator.index(value)
    except TypeError:
        raise _Unfit(value, hint) from None


def _fit_number(value: Any, hint: Any) -> Any:
    if isinstance(value, float) and type(value) is float:
        return value
    if "float" in _dtype(value) and getattr(value, "ndim", 0) == 0:
        return float(value.item())
    return float(_fit_whole(value, hint))


def _fit_truth(value: Any, hint: Any) -> Any:
    return bool(_must(_dtype(value) in ("bool", "bool_") and getattr(value, "ndim", 0) == 0, value, hint))


def _fit_array(value: Any, hint: Any) -> Any:
    """Dtype and number of axes; the sizes that one annotation shares with another are the function's affair."""
    _must(isinstance(value, hint.array_type), value, hint)
    name, known = _dtype(value), hint.dtypes
    if not isinstance(known, str) and isinstance(known, Iterable):
        _must(name in known or ("int8" in known and name.startswith("uint")), value, hint)
    axes = hint.dim_str.split()
    n_fixed = sum(not axis.startswith(("*", "...", "#*")) for axis in axes)
    fits = value.ndim == n_fixed if n_fixed == len(axes) else value.ndim >= n_fixed
    return _must(fits, value, hint, ValueError)


def _fit_collection(value: Any, hint: Any) -> Any:
    """Sequences, sets and the like, item by item; what can be read only once is left alone."""
    kind = get_origin(hint) or hint
    items = get_args(hint)
    _must(getattr(value, "ndim", 1) > 0, value, hint)
    if hasattr(value, "tolist") and kind not in (Iterable, AbstractSet, set, frozenset):
        value = value.tolist()
    _must(isinstance(value, list | tuple if kind in (tuple, list) else kind), value, hint)
    _must(not isinstance(value, str | bytes | Mapping), value, hint)
    if not isinstance(value, Collection) or isinstance(value, range) or not items:
        return value
    if kind is tuple and items[-1:] != (Ellipsis,):
        _must(len(value) == len(items), value, hint, ValueError)
        return tuple(_fit_item(item, each) for item, each in zip(value, items, strict=True))
    fitted = [_fit_item(item, items[0]) for item in value]
    if kind is tuple:
        return tuple(fitted)
    if all(new is old for new, old in zip(fitted, value, strict=True)):
        return value
    return type(value)(fitted) if isinstance(value, list | tuple | set | frozenset) else tuple(fitted)


def _fit_mapping(value: Any, hint: Any) -> Any:
    _must(isinstance(value, Mapping), value, hint)
    of_keys, of_values = get_args(hint)
    for key, item in value.items():
        _fit_item(key, of_keys)
        _fit_item(item, of_values)
    return value


def _fit_item(item: Any, hint: Any) -> Any:
    try:
        return _fit(item, hint)
    except _Unfit as unfit:
        unfit.inside = True
        raise


_SCALARS: dict[Any, Callable[[Any, Any], Any]] = {
    Any: lambda value, hint: value,
    object: lambda value, hint: value,
    None: lambda value, hint: _must(value is None, value, hint),
    type(None): lambda value, hint: _must(value is None, value, hint),
    int: _fit_whole,
    float: _fit_number,
    bool: _fit_truth,
    str: lambda value, hint: _must(isinstance(value, str), value, hint),
}
_COLLECTIONS = (Sequence, Collection, Iterable, AbstractSet, list, tuple, set, frozenset)


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function by parameter, those that can be evaluated."""
    plain = inspect.unwrap(function)
    hints: dict[str, Any] = {}
    for name, hint in plain.__annotations__.items():
        try:
            hints[name] = eval(hint, plain.__globals__) if isinstance(hint, str) else hint
        except NameError as unknown:
            if unknown.name != "PreTrainedTokenizerBase":
                continue
            # Half a second of importing, which no module pays at its head: whoever calls this has a tokenizer.
            from transformers import PreTrainedTokenizerBase

            hints[name] = eval(hint, {**plain.__globals__, unknown.name: PreTrainedTokenizerBase})
    hints.pop("return", None)
    return hints


def _dtype(value: Any) -> str:
    """The name of an array's dtype, without the library's; of anything else the name of its class."""
    return str(getattr(value, "dtype", type(value).__name__)).rpartition(".")[2]


def _remedy(name: str, unfit: _Unfit) -> str:
    """What to do about an array that is nearly what is wanted."""
    value, axes = unfit.value, getattr(unfit.hint, "dim_str", "").split()
    if getattr(value, "ndim", None) == len(axes) - 1 and axes[:1] == ["batch"]:
        return f" Add the batch axis: {name}[None]."
    return ""


def _is_blind_protocol(hint: type) -> bool:
    return bool(getattr(hint, "_is_protocol", False)) and not getattr(hint, "_is_runtime_protocol", False)


def _wanted(hint: Any) -> str:
    """What fits an annotation, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([_wanted(inner[0]), *(str(bound) for bound in inner[1:] if isinstance(bound, Between))])
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(_wanted(alternative) for alternative in inner))
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    if origin is Literal:
        return f"{'one of ' if len(inner) > 1 else ''}{', '.join(map(repr, inner))}"
    if hasattr(hint, "dim_str"):
        kind = hint.dtype.__name__
        library = "tensor" if hint.array_type.__name__ == "Tensor" else "numpy array"
        return f"a {library} of {_DTYPES.get(kind, kind.lower())} [{', '.join(hint.dim_str.split())}]"
    if hint in _WORDS:
        return _WORDS[hint]
    if origin in (tuple, *_COLLECTIONS) and inner:
        if origin is tuple and inner[-1] is not Ellipsis:
            return f"({', '.join(map(_wanted, inner))})"
        return f"a {'set' if origin in (AbstractSet, set, frozenset) else 'sequence'}, each item {_wanted(inner[0])}"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping from {_wanted(inner[0])} to {_wanted(inner[1])}"
    if origin is Callable:
        return "a function"
    name = getattr(hint, "__name__", str(hint))
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


_WORDS: dict[Any, str] = {
    None: "None",
    type(None): "None",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    os.PathLike: "a path",
    Any: "anything",
}
_DTYPES = {"Int": "whole numbers", "Float": "floating-point numbers", "Bool": "truth values"}
