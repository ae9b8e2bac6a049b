"""Attention: what the branches of a block read, and what the subtraction leaves."""

from __future__ import annotations

from typing import cast

import numpy as np
import streamlit as st

from app import view_state
from app.attention_files import attention_files
from app.attention_request import KINDS, REDUCTIONS, AttentionRequest, attention_record
from app.panels.chosen_model import ChosenModel, choose_model, choose_prompt
from app.panels.downloads import FIGURE_BUTTONS, draw_downloads
from app.panels.errors import shown_errors
from app.panels.long_runs import agreed
from app.prompts import Prompt, parse_token
from app.python_code import attention_code
from diffmamba_interp.figures.attention import PANEL_NAMES, attention_figure
from diffmamba_interp.figures.coloured_text import coloured_text
from diffmamba_interp.implicit_attention.record import AttentionRecord, Kind

PLAIN_MEANS = {
    "hidden": "weights: H of the block's only scan, signed, not normalised; gates, norms and out_proj are left out",
    "contribution": "exact: what each source adds to mixer_out along the direction, frozen scales",
    "contribution_norm": "norm of what each source adds to mixer_out, frozen scales",
}
FIGURE_HEIGHT = 480
MAX_ROW_TOKENS = 120


def page() -> None:
    st.header("Attention")
    chosen = choose_model()
    prompt = choose_prompt(chosen) if chosen else None
    if chosen is None or prompt is None:
        return
    with shown_errors("Computing the attention"):
        request = choose_request(chosen, prompt)
        if agreed(chosen.key, len(prompt.tokens), what=(prompt, request), reduce="Shorten the prompt"):
            with st.spinner("Computing", show_time=True):
                record = attention_record(chosen.key, prompt, request)
            draw(chosen, prompt, request, record)


def choose_request(chosen: ChosenModel, prompt: Prompt) -> AttentionRequest:
    left, middle, right = st.columns(3)
    with left:
        block = view_state.slider("Block", "block", 0, chosen.cfg.n_layers - 1, 0)
    with middle:
        kind = view_state.selectbox("Shown", "kind", list(KINDS), "hidden", format_func=KINDS.__getitem__)
    heads, token = "mean", None
    with right:
        if kind == "hidden":
            n_heads = chosen.cfg.mixer_sizes(chosen.cfg.block_kind(block)).n_heads
            choices = [*REDUCTIONS, *(str(head) for head in range(n_heads))]
            heads = view_state.selectbox("Heads", "heads", choices, "mean", format_func=heads_name)
        elif kind == "contribution":
            label = "Token" if chosen.tokenizer else "Token id"
            typed = view_state.text_input(label, "token", prompt.strings[-1])
            token = parse_token(typed, chosen.tokenizer, chosen.cfg.d_vocab)
    return AttentionRequest(block=block, kind=cast(Kind, kind), heads=heads, token=token)


def heads_name(heads: str) -> str:
    return REDUCTIONS.get(heads, f"head {heads}")


def draw(chosen: ChosenModel, prompt: Prompt, request: AttentionRequest, record: AttentionRecord) -> None:
    figure = attention_figure(record, **request.figure_arguments())
    figure.update_layout(height=FIGURE_HEIGHT)
    st.plotly_chart(figure, width="stretch", key="attention_figure", config=FIGURE_BUTTONS)
    if record.is_differential:
        st.caption(f"Block {record.block} is differential. Difference: {record.difference_means}.")
    else:
        st.caption(f"Block {record.block} is plain: nothing is subtracted. {PLAIN_MEANS[record.kind]}.")
    draw_row(prompt, record)
    code = attention_code(chosen.key, prompt, request.arguments(len(prompt.tokens)), request.figure_arguments())
    draw_downloads(attention_files(record, figure), code, name=f"attention-block-{record.block}")


def draw_row(prompt: Prompt, record: AttentionRecord) -> None:
    """One destination's row over the text that it reads, every picture on one scale."""
    rows = record.rows[0].tolist()
    row = view_state.slider("Row: what is read at this position", "row", rows[0], rows[-1], rows[-1])
    pictures = {name: picture[row - rows[0], : row + 1] for name, picture in whole_rows(record).items()}
    limit = max(float(np.abs(picture).max()) for picture in pictures.values()) or 1.0
    first = max(0, row + 1 - MAX_ROW_TOKENS)
    for name, picture in pictures.items():
        before = f", {earlier(picture, first)}" if first else ""
        st.caption(f"{PANEL_NAMES.get(name, name)}{before}")
        st.html(coloured_text(prompt.strings[first : row + 1], picture[first:], limit=limit, first=first))
    st.caption(f"Blue is negative, red positive; the scale ends at ±{limit:.3g}.")


def earlier(picture: np.ndarray, first: int) -> str:
    """How much of a row falls on tokens that have no room."""
    share = float(np.abs(picture[:first]).sum() / max(float(np.abs(picture).sum()), 1e-30))
    return f"last {MAX_ROW_TOKENS} tokens; {share:.1%} of the row's magnitude falls on the {first:,} before"


def whole_rows(record: AttentionRecord) -> dict[str, np.ndarray]:
    """The pictures as [row, src]: a record of one head has that head only."""
    arrays = record.to_numpy()
    return {name: arrays[name][0, 0] if record.per_head else arrays[name][0] for name in record.pictures}


page()
