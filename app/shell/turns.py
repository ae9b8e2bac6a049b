"""Whose turn it is: a long run waits between its steps while the page of another session is made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

MOST_S = 0.5
"""A run waits so long between two steps at most: others slow it down, and cannot stop it."""

LOOK_S = 0.02

_short: set[int] = set()
"""Threads that make a page, as far as they are not known to run long."""


@contextmanager
def page() -> Iterator[None]:
    """While a session's page is made."""
    _short.add(get_ident())
    try:
        yield
    finally:
        _short.discard(get_ident())


def give_way() -> None:
    """Of a long run, between two of its steps. Nobody waits for it from then on, other long runs neither."""
    _short.discard(get_ident())
    until = time.monotonic() + MOST_S
    while _short and time.monotonic() < until:
        time.sleep(LOOK_S)
