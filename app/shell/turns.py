"""Whose turn it is: a long run waits between its steps while the page of another session is made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

import streamlit as st

MOST_S = 3.0
"""A run waits so long between two steps at most: others slow it down, and cannot stop it."""

DRAWN_S = 1.5
"""So long after its first page was made a new session's browser has yet to draw it, on this machine if it is here."""

LEAD_S, LEAD_BESIDE_S = 0.15, 0.4
"""So long a new session's browser has the server to itself: it asks for Plotly's script, which takes it longest. Beside
a long run it asks later, and the run has yet to come to the end of its step."""

LONG_S = 1.5
"""A page that is younger is not taken for a long run by what most pages wait for."""

LOOK_S = 0.02

_KNOWN = "turns_known"
_waited_for: dict[int, float] = {}
"""By thread that makes a page and is not known to run long: until when others wait for it."""

_begun: dict[int, float] = {}
"""By thread that makes a page: since when."""


@contextmanager
def page(*, leads: bool = False) -> Iterator[None]:
    """While a session's page is made. leads: whether the browser of a new one gets a lead."""
    is_new = _KNOWN not in st.session_state
    st.session_state[_KNOWN] = True
    _waited_for[get_ident()] = float("inf")
    if is_new and leads:
        now = time.monotonic()
        time.sleep(LEAD_BESIDE_S if any(now - since >= LONG_S for since in list(_begun.values())) else LEAD_S)
    _begun[get_ident()] = time.monotonic()
    try:
        yield
    finally:
        _begun.pop(get_ident(), None)
        if _waited_for.pop(get_ident(), None) and is_new:
            _waited_for[get_ident()] = time.monotonic() + DRAWN_S


@contextmanager
def not_waited_for() -> Iterator[None]:
    """While a page waits for what another session makes, and that one would wait for the page."""
    until = _waited_for.pop(get_ident(), None)
    try:
        yield
    finally:
        if until is not None:
            _waited_for[get_ident()] = until


def is_long() -> bool:
    """Whether this page has been made for `LONG_S`."""
    now = time.monotonic()
    return now - _begun.get(get_ident(), now) >= LONG_S


def give_way() -> None:
    """Of a long run, between two of its steps. Nobody waits for it from then on, other long runs neither."""
    _waited_for.pop(get_ident(), None)
    until = time.monotonic() + MOST_S
    while _is_waited_for() and time.monotonic() < until:
        # Streamlit ends a run that was cancelled when it is asked for something.
        st.session_state.get(_KNOWN)
        time.sleep(LOOK_S)


def _is_waited_for() -> bool:
    now = time.monotonic()
    return any(now < end for end in list(_waited_for.values()))
