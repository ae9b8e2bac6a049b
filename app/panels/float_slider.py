"""A slider over numbers with a point, kept and in the address as those of `view_state`."""

from __future__ import annotations

import streamlit as st

from app.kept_state import keep_value, prepare


def float_slider(label: str, key: str, low: float, high: float, default: float, step: float = 0.01) -> float:
    """All numbers in steps from `low` to `high`."""
    prepare(key, default, float, lambda value: low <= value <= high)
    return keep_value(key, default, st.slider(label, low, high, step=step, key=key))
