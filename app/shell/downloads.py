"""What can be taken away: a figure as files and as the Python that makes it again; what was looked at, in a session.

A session keeps the last records, whole, so that they can be written into a session file.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import plotly.graph_objects as go
import streamlit as st

from diffmamba_interp.drawing.plotly_figure import KEPT_HERE
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.spans import Spans

MAX_RECORDS, MAX_BYTES = 24, 128 * 2**20
"""That are kept."""

MOST_LETTERS = 35
"""Of a prompt's words in the name of a file."""

OPEN = False
"""Whether what is taken away, and a long text, lie open at first. Closed they are not sent: a browser that is to show
code loads 1.6 MB of script for it, before the figures."""

_KEPT = "kept_records"


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that is made when it is asked for. ending: of its name. make: its content."""

    ending: str
    mime: str
    make: Callable[[], bytes]


@st.fragment
def draw_downloads(files: list[Download], code: str, *, name: str, of: Sequence[str] = ()) -> None:
    """Buttons for the files, named `name` and by the prompt whose tokens' texts are `of`, and the Python to copy, once
    they are asked for."""
    label, key = "Take it away: HTML, PNG, SVG, CSV, NPZ, Python", f"take_away_{files[0].ending}"
    place = st.expander(label, OPEN, key=key, icon=":material/download:", on_change="rerun")
    if not place.open:
        return
    name += file_part(of)
    with place:
        for column, file in zip(st.columns(len(files)), files, strict=True):
            column.download_button(
                file.ending.upper(), file.make, f"{name}.{file.ending}", file.mime,
                key=f"download_{file.ending}", on_click="ignore", width="stretch",
            )  # fmt: skip
        st.caption("The cameras above a figure save it as SVG and as PNG. This Python gives the same numbers:")
        st.code(code, language="python", wrap_lines=True)


@st.fragment
def draw_text(text: str, label: str) -> None:
    """A long text to read and copy, once it is asked for."""
    place = st.expander(label, OPEN, key=f"text_{label}", on_change="rerun")
    if place.open:
        with place:
            st.code(text, language=None, wrap_lines=True, height=200)


def file_part(strings: Sequence[str]) -> str:
    """A prompt in the name of a file: its last words, and what tells it from others of these; nothing for many."""
    text = "".join(strings)
    words = "-".join(re.findall("[a-z0-9]+", text.lower())[-4:])[-MOST_LETTERS:]
    return f"-{words}-{crc32(repr(strings).encode()):08x}" if text else ""


def html_file(figure: go.Figure, ending: str = "html") -> Download:
    """One page that needs nothing else, not even a network."""
    return Download(ending=ending, mime="text/html", make=lambda: figure.to_html(config=KEPT_HERE).encode())


def csv_file(make: Callable[[], str], ending: str = "csv") -> Download:
    return Download(ending=ending, mime="text/csv", make=lambda: make().encode())


def npz_file(make: Callable[[], bytes], ending: str = "npz") -> Download:
    return Download(ending=ending, mime="application/octet-stream", make=make)


@dataclass(frozen=True, kw_only=True)
class KeptRecord:
    """A computed record and what it was computed with.

    record: one of the kinds of a session file. model: its name in the side bar, or those of two. strings: the prompt's
    tokens as text; empty for many prompts. words: texts of token ids that the record holds, for a lens. view, spans: of
    an attention record, "positions", "spans" or "heads", and what the prompt's spans are.
    """

    title: str
    model: str
    dtype: str
    device: str
    strings: tuple[str, ...]
    record: Any
    words: dict[int, str] = field(default_factory=dict)
    view: str = "positions"
    spans: Spans = field(default_factory=Spans)

    @property
    def key(self) -> tuple[str, str, tuple[str, ...]]:
        """What tells it from others that are kept."""
        return self.title, self.model, self.strings


def keep_record(record: KeptRecord) -> None:
    """Keep a record, in place of an older one of its key; the oldest go where there are too many."""
    kept: dict[Hashable, KeptRecord] = st.session_state.setdefault(_KEPT, {})
    kept.pop(record.key, None)
    kept[record.key] = record
    while len(kept) > MAX_RECORDS or (len(kept) > 1 and sum(map(record_size, kept.values())) > MAX_BYTES):
        kept.pop(next(iter(kept)))


def kept_records() -> list[KeptRecord]:
    """The oldest first."""
    return list(st.session_state.get(_KEPT, {}).values())


def forget_all() -> None:
    st.session_state.pop(_KEPT, None)


def record_size(kept: KeptRecord) -> int:
    """Bytes of the arrays."""
    record: Any = kept.record
    if hasattr(record, "nbytes"):
        return record.nbytes
    values = record.parts if isinstance(record, AttentionRecord) else vars(record).values()
    return sum(getattr(value, "nbytes", 0) for value in values)


def record_bytes(record: AttentionRecord) -> bytes:
    """What `AttentionRecord.load` reads."""
    with tempfile.TemporaryDirectory() as folder:
        return record.save(Path(folder) / "record.npz").read_bytes()
