"""Attention: what the branches of a block read, and what the subtraction leaves."""

from __future__ import annotations

import streamlit as st

from app import view_state
from app.attention_request import REDUCTIONS, AttentionRequest, attention_record
from app.panels.chosen_model import ChosenModel, choose_model, choose_prompt
from app.panels.errors import shown_errors
from diffmamba_interp.figures.attention import attention_figure
from diffmamba_interp.implicit_attention.record import AttentionRecord

PLAIN_MEANS = "weights: H of the block's only scan, signed and not normalised; gates, norms and out_proj are left out"


def page() -> None:
    st.title("Attention")
    chosen = choose_model()
    prompt = choose_prompt(chosen) if chosen else None
    if chosen is None or prompt is None:
        return
    with shown_errors("Computing the attention"):
        request = choose_request(chosen)
        record = attention_record(chosen.key, prompt, request)
        draw(record)


def choose_request(chosen: ChosenModel) -> AttentionRequest:
    left, right = st.columns(2)
    with left:
        block = view_state.slider("Block", "block", 0, chosen.cfg.n_layers - 1, 0)
    n_heads = chosen.cfg.mixer_sizes(chosen.cfg.block_kind(block)).n_heads
    with right:
        heads = view_state.selectbox(
            "Heads", "heads", [*REDUCTIONS, *(str(head) for head in range(n_heads))], "mean", format_func=heads_name
        )
    return AttentionRequest(block=block, kind="hidden", heads=heads)


def heads_name(heads: str) -> str:
    return REDUCTIONS.get(heads, f"head {heads}")


def draw(record: AttentionRecord) -> None:
    st.plotly_chart(attention_figure(record), width="stretch", key="attention_figure")
    if record.is_differential:
        st.caption(f"Block {record.block} is differential. {record.difference_means}.")
    else:
        st.caption(f"Block {record.block} is plain: there is nothing to subtract. {PLAIN_MEANS}.")


page()
