"""Lens: what the model would predict at each depth, for every token of the prompt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import streamlit as st

from app import loading, view_state
from app.panels.chosen_model import ChosenModel, choose_model, choose_prompt
from app.panels.downloads import FIGURE_BUTTONS, draw_downloads
from app.panels.errors import shown_errors
from app.panels.long_runs import agreed
from app.prompts import Prompt, parse_token, token_text
from app.python_code import lens_code

with st.spinner("Loading the lens library"):
    from app.lens_files import lens_files
    from app.lens_request import LOGIT_LENS, STATISTICS, LensRequest, lens_request, trajectory
    from diffmamba_interp.figures.lens import Statistic, lens_heat_map
    from diffmamba_interp.lens import LensTrajectory

# Positions shown at a time: as many as have room for their text.
WINDOW = 16

STAGE_HEIGHT, FRAME_HEIGHT = 26, 210
COLOUR_BAR = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "thickness": 10, "len": 0.6}


def page() -> None:
    st.header("Lens")
    chosen = choose_model()
    prompt = choose_prompt(chosen) if chosen else None
    if chosen is None or prompt is None:
        return
    with shown_errors("Reading with the lens"):
        statistic, request = choose_request(chosen, prompt)
        n_read_outs = (request.last - request.first + 1) * (chosen.cfg.n_layers + 1)
        reduce = "Shorten the prompt"
        if agreed(chosen.key, len(prompt.tokens), n_read_outs, what=(prompt, request), reduce=reduce):
            with st.spinner("Computing", show_time=True):
                found = trajectory(chosen.key, prompt, request)
            draw(chosen, prompt, request, statistic, found)


def choose_request(chosen: ChosenModel, prompt: Prompt) -> tuple[Statistic, LensRequest]:
    _, lenses = loading.found_folders(loading.options().root)
    left, middle, right = st.columns(3)
    with left:
        name = view_state.selectbox("Lens", "lens", [LOGIT_LENS, *lenses], LOGIT_LENS, accept_new_options=True)
    with middle:
        statistic = view_state.selectbox(
            "Colour", "colour", list(STATISTICS), "probability", format_func=STATISTICS.__getitem__
        )
    needs_target, target = statistic.startswith("target"), None
    with right:
        if needs_target:
            typed = view_state.text_input(
                "Target token", "target", "", help="Empty: the token that follows in the prompt."
            )
            target = parse_token(typed, chosen.tokenizer, chosen.cfg.d_vocab) if typed else None
    end = len(prompt.tokens) - (1 if needs_target and target is None else 0)
    if end < 1:
        raise ValueError("a prompt of one token has no next token: give a longer prompt, or a target token.")
    first = choose_first(end)
    last = min(first + WINDOW, end) - 1
    request = lens_request(name, first=first, last=last, needs_target=needs_target, target=target)
    return cast(Statistic, statistic), request


def choose_first(end: int) -> int:
    """The first position shown; the end of a long prompt unless told otherwise."""
    if end <= WINDOW:
        return 0
    last_window = end - WINDOW
    return view_state.slider(f"First of the {WINDOW} positions shown", "first", 0, last_window, last_window)


def draw(
    chosen: ChosenModel, prompt: Prompt, request: LensRequest, statistic: Statistic, found: LensTrajectory
) -> None:
    text: Callable[[int], str] = partial(token_text, tokenizer=chosen.tokenizer)
    figure = lens_heat_map(found, text, statistic=statistic)
    figure.update_layout(height=FRAME_HEIGHT + STAGE_HEIGHT * len(found.stages), margin={"t": 60})
    figure.update_traces(textfont_size=10, colorbar=COLOUR_BAR, colorbar_title_side="right")
    st.plotly_chart(figure, width="stretch", key="lens_figure", config=FIGURE_BUTTONS)
    st.caption(
        f"Each cell: the token that {'the tuned' if request.lens else 'the logit'} lens finds most likely to follow "
        f"the token below, at that depth. Positions {request.first} to {request.last} of {len(prompt.tokens)}. "
        "Point at a cell for its list."
    )
    code = lens_code(chosen.key, prompt, request.lens, request.arguments(prompt), statistic)
    draw_downloads(lens_files(found, figure, text), code, name="lens")


page()
