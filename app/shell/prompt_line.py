"""Above every page's title: the prompt in force, short, whole where it is opened, and whether a link has changed it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.shell import state
from app.shell.links import OF_PROMPT, PROMPT, SHARED
from app.shell.prompts import DEFAULT_TEXT, Prompt

AT_FRONT, AT_END = 40, 60
"""Letters of a long prompt that are shown: its question stands at the end."""

MOST = 20_000
"""Letters that are shown of one that is opened."""

OWN_PROMPTS = ("needle", "retrieval", "session")
"""Pages that have prompts of their own."""

_LAST, _FOLLOWED, _CHANGED = "prompt_last", "prompt_link", "prompt_changed"
_place: ContextVar[DeltaGenerator | None] = ContextVar("place", default=None)


@dataclass(kw_only=True)
class Change:
    """By a link. before: what was said of the prompt, and last how it was shown. of_page: what else was changed, from
    what to what. after: the text that came of it."""

    before: dict[str, str | None]
    of_page: dict[str, tuple[str | None, str | None]]
    last: tuple[str, str] | None
    after: str = ""


@contextmanager
def at_top(page: str) -> Iterator[None]:
    """What is drawn within follows the line; a page that reads no prompt of the side bar says so there."""
    place = st.container()
    _place.set(place)
    yield
    if page in OWN_PROMPTS:
        known, text = st.session_state.get(_LAST) or ("", state.values().get("prompt", DEFAULT_TEXT))
        with place:
            _draw(known, text, "of the other pages; it is not read on this one")
            _draw_change(text)


def draw_prompt(prompt: Prompt, between: str) -> None:
    """The line. between: the texts of two tokens."""
    answer = prompt.answer.strip()
    known = "" if not answer else f", {'marked' if prompt.is_marked else 'known'} answer “{answer}”"
    text, n = between.join(prompt.strings), len(prompt.tokens)
    place = _place.get() or st.container()
    _place.set(None)
    with place:
        _draw(known, text, f"of {n:,} token{'' if n == 1 else 's'}")
        followed: Change | None = st.session_state.pop(_FOLLOWED, None)
        if followed is not None and not (followed.last and followed.last[1] == text):
            followed.after = text
            st.session_state[_CHANGED] = followed
        _draw_change(text)
    st.session_state[_LAST] = known, text


def shortened(text: str) -> str:
    """Its front and its end."""
    flat = " ".join(text.split())
    return flat if len(flat) <= AT_FRONT + AT_END + 3 else f"{flat[:AT_FRONT]} … {flat[-AT_END:]}"


def note_change(changed: Mapping[str, str | None]) -> None:
    """A link was followed, which changed these keys, each from what it said: the next page that reads a prompt says if
    it is another."""
    if changed.keys() & {*PROMPT}:
        now = state.values()
        before = {key: changed.get(key, now.get(key)) for key in OF_PROMPT}
        of_page = {key: (value, now.get(key)) for key, value in changed.items() if key not in SHARED}
        st.session_state[_FOLLOWED] = Change(before=before, of_page=of_page, last=st.session_state.get(_LAST))


def take_back(change: Change) -> None:
    """The prompt of before the link, with its marks, its answer and the places that were looked at: for callbacks."""
    now = state.values()
    # What was chosen otherwise since the link stays.
    places = {key: before for key, (before, after) in change.of_page.items() if now.get(key) == after}
    state.restore(change.before | places)
    for key in (_FOLLOWED, _CHANGED):
        st.session_state.pop(key, None)
    if change.last:
        st.session_state[_LAST] = change.last


def _draw(known: str, text: str, which: str) -> None:
    whole = text[:MOST] + (" …" if len(text) > MOST else "")
    st.html(
        f'<details class="prompt"><summary title="{html.escape(whole[:1000])}"><b>Prompt</b> {html.escape(which)}'
        f"{html.escape(known)}: {html.escape(shortened(text))}</summary><p>{html.escape(whole)}</p></details>"
    )


def _draw_change(text: str) -> None:
    """That a link has changed the prompt, on every page as long as that prompt is in force."""
    change: Change | None = st.session_state.get(_CHANGED)
    if change is None or change.after != text:
        return
    was = f" Before it was: {shortened(change.last[1])}" if change.last else ""
    st.html(f'<p class="note">The link that you followed has changed the prompt of all pages.{html.escape(was)}</p>')
    st.button("Take the earlier prompt back", key="prompt_back", on_click=take_back, args=(change,))
