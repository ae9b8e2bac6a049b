"""Widgets whose state is kept over page changes and stands in the URL.

A widget's own state is dropped with the page that draws it, so a copy of every value is kept in the session. The
first run of a session takes its values from the URL; after that the URL follows the widgets (`address`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import streamlit as st

MAX_URL_TEXT = 1500
"""Longer texts stay out of the URL: browsers and mail programs cut long addresses."""

Choice = TypeVar("Choice", bound=str)

_VALUES, _SHOWN, _DRAWN = "view_values", "view_shown", "view_drawn"
_DEFAULTS, _PAGE, _GIVEN = "view_defaults", "view_page", "view_given"


def selectbox(label: str, key: str, options: Sequence[Choice], default: Choice, **settings: Any) -> Choice:
    """A select box over texts whose choice is kept; `settings` as for st.selectbox."""
    free = bool(settings.get("accept_new_options"))
    prepare(key, default, str, lambda value: free or value in options)
    if free and st.session_state[key] not in options:
        options = [*options, st.session_state[key]]
    return keep_value(key, default, st.selectbox(label, options, key=key, **settings))


def slider(label: str, key: str, low: int, high: int, default: int, **settings: Any) -> int:
    """A slider over whole numbers whose place is kept; nothing to slide where only one number is left."""
    prepare(key, default, int, lambda value: low <= value <= high)
    if low == high:
        return keep_value(key, default, low)
    return keep_value(key, default, st.slider(label, low, high, key=key, **settings))


def number_input(label: str, key: str, low: int, high: int, default: int, **settings: Any) -> int:
    """A whole number to type."""
    prepare(key, default, int, lambda value: low <= value <= high)
    return keep_value(key, default, int(st.number_input(label, low, high, step=1, key=key, **settings)))


def range_slider(label: str, key: str, low: int, high: int, **settings: Any) -> tuple[int, int]:
    """A stretch of whole numbers, both ends included; all of them unless told otherwise."""
    whole = (low, high)
    prepare(key, whole, _parse_range, lambda value: low <= value[0] <= value[1] <= high)
    if low == high:
        return keep_value(key, whole, whole)
    return keep_value(key, whole, st.slider(label, low, high, key=key, **settings), _write_range)


def toggle(label: str, key: str, default: bool = False, **settings: Any) -> bool:
    """A switch whose place is kept."""
    prepare(key, default, {"True": True, "False": False}.__getitem__, lambda value: True)
    return keep_value(key, default, st.toggle(label, key=key, **settings))


def multiselect(label: str, key: str, options: Sequence[str], default: Sequence[str], **settings: Any) -> list[str]:
    """Several of the options."""
    prepare(key, list(default), str.split, lambda value: set(value) <= set(options))
    return keep_value(key, list(default), st.multiselect(label, options, key=key, **settings), " ".join)


def text_area(label: str, key: str, default: str, **settings: Any) -> str:
    """A text area whose text is kept."""
    prepare(key, default, str, lambda value: True)
    return keep_value(key, default, st.text_area(label, key=key, **settings))


def text_input(label: str, key: str, default: str, **settings: Any) -> str:
    """A line of text that is kept."""
    prepare(key, default, str, lambda value: True)
    return keep_value(key, default, st.text_input(label, key=key, **settings))


def _parse_range(text: str) -> tuple[int, int]:
    first, last = text.split("-")
    return int(first), int(last)


def _write_range(value: tuple[int, int]) -> str:
    return f"{value[0]}-{value[1]}"


def float_slider(label: str, key: str, low: float, high: float, default: float, step: float = 0.01) -> float:
    """All numbers in steps from `low` to `high`."""
    prepare(key, default, float, lambda value: low <= value <= high)
    return keep_value(key, default, st.slider(label, low, high, step=step, key=key))


def begin() -> None:
    """Start of a run: no widget was drawn yet."""
    if _VALUES not in st.session_state:
        st.session_state[_VALUES] = dict(st.query_params)
        st.session_state[_DEFAULTS], st.session_state[_GIVEN] = {}, {}
    st.session_state[_SHOWN], st.session_state[_DRAWN] = {}, set()


def shown() -> dict[str, str]:
    """What the widgets say that were drawn in this run, where that is not their default, as an address would."""
    return dict(st.session_state[_SHOWN])


def unkept() -> list[str]:
    """The keys of widgets that were changed since they were drawn."""
    given = st.session_state[_GIVEN].items()
    return [key for key, value in given if key in st.session_state and st.session_state[key] != value]


def drawn() -> set[str]:
    """The keys of all widgets that were drawn in this run."""
    return set(st.session_state[_DRAWN])


def visit(page: str) -> None:
    """Remember which page is shown, by its path in the address; "" is the first one."""
    if page != "session":
        st.session_state[_PAGE] = page or "overview"


def visited() -> str:
    """The page that was shown last, the session's own page apart."""
    return st.session_state.get(_PAGE, "overview")


def remembered(key: str, default: str) -> str:
    """A value without a widget, set by `put`."""
    value = st.session_state[_VALUES].get(key, default)
    st.session_state[_DRAWN].add(key)
    if value != default:
        st.session_state[_SHOWN][key] = value
    return value


def put(key: str, value: str) -> None:
    """What a widget shall say from its next drawing on, as the address would say it: for callbacks."""
    st.session_state.pop(key, None)
    st.session_state[_VALUES][key] = value


def forget(key: str) -> None:
    """Let a widget start at its default from its next drawing on: for callbacks."""
    st.session_state.pop(key, None)
    st.session_state[_VALUES].pop(key, None)


def restore(said: Mapping[str, str | None]) -> None:
    """Let each of the keys say that; None for its default: for callbacks."""
    for key, value in said.items():
        if value is None:
            forget(key)
        else:
            put(key, value)


def values() -> dict[str, str]:
    """What was chosen on any page and is not the default, as the address would say it."""
    return dict(st.session_state[_VALUES])


def pending(key: str) -> str:
    """What a widget that is drawn later in this run will say, as the address would; "" for its default."""
    value = st.session_state.get(key)
    if value is None:
        return st.session_state[_VALUES].get(key, "")
    return "" if value == st.session_state[_DEFAULTS].get(key) else str(value)


def replace_all(new: Mapping[str, str]) -> None:
    """Forget what was chosen and take `new` from the next drawing on."""
    for key in {*st.session_state[_VALUES], *st.session_state[_DEFAULTS]}:
        st.session_state.pop(key, None)
    st.session_state[_VALUES] = dict(new)
    st.session_state[_DEFAULTS] = {}


def prepare(key: str, default: Any, parse: Callable[[str], Any], valid: Callable[[Any], bool]) -> None:
    """See that the widget starts at a value that it may have: its own, the kept one, or the default."""
    untouched = st.session_state.get(key) == st.session_state[_DEFAULTS].get(key) != default
    if key in st.session_state and not untouched and valid(st.session_state[key]):
        # Said again, since the widget of the same key on another page would start at its own first value.
        st.session_state[key] = st.session_state[key]
        return
    kept = st.session_state[_VALUES].get(key)
    value = default
    if kept is not None:
        try:
            value = parse(kept)
        except (ValueError, KeyError):
            value = None
        if value is None or not valid(value):
            # Without back quotes the text cannot leave its own: an address may hold Markdown, as of a picture.
            st.warning(f"There is no {key} `{kept[:40].replace('`', chr(39))!r}` here: showing `{default!r}`.")
            value = default
    st.session_state[key] = value


def keep_value(key: str, default: Any, value: Any, write: Callable[[Any], str] = str) -> Any:
    """Keep what was chosen; a default is not, so that it can follow the model and the prompt."""
    st.session_state[_DEFAULTS][key], st.session_state[_GIVEN][key] = default, value
    st.session_state[_DRAWN].add(key)
    if value == default:
        st.session_state[_VALUES].pop(key, None)
    else:
        st.session_state[_VALUES][key] = st.session_state[_SHOWN][key] = write(value)
    return value
