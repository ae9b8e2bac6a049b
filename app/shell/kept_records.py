"""What this browser session has looked at, kept so that it can be written into a session file, and as bytes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt, token_text
from diffmamba_interp.implicit_attention.record import AttentionRecord

MAX_RECORDS = 12
MAX_BYTES = 128 * 2**20
_KEPT = "kept_records"


@dataclass(frozen=True, kw_only=True)
class KeptRecord:
    """A computed record and what it was computed with.

    record: an `AttentionRecord`, a `LensTrajectory` or a `NeedleRun`. model: its name in the side bar, or those of
    two. strings: the prompt's tokens as text; empty for many prompts. words: texts of token ids that the record
    holds, for a lens.
    """

    title: str
    model: str
    dtype: str
    device: str
    strings: tuple[str, ...]
    record: object
    words: dict[int, str] = field(default_factory=dict)


def keep(chosen: ChosenModel, prompt: Prompt, title: str, record: object, token_ids: set[int] | None = None) -> None:
    """Keep a record of one prompt, as `keep_record`. token_ids: whose text belongs to it."""
    keep_record(
        KeptRecord(
            title=title, model=chosen.name, dtype=chosen.key.dtype, device=chosen.key.device, strings=prompt.strings,
            record=record, words={token: token_text(token, chosen.tokenizer) for token in token_ids or ()},
        )
    )  # fmt: skip


def keep_record(one: KeptRecord) -> None:
    """Keep a record, in place of an older one of its title and model; the oldest go where there are too many."""
    kept: dict[tuple[str, str], KeptRecord] = st.session_state.setdefault(_KEPT, {})
    kept.pop((one.title, one.model), None)
    kept[one.title, one.model] = one
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
