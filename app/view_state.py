"""What the widgets say, kept over page changes and in the URL.

A widget's own state is dropped with the page that draws it, so a copy of every value is kept in the session. The
first run of a session takes its values from the URL; after that the URL follows the widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

MAX_URL_TEXT = 1500
"""Longer texts stay out of the URL: browsers and mail programs cut long addresses."""

_VALUES, _SHOWN, _DEFAULTS = "view_values", "view_shown", "view_defaults"


def begin() -> None:
    """Start of a run: no widget was drawn yet."""
    if _VALUES not in st.session_state:
        st.session_state[_VALUES] = dict(st.query_params)
        st.session_state[_DEFAULTS] = {}
    st.session_state[_SHOWN] = {}


def selectbox(label: str, key: str, options: Sequence[str], default: str, **settings: Any) -> str:
    """A select box over texts whose choice is kept; `settings` as for st.selectbox."""
    free = bool(settings.get("accept_new_options"))
    _prepare(key, default, str, lambda value: free or value in options)
    if free and st.session_state[key] not in options:
        options = [*options, st.session_state[key]]
    return _keep(key, default, st.selectbox(label, options, key=key, **settings))


def slider(label: str, key: str, low: int, high: int, default: int, **settings: Any) -> int:
    """A slider over whole numbers whose place is kept; nothing to slide where only one number is left."""
    _prepare(key, default, int, lambda value: low <= value <= high)
    if low == high:
        return _keep(key, default, low)
    return _keep(key, default, st.slider(label, low, high, key=key, **settings))


def text_area(label: str, key: str, default: str, **settings: Any) -> str:
    """A text area whose text is kept."""
    _prepare(key, default, str, lambda value: True)
    return _keep(key, default, st.text_area(label, key=key, **settings))


def text_input(label: str, key: str, default: str, **settings: Any) -> str:
    """A line of text that is kept."""
    _prepare(key, default, str, lambda value: True)
    return _keep(key, default, st.text_input(label, key=key, **settings))


def write_url() -> None:
    """End of a run: the URL says what the widgets of this page say, where that is not their default."""
    shown = st.session_state[_SHOWN]
    if len(shown) != len(wanted := {k: v for k, v in shown.items() if len(v) <= MAX_URL_TEXT}):
        st.caption("The prompt is too long for the address: this page's link does not hold it.")
    if dict(st.query_params) != wanted:
        st.query_params.from_dict(wanted)


def _prepare(key: str, default: Any, parse: Callable[[str], Any], valid: Callable[[Any], bool]) -> None:
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
        except ValueError:
            value = None
        if value is None or not valid(value):
            st.warning(f"There is no {key} `{kept[:40]!r}` here: showing {default!r}.")
            value = default
    st.session_state[key] = value


def _keep(key: str, default: Any, value: Any) -> Any:
    """Keep what was chosen; a default is not, so that it can follow the model and the prompt."""
    st.session_state[_DEFAULTS][key] = default
    if value == default:
        st.session_state[_VALUES].pop(key, None)
    else:
        st.session_state[_VALUES][key] = st.session_state[_SHOWN][key] = str(value)
    return value
