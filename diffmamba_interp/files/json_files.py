"""JSON and TOML in and out: one rule for what JSON has no number for, and one set of errors for what is no JSON.

Written: NaN is `null`, an infinity is the string "inf" or "-inf"; never the bare words NaN and Infinity, which are not
JSON. Read: the same, and the bare words too, since other libraries write them. A byte-order mark is passed over.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from diffmamba_interp.files.atomic import write_text

_LINE_DEPTH = 2


def json_text(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """`value` as JSON: mappings, sequences, numpy arrays and scalars, strings, numbers, booleans, None.

    Raises TypeError for anything else.
    """
    return json.dumps(plain(value), indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)


def write_json(path: str | Path, value: Any, *, indent: int | None = 1) -> None:
    """`json_text` of `value` in a file that is whole or not there. Raises TypeError, OSError."""
    write_text(path, json_text(value, indent=indent) + "\n")


def results_json(content: Mapping[str, Any], *, digits: int = 5) -> str:
    """The text of a results.json, small and readable: what holds no more than plain lists and objects is on one line,
    without blanks; no line is indented.

    digits: significant ones of every number with a fraction, however small it is.
    """
    return _laid_out(_rounded(plain(content), digits), is_whole=True)


def plain(value: Any) -> Any:
    """`value` made of what JSON has, by the rule above; tuples, arrays and tensors become lists, keys strings,
    dataclasses objects."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def number(value: Any) -> float:
    """A number that `json_text` wrote: None is NaN, "inf", "-inf" and "nan" are what they say."""
    return math.nan if value is None else float(value)


def numbers(values: Any) -> Float64[np.ndarray, "*axes"]:
    """Nested lists of numbers that `json_text` wrote, by the rule of `number`."""
    return np.asarray(values, dtype=np.float64)


def parse_json(content: str | bytes, *, source: str | Path) -> Any:
    """The value of JSON text. `source` names it in errors.

    Raises ValueError, with the source, for what is no JSON, not UTF-8, or nested too deeply.
    """
    return _parsed(json.loads, content, "JSON", source)


def read_json(path: str | Path) -> Any:
    """The value of a JSON file. Raises OSError if it cannot be read, and ValueError as `parse_json` does."""
    return parse_json(Path(path).read_bytes(), source=path)


def read_json_object(path: str | Path) -> dict[str, Any]:
    """A JSON file that must hold an object. Raises OSError and ValueError, with the file."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, not an object.")
    return value


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises OSError; ValueError, with the file, for what is no TOML."""
    tables: dict[str, Any] = _parsed(tomllib.loads, Path(path).read_bytes(), "TOML", path)
    return tables


def _laid_out(value: Any, *, is_whole: bool = False) -> str:
    if _depth(value) <= _LINE_DEPTH and not is_whole:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}:{_laid_out(item)}" for key, item in value.items()]
        opening, closing = "{}"
    else:
        items = [_laid_out(item) for item in value]
        opening, closing = "[]"
    return "\n".join([opening, ",\n".join(items), closing])


def _depth(value: Any) -> int:
    """How many lists and objects are nested in one another."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _parsed(loads: Callable[[str], Any], content: str | bytes, kind: str, source: str | Path) -> Any:
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        return loads(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise ValueError(f"{source} is nested too deeply to be read as {kind}.") from error
    except ValueError as error:
        raise ValueError(f"{source} is not valid {kind}: {error}.") from error
