"""Playground: the prompt continued with the subtraction and with another λ, side by side, token by token."""

from __future__ import annotations

from functools import partial

import numpy as np
import streamlit as st

from app.pages_.playground.request import (
    PlaygroundRequest,
    continued,
    continued_files,
    figure_steps,
    likely_table,
    printed_steps,
)
from app.shell import state
from app.shell.answers import draw_likely
from app.shell.choices import MAX_SEED, choose_model, choose_prompt
from app.shell.continued import TokenText, continued_headline
from app.shell.downloads import draw_downloads
from app.shell.errors import shown_errors
from app.shell.estimates import agreed
from app.shell.figures import draw_figure, signed_scale
from app.shell.headlines import draw_headline
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt, token_text
from app.shell.steps import as_python, model_steps, run_steps
from diffmamba_interp.drawing.labels import coloured_text
from diffmamba_interp.interventions import Continuations

FIGURE_HEIGHT = 300
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yref": "paper", "yanchor": "bottom"}
FOLLOWED = {True: "while both read the first text", False: "each in its own text"}


def page() -> None:
    st.title("Playground")
    chosen = choose_model()
    prompt = choose_prompt(chosen) if chosen else None
    if chosen is None or prompt is None:
        return
    with shown_errors("Continuing the prompt", "Shorten the prompt."):
        request = choose_request(chosen)
        n_tokens = request.passes * (len(prompt.tokens) + request.n_steps)
        if agreed(chosen.key, n_tokens, what=("playground", prompt, request), reduce="Shorten the prompt"):
            with st.spinner("Writing", show_time=True):
                record = continued(chosen.key, prompt, request)
            draw_continued(chosen, prompt, request, record)


def choose_request(chosen: ChosenModel) -> PlaygroundRequest:
    """λ of the changed model, how much is written, and how."""
    differential = [block for block in range(chosen.cfg.n_layers) if chosen.cfg.block_kind(block) == "differential"]
    columns = st.columns([3, 3, 2, 2])
    factor, blocks = None, None
    if differential:
        with columns[0]:
            factor = state.float_slider("λ of the changed model, times", "play_lambda", 0.0, 2.0, 0.0, 0.05)
        with columns[1]:
            named = state.multiselect("In blocks", "play_blocks", [str(b) for b in differential], [], help="None: all")
            blocks = tuple(sorted(map(int, named))) or None
    else:
        columns[0].info("This model subtracts nothing: its text alone is shown.")
    with columns[2]:
        n_steps = state.slider("Tokens", "play_tokens", 1, 64, 12)
    seed = 0
    with columns[3]:
        temperature = state.float_slider("Temperature (0: the likeliest)", "temperature", 0.0, 2.0, 0.0, 0.1)
        if temperature:
            seed = state.number_input("Seed", "play_seed", 0, MAX_SEED, 0)
    return PlaygroundRequest(n_steps=n_steps, factor=factor, blocks=blocks, temperature=temperature, seed=seed)


def draw_continued(chosen: ChosenModel, prompt: Prompt, request: PlaygroundRequest, record: Continuations) -> None:
    text = partial(token_text, tokenizer=chosen.tokenizer)
    draw_headline(continued_headline(record, text))
    draw_texts(record, text)
    figure = run_steps(figure_steps(), {"continued": record, "token_text": text})["figure"]
    figure.update_layout(height=FIGURE_HEIGHT, legend=LEGEND, title=None, margin={"t": 40, "b": 10})
    draw_figure(figure, "continued_figure")
    draw_step(record, text)
    ids = {int(token) for ids in (record.tokens, record.top_tokens, record.followed_tokens) for token in ids.flat}
    chosen.keep(prompt, f"continuations, {', '.join(record.names)}", record, ids)
    code = as_python([*model_steps(chosen.key), *printed_steps(chosen.key, prompt, request)])
    draw_downloads(continued_files(record, figure, text), code, name="continuations", of=prompt.strings)


def draw_texts(record: Continuations, text: TokenText) -> None:
    """Each variant's text; of the changed one each token coloured by how its own probability differs between them."""
    change = record.probability[-1] - record.probability[0]
    for column, (variant, name) in zip(st.columns(len(record.names)), enumerate(record.names), strict=True):
        strings = [text(int(token)) for token in record.tokens[variant]]
        values = change if variant == 0 else np.zeros(len(strings))
        with column:
            st.markdown(f"**{name}**")
            st.html(coloured_text(strings, values, limit=1.0, scale=signed_scale()))
    if len(record.names) > 1:
        st.caption(
            "Colour of the first text: how much likelier (red) or less likely (blue) the changed model finds that "
            "token there; at the pointer the change. Below: its probability in both."
        )


def draw_step(record: Continuations, text: TokenText) -> None:
    """The likeliest tokens of one step, side by side."""
    n_steps = record.tokens.shape[1]
    left, right = st.columns([2, 1])
    with left:
        ready = next((step for step in record.parting[1:] if step is not None), 0)
        step = state.slider("Step: what was likely there", "step", 0, n_steps - 1, ready)
    with right:
        own = state.toggle("Each in its own text", "own_text", help="Else both read the first text up to that step")
    for column, (variant, name) in zip(st.columns(len(record.names)), enumerate(record.names), strict=True):
        table = likely_table(record, text, variant, step, followed=not own)
        column.caption(f"{name}, step {step}, {FOLLOWED[not own]}")
        with column:
            draw_likely(table)


page()
