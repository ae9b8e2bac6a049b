"""Widgets whose state is kept over page changes and stands in the URL: see `kept_state`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.kept_state import keep_value, prepare


def selectbox(label: str, key: str, options: Sequence[str], default: str, **settings: Any) -> str:
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
