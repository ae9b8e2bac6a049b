"""Frozen dataclasses from TOML: nested, checked by type, unknown keys refused; and back."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from diffmamba_interp.config import HookedMambaConfig

Settings = TypeVar("Settings")


def read_toml(kind: type[Settings], path: str | Path) -> Settings:
    """Settings of type `kind` from a TOML file.

    Raises FileNotFoundError if there is none; ValueError, with the file and the key, for TOML that does not
    parse, unknown or missing keys, and values of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: give the path of a recipe (.toml).")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return from_values(kind, values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def from_values(kind: type[Settings], values: Mapping[str, Any], where: str = "") -> Settings:
    """Settings of type `kind` from plain values, as TOML or JSON hold them. `where` is the prefix of their keys."""
    if kind is HookedMambaConfig:
        try:
            return HookedMambaConfig.from_dict(values)  # type: ignore[return-value]
        except (TypeError, ValueError) as error:
            raise ValueError(f"in [{where.rstrip('.')}]: {error}") from error
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown keys {', '.join(where + key for key in unknown)}. Known: {', '.join(known)}.")
    built = {name: _value(hints[name], value, where + name) for name, value in values.items()}
    try:
        return kind(**built)
    except TypeError as error:
        raise ValueError(f"{where.rstrip('.') or 'the recipe'}: {error}") from error


def to_values(settings: Any) -> dict[str, Any]:
    """Plain values from which `from_values` makes the same settings; what is None is left out."""
    values = {}
    for field in fields(settings):
        value = _plain(getattr(settings, field.name))
        if value is not None:
            values[field.name] = value
    return values


def to_toml(values: Mapping[str, Any], prefix: str = "") -> str:
    """TOML text of nested plain values (tables, lists of tables, numbers, strings, lists of these)."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lists = {key: value for key, value in values.items() if _is_list_of_tables(value)}
    lines = [f"{k} = {_toml_value(v)}\n" for k, v in values.items() if k not in tables and k not in lists]
    for key, table in tables.items():
        lines.append(f"\n[{prefix}{key}]\n{to_toml(table, f'{prefix}{key}.')}")
    for key, rows in lists.items():
        lines += [f"\n[[{prefix}{key}]]\n{to_toml(row, f'{prefix}{key}.')}" for row in rows]
    return "".join(lines)


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` names."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        problems = []
        # TOML knows no null, so None needs no mention among what the value could have been.
        for choice in (argument for argument in arguments if argument is not type(None)):
            try:
                return _value(choice, value, where)
            except ValueError as error:
                problems.append(str(error))
        raise ValueError("; or ".join(problems))
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} is {value!r}: it must be one of {', '.join(map(str, arguments))}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} is {value!r}: it must be a list.")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} entries: it must have {len(kinds)}.")
        return tuple(_value(kind, one, f"{where}[{i}]") for i, (kind, one) in enumerate(zip(kinds, value, strict=True)))
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}: it must be a table, [{where}].")
        return from_values(cast(type, hint), value, f"{where}.")
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{where} is {value!r}: it must be of type {getattr(hint, '__name__', hint)}.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, HookedMambaConfig):
        return _without_none(value.to_dict())
    if is_dataclass(value):
        return to_values(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return repr(value)
