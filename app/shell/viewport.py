"""How wide the page is: only the browser knows, and tells it where it differs from what was taken for granted."""

from __future__ import annotations

import streamlit as st
from streamlit.components.v2 import component

USUAL_WIDTH = 900
"""Pixels for a page's contents in a window of 1,280, beside the side bar; taken until the browser says another."""

NARROW = 600
"""Below, nothing stands side by side."""

STEP = 100
"""Widths are told in steps: dragging a window's edge would otherwise draw the page at every pixel."""

_KEY = "page_width"
_SCRIPT = f"""
export default ({{ data, setStateValue, parentElement }}) => {{
    const page = document.querySelector(".stMainBlockContainer");
    let told = data.told, waiting;
    const tell = () => {{
        const style = getComputedStyle(page);
        const inside = page.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
        const width = Math.max({STEP}, {STEP} * Math.floor((inside + {STEP // 2}) / {STEP}));
        if (width !== told) setStateValue("width", told = width);
    }};
    const observer = new ResizeObserver(() => {{ clearTimeout(waiting); waiting = setTimeout(tell, 300); }});
    observer.observe(page);
    // Streamlit ends the last call alone.
    parentElement.end?.();
    return parentElement.end = () => {{ clearTimeout(waiting); observer.disconnect(); }};
}};
"""
_measured = component("diffmamba_page_width", js=_SCRIPT)


def content_width() -> int:
    """Pixels for what stands on the page, about."""
    told = st.session_state.get(_KEY)
    width = told.get("width") if told is not None else None
    return int(width) if isinstance(width, int | float) and 0 < width < 100_000 else USUAL_WIDTH


def is_narrow() -> bool:
    """Whether the page is that of a telephone."""
    return content_width() < NARROW


def measure() -> None:
    """Let the browser tell the width; a page that was drawn for another one is drawn again. Called once on a page."""
    _measure(content_width())


@st.fragment
def _measure(drawn: int) -> None:
    """A fragment waits until the page is drawn, while any other message would end a run that is under way."""
    _measured(key=_KEY, data={"told": content_width()}, on_width_change=lambda: None)
    if content_width() != drawn:
        st.rerun()
