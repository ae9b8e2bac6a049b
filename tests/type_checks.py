"""What pytest's type hook puts around the package's functions: shapes are checked where there are shapes.

jaxtyping wraps every function, binds its arguments and checks them twice, at some 20 us a call, whether it takes arrays
or not. A function without an annotation of an array has no shapes to compare, so that beartype alone checks it, by the
same rule: an annotation that cannot be told yet, such as a class inside itself, is not checked.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_check_shapes = jaxtyping.jaxtyped
_check_types = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def install() -> None:
    """Let the import hook use `checked` for what is imported from now on."""
    jaxtyping.jaxtyped = checked


def checked(function: Any = None, **how: Any) -> Any:
    """`jaxtyping.jaxtyped`, but beartype alone around a plain function without arrays."""
    if function is None:
        return functools.partial(checked, **how)
    if dataclasses.is_dataclass(function) and isinstance(vars(function).get("__init__"), FunctionType):
        if not getattr(function, "__no_type_check__", False):
            function.__init__ = checked(function.__init__, **how)
        return function
    if not isinstance(function, FunctionType):
        return _check_shapes(function, **how)
    hints = {name: _told(hint, function.__globals__) for name, hint in function.__annotations__.items()}
    if any(map(_holds_array, hints.values())):
        return _check_shapes(function, **how)
    return _with_types(function, hints)


def _with_types(function: FunctionType, hints: dict[str, Any]) -> Callable[..., Any]:
    annotations = function.__annotations__
    function.__annotations__ = hints
    try:
        wrapped = _check_types(function)
    finally:
        function.__annotations__ = annotations
    wrapped.__annotations__ = annotations
    return wrapped


def _told(hint: Any, names: dict[str, Any]) -> Any:
    holder = FunctionType((lambda: None).__code__, names)
    holder.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(holder, include_extras=True)["hint"]
    except Exception:  # noqa: BLE001  as jaxtyping does: a name that is not there yet, or a class' own
        return Any


def _holds_array(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    parts = hint if isinstance(hint, list) else get_args(hint)
    return any(map(_holds_array, parts))
