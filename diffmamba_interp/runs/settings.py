"""Recipes: frozen dataclasses from TOML, nested, checked by type, unknown keys refused; and back."""

from __future__ import annotations

import math
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.files import json_files
from diffmamba_interp.files.json_files import json_text

Settings = TypeVar("Settings")


def bundled_recipes() -> dict[str, Path]:
    """The recipes that come with the package by their names, wherever a wheel or a checkout has them."""
    package = Path(__file__).resolve().parents[1]
    folder = next((place for place in (package / "recipes", package.parent / "recipes") if place.is_dir()), None)
    return {} if folder is None else {file.stem: file for file in sorted(folder.glob("*.toml"))}


def read_toml(kind: type[Settings], path: str | Path) -> Settings:
    """Settings of type `kind` from a TOML file, or from a recipe that comes with the package, by its name.

    Raises FileNotFoundError if there is none; ValueError, with the file and the key, for a folder, for TOML that does
    not parse, unknown or missing keys, and values of the wrong type.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the path of a recipe (.toml).")
    if not path.exists():
        path = bundled_recipes().get(str(path), path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: give the path of a recipe (.toml).")
    values = json_files.read_toml(path)
    try:
        return from_values(kind, values)
    except ValueError as error:
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
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    missing = [where + name for name in needed if name not in values]
    if missing:
        raise ValueError(f"missing keys {', '.join(missing)}. Known: {', '.join(known)}.")
    return kind(**{name: _value(hints[name], value, where + name) for name, value in values.items()})


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


def changed(
    saved: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Where two runs' nested plain values differ, by dotted name: as saved, as they are now; None where not set.

    ignored: names of the first level that may differ.
    """
    before, after = (
        dict(_leaves({name: value for name, value in values.items() if name not in ignored})) for values in (saved, now)
    )
    names = [*after, *before]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def require_numbers(settings: Any) -> None:
    """Raise ValueError, with the field's name, for a number in a dataclass that nothing can be computed with.

    NaN, an infinity, or a whole number of more than 63 bits; `None` means off.
    """
    for field in fields(settings):
        for value in _numbers(getattr(settings, field.name)):
            if isinstance(value, int) and abs(value) >= 2**63 or not math.isfinite(value):
                raise ValueError(f"{field.name} is {value}: it must be a finite number of less than 2^63.")


def require_positive(settings: Any, *names: str) -> None:
    """Raise ValueError, with its name, for a field of a dataclass that is 0 or less; `None` means off."""
    defaults = {field.name: field.default for field in fields(settings)}
    for name in names:
        value = getattr(settings, name)
        if value is not None and value <= 0:
            advice = ", or left out" if defaults[name] is None else ""
            raise ValueError(f"{name} is {value}: it must be positive{advice}.")


def require_seed(seed: int, name: str = "seed") -> None:
    """Raise ValueError for a seed that not every generator takes."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"{name} is {seed}: it must lie in [0, 2^32).")


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{index}]")
    else:
        yield name, value


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, tuple):
        for entry in value:
            yield from _numbers(entry)
    elif isinstance(value, int | float):
        yield value


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
        return tuple(
            _value(kind, entry, f"{where}[{i}]") for i, (kind, entry) in enumerate(zip(kinds, value, strict=True))
        )
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}: it must be a table, [{where}].")
        return from_values(cast(type, hint), value, f"{where}.")
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{where} is {value!r}: it must be {_SCALARS.get(hint, hint)}.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, HookedMambaConfig):
        return _without_none(value.to_dict())
    if is_dataclass(value):
        return to_values(value)
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a TOML one, but for this control character.
        return json_text(value).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return repr(value)


_SCALARS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
