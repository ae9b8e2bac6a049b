"""The address of a page: one entry of the browser's history for each deliberate change, and Back restores the widgets.

    a widget was changed                       a new entry, by Streamlit
    the same one again within `SETTLE_S`,      the entry is written over, by the browser: a slider that is dragged
    a page was opened                          passes through many values, and a link may say what there is not
    Back, Forward, a link with a state         the address is read into the widgets, and no entry is added

While a run is under way the browser may still say the address before the last one, so what it says counts only where
it went back, or where it says something that was not written here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app.shell import state
from app.shell.links import RAN, SHARED
from app.shell.prompt_line import note_change

SETTLE_S = 1.5
"""Changes of one widget that follow each other faster are one change."""

N_UNDONE = 50
_ADDRESS = "view_address"

Changed = dict[str, str | None]
"""By key what it said before; None for the default."""

_REPLACE = """<script>
(() => {
    const [page, query] = %s; // %d
    if (location.pathname.split("/").pop() !== page) return;
    history.replaceState(history.state, "", location.pathname + (query && "?" + query) + location.hash);
})();
</script>"""


@dataclass
class Address:
    """Of one session. page: shown last, as in the address. written: what its address says, or soon will. keys: of the
    widgets that each page showed. changed, changed_at: the keys that were changed last, and when that run began;
    began_at: when this one did, in seconds. is_fresh: whether the page was opened, or its state read from the address,
    in this run. n_replaced: counts. chosen: all that was chosen when a page was drawn last. past: on which page which
    keys were changed, and what `undo` gives each again. was_undone: since the address was written. set_aside: what was
    chosen on the page before a link opened it, which does not say it.
    """

    page: str | None = None
    written: dict[str, str] = field(default_factory=dict)
    keys: dict[str, set[str]] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()
    changed_at: float = 0.0
    began_at: float = 0.0
    is_fresh: bool = True
    n_replaced: int = 0
    chosen: dict[str, str] = field(default_factory=dict)
    past: list[tuple[str, Changed]] = field(default_factory=list)
    was_undone: bool = False
    set_aside: dict[str, str] = field(default_factory=dict)


def read(page: str) -> None:
    """Before a page is drawn: take over what the browser's address says, if somebody meant it."""
    address = _address()
    said = dict(st.query_params)
    is_first, arrived = address.page is None, address.page != page
    went_back = bool(getattr(get_script_run_ctx(), "is_history_navigation", False))
    linked = arrived and bool(said) and said != address.written
    address.is_fresh, address.began_at = arrived or went_back, time.monotonic()
    if address.is_fresh:
        address.set_aside = {}
        if not is_first:
            # Of a run that was left before its end.
            _note(address, changed_since(address.chosen))
    address.page = page
    if (went_back or linked) and not is_first:
        for key in {*address.keys.get(page, ()), *said, *(SHARED if linked else ())}:
            if key in said:
                state.put(key, said[key])
            elif len(state.values().get(key, "")) <= state.MAX_URL_TEXT:
                # What is longer has no place in an address, which says nothing of it.
                if linked and key in state.values() and key not in SHARED:
                    address.set_aside[key] = state.values()[key]
                state.forget(key)
        changed = changed_since(address.chosen)
        if linked:
            note_change(changed)
        _note(address, changed, went_back=went_back)


def write() -> None:
    """After a page was drawn: its address says what its widgets say, where that is not their default."""
    address = _address()
    shown = state.shown()
    wanted = {key: value for key, value in shown.items() if len(value) <= state.MAX_URL_TEXT}
    if len(wanted) < len(shown):
        st.caption("The prompt is too long for the address: this page's link does not hold it.")
    address.keys[address.page or ""] = state.drawn()
    if address.is_fresh:
        address.chosen, address.changed, is_new = state.values(), frozenset(), False
    else:
        changed = changed_since(address.chosen)
        keys = frozenset(changed) - {RAN}
        again = keys == address.changed and address.began_at - address.changed_at < SETTLE_S
        is_new = address.was_undone or bool(keys and not again)
        _note(address, changed, again=again)
        if keys:
            address.changed, address.changed_at = keys, address.began_at
    before, address.written, address.was_undone = address.written, wanted, False
    if wanted != (dict(st.query_params) if address.is_fresh else before):
        if is_new:
            st.query_params.from_dict(wanted)
        else:
            # That something was run is no change, either.
            _replace(address, wanted)


def changed_since(before: Mapping[str, str]) -> Changed:
    """What was chosen otherwise then."""
    now = state.values()
    return {key: before.get(key) for key in {*before, *now} if before.get(key) != now.get(key)}


def _note(address: Address, changed: Changed, *, again: bool = False, went_back: bool = False) -> None:
    """Keep a change of the page that is shown, to be undone. again: it goes on with the last one. went_back: the
    browser did, and may have undone that."""
    address.chosen = now = state.values()
    if not changed.keys() - {RAN}:
        return
    last = address.past[-1][1] if address.past else {}
    if went_back and last and all(now.get(key) == value for key, value in last.items()):
        address.past.pop()
    elif again and last:
        address.past[-1] = (address.past[-1][0], {**changed, **last})
    else:
        address.past = [*address.past, (address.page or "", changed)][-N_UNDONE:]


def is_opened() -> bool:
    """Whether the page was opened in this run, or its state read from the address: nobody changed a widget of it."""
    return _address().is_fresh


def set_aside() -> dict[str, str]:
    """What was chosen on the page that is shown before a link opened it."""
    return dict(_address().set_aside)


def take_up(values: Mapping[str, str]) -> None:
    """Choose again what was set aside: for callbacks."""
    state.restore(values)
    _address().set_aside = {}


def can_undo() -> bool:
    """Whether something was changed on the page that is shown."""
    address = _address()
    return bool(address.past) and address.past[-1][0] == address.page


def undo() -> None:
    """Set all widgets as they were before the last change, be its page made or not: for callbacks."""
    address = _address()
    changed = changed_since(address.chosen) | {key: address.chosen.get(key) for key in state.unkept()}
    if not changed.keys() - {RAN}:
        if not can_undo():
            return
        _, changed = address.past.pop()
    state.restore(changed)
    # What is undone is no change to undo.
    address.chosen, address.changed, address.was_undone = state.values(), frozenset(), True


def query(values: Mapping[str, str]) -> str:
    """As an address has it, without the question mark."""
    return urlencode(values)


def _replace(address: Address, wanted: Mapping[str, str]) -> None:
    address.n_replaced += 1
    said = json.dumps([address.page, query(wanted)]).replace("<", "\\u003c")
    st.html(_REPLACE % (said, address.n_replaced), unsafe_allow_javascript=True)


def _address() -> Address:
    return st.session_state.setdefault(_ADDRESS, Address())
