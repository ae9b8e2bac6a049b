"""Session: take what was looked at away as one file, and look at it again where no model and no GPU is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import streamlit as st

from app.pages_.session.file import MAX_PACKED_BYTES, Session, read_session, write_session
from app.pages_.session.kinds import KINDS, figures_of, kind_of
from app.pages_.session.report import told_apart, write_report
from app.shell import state
from app.shell.downloads import KeptRecord, forget_all, keep_record, kept_records
from app.shell.errors import shown_errors
from app.shell.figures import draw_figure, paled
from app.shell.headlines import draw_headline

PAGES = Path(__file__).resolve().parents[1]
JOINED = "session_joined"
OF_FILE = "from the file"
"""After the title of a record where one of this visit has the same title."""


def page() -> None:
    st.title("Session")
    left, right = st.columns(2)
    with right:
        opened = choose_file()
    with left:
        draw_writing()
    if opened is not None:
        draw_opened(opened)


def draw_writing() -> None:
    records = kept_records()
    st.header("Take it away")
    st.caption("The state of all widgets, and the figures that were looked at last, as numbers:")
    for kept, name in zip(records, told_apart(records), strict=True):
        st.text(f"{kept.model}: {name}")
    if not records:
        st.text("none were drawn in this visit: open a page that draws figures first")
    # The file is made in another thread, which knows no session.
    make = partial(write_session, state.visited(), state.values(), records)
    st.download_button(
        "Download the session", make, "session.zip", "application/zip",
        on_click="ignore", type="primary", disabled=not records,
    )  # fmt: skip
    if records:
        draw_report(state.values(), records, key="report")
        st.button("Forget these figures", key="forget", on_click=forget_all)


def draw_report(values: Mapping[str, str], records: Sequence[KeptRecord], *, key: str) -> None:
    """A button for the page that needs no server."""
    st.download_button(
        "Download a report", partial(write_report, values, records), "report.html", "text/html", key=key,
        on_click="ignore", help="One HTML file with every figure and what it says: no server, no network, no script",
    )  # fmt: skip


def choose_file() -> Session | None:
    st.header("Open one")
    file = st.file_uploader(f"A session file, at most {MAX_PACKED_BYTES // 2**20} MB", type="zip", key="session_upload")
    if file is None:
        return None
    with shown_errors("Opening the session file"):
        opened = read_session(file.getvalue())
        if st.session_state.get(JOINED) != file.file_id:
            st.session_state[JOINED] = file.file_id
            join(opened)
        return opened
    return None


def join(opened: Session) -> None:
    """Let the figures of a file be taken away with those of this visit, which come last and stay what they are."""

    def content(kept: KeptRecord) -> bytes:
        return KINDS[kind_of(kept.record)].write(kept.record)

    mine = {kept.key: kept for kept in kept_records()}
    for kept in opened.records:
        own = mine.get(kept.key)
        if own is None:
            keep_record(kept)
        elif content(own) != content(kept):
            keep_record(replace(kept, title=f"{kept.title} ({OF_FILE})"))
    for kept in mine.values():
        keep_record(kept)


def draw_opened(session: Session) -> None:
    n = len(session.records)
    st.header(f"{n} record{'' if n == 1 else 's'} in the file")
    # The name comes from a file: only that of a folder that is there is taken.
    page = session.page if session.page in {folder.name for folder in PAGES.iterdir()} else "overview"
    if session.state and st.button(f"Set the widgets as they were and go to {page.capitalize()}"):
        state.replace_all(session.state)
        st.switch_page(f"pages_/{page}/{page}.py")
    draw_report(session.state, session.records, key="report_of_file")
    for number, (kept, name) in enumerate(zip(session.records, told_apart(session.records), strict=True)):
        with shown_errors(f"Drawing record {number + 1}"):
            draw_record(number, kept, name)


def draw_record(number: int, kept: KeptRecord, name: str) -> None:
    st.markdown(f"**Record {number + 1}**")
    length = f"; {len(kept.strings)} tokens" if kept.strings else ""
    st.text(f"{name}. Model {kept.model}, {kept.dtype} on {kept.device}{length}.")
    kind = KINDS[kind_of(kept.record)]
    draw_headline(kind.tell(kept))
    lines = kind.lines(kept.record)
    if lines:
        st.code("\n".join(lines), language=None, wrap_lines=True)
    figures = figures_of(kept)
    for first in range(0, len(figures), 2):
        row = figures[first : first + 2]
        for place, (column, figure) in enumerate(zip(st.columns(len(row)), row, strict=True), start=first):
            with column:
                draw_figure(figure, f"session_figure_{number}_{place}")
    if words := "".join(dict.fromkeys(map(paled, figures))):
        st.caption(words)
    if kept.strings:
        with st.expander("Its prompt"):
            st.code("".join(kept.strings), language=None, wrap_lines=True)


page()
