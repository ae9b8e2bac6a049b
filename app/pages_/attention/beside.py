"""A second attention picture below the first: of another model, or of another prompt of as many tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import plotly.graph_objects as go
import streamlit as st

from app.pages_.attention.request import (
    FIGURES,
    REDUCTIONS,
    AttentionRequest,
    attention_record,
    figure_steps,
    find_way_in,
    record_steps,
)
from app.shell import state
from app.shell.answers import label_token, ready_answer
from app.shell.choices import choose_second_model, require_same_vocabulary
from app.shell.estimates import agreed
from app.shell.figures import draw_figure
from app.shell.headlines import attention_headline, draw_headline
from app.shell.loading import ChosenModel
from app.shell.prompt_pairs import choose_other
from app.shell.prompts import Prompt
from app.shell.steps import Step, model_steps, run_steps
from diffmamba_interp.implicit_attention.record import AttentionRecord

BESIDE = {"nothing": "nothing", "model": "another model", "prompt": "another prompt"}


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What stands below the page's picture. title: what is other about it. chosen, prompt, request: of it."""

    title: str
    chosen: ChosenModel
    prompt: Prompt
    request: AttentionRequest
    record: AttentionRecord
    figure: go.Figure

    @property
    def steps(self) -> list[Step]:
        """What makes the picture, after the page's own steps."""
        is_other_model = self.title == BESIDE["model"]
        loads = model_steps(self.chosen.key, "second_model") if is_other_model else []
        made = record_steps(self.chosen.key, self.prompt, self.request, "second_", own_model=is_other_model)
        return [*loads, *made, *figure_steps(self.prompt, self.request, "second_")]


def draw_beside(chosen: ChosenModel, prompt: Prompt, request: AttentionRequest, height: float) -> Beside | None:
    """The widgets, and the second picture if one is wanted. height: of the first, pixels.

    Raises ValueError for a prompt of another length and a model of another vocabulary.
    """
    if request.view not in FIGURES or request.view == "heads":
        return None
    left, right = st.columns([1, 3])
    with left:
        what = state.selectbox(
            "Below it, for comparison", "compared_with", list(BESIDE), "nothing", format_func=BESIDE.get
        )
    if what == "nothing":
        return None
    with right:
        if what == "model":
            second = choose_second_model(chosen)
            if second is None:
                st.caption("Name a second model in the side bar.")
                return None
            require_same_vocabulary(chosen, second)
            other, asked = prompt, choose_place(second, prompt, request)
        else:
            second, asked = chosen, request
            ready = ready_answer(chosen, prompt)
            wrong = label_token(ready.wrong[0], chosen) if ready.wrong else None
            other = choose_other(chosen, prompt, ready.token, wrong)
    n_tokens = int(len(other.tokens) * asked.passes(second.key, len(other.tokens)))
    if not agreed(second.key, n_tokens, what=(other, asked), reduce="Shorten the prompt or zoom in", slot="beside"):
        return None
    with st.spinner("Computing", show_time=True):
        record = attention_record(second.key, other, asked)
    figure = run_steps(figure_steps(other, asked), {"record": record})["figure"]
    figure.update_layout(height=height)
    st.markdown(f"**{second.name.removeprefix('bundled:') if what == 'model' else 'The other prompt'}**")
    draw_headline(attention_headline(record, other.spans))
    draw_figure(figure, "second_figure")
    title = f"attention, block {asked.block}, {asked.kind}, {BESIDE[what]}"
    second.keep(other, title, record, view=asked.view, spans=other.spans)
    return Beside(title=BESIDE[what], chosen=second, prompt=other, request=asked, record=record, figure=figure)


def choose_place(second: ChosenModel, prompt: Prompt, request: AttentionRequest) -> AttentionRequest:
    """Block and head of the second model; that with the largest share on the needle unless told otherwise."""
    way_in = find_way_in(second, prompt)
    left, right = st.columns(2)
    with left:
        ready = way_in.first.block if way_in else min(request.block, second.cfg.n_layers - 1)
        block = state.slider("Its block", "second_block", 0, second.cfg.n_layers - 1, ready)
    if request.kind != "hidden":
        return replace(request, block=block)
    n_heads = second.cfg.mixer_sizes(second.cfg.block_kind(block)).n_heads
    with right:
        best = way_in.best_head(block) if way_in else None
        choices = [*REDUCTIONS, *map(str, range(n_heads))]
        names = {head: f"head {head}" for head in choices} | REDUCTIONS
        heads = state.selectbox("Its heads", "second_heads", choices, best or "mean", format_func=names.get)
    return replace(request, block=block, heads=heads)
