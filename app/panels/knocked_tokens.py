"""Which tokens of a prompt are knocked out: by span, or by number."""

from __future__ import annotations

import re

import streamlit as st

from app import view_state
from app.prompts import Prompt
from diffmamba_interp.implicit_attention.spans import SPAN_CLASSES


def choose_tokens(prompt: Prompt) -> tuple[int, ...]:
    """Positions that are knocked out, by span and one by one."""
    left, right = st.columns(2)
    with left:
        spans = [name for name in SPAN_CLASSES if getattr(prompt.spans, name)]
        names = view_state.multiselect("Knocked out: every token of", "knock_spans", spans, [], disabled=not spans)
    with right:
        hint = f"Such as 3 5-8; the prompt has positions 0 to {len(prompt.tokens) - 1}"
        typed = view_state.text_input("And the positions", "knock_positions", "", help=hint)
    places = {place for name in names for start, end in getattr(prompt.spans, name) for place in range(start, end)}
    return tuple(sorted(places | parse_positions(typed, len(prompt.tokens))))


def parse_positions(typed: str, n_pos: int) -> set[int]:
    """Numbers and ranges, both ends included, between blanks or commas. Raises ValueError for anything else."""
    found: set[int] = set()
    for part in filter(None, re.split(r"[\s,;]+", typed)):
        ends = part.split("-") if re.fullmatch(r"[0-9]{1,6}(-[0-9]{1,6})?", part) else []
        if not ends or int(ends[0]) > int(ends[-1]) or int(ends[-1]) >= n_pos:
            raise ValueError(
                f"{part[:40]!r} is no position: give numbers or ranges such as 5-8, from 0 to {n_pos - 1}."
            )
        found.update(range(int(ends[0]), int(ends[-1]) + 1))
    return found
