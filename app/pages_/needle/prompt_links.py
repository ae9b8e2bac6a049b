"""One prompt of a needle run, and links to the other pages with it at the block where its answer comes in."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.pages_.needle.request import SampleRequest
from app.shell import state
from app.shell.errors import shown_errors
from app.shell.links import draw_links, places_links
from app.shell.needle_runs import NeedleReading
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.needle.formation import formation_stages
from diffmamba_interp.stages import stage_words

AT_STAGE = "needle_stage"
"""The stage whose point was clicked, as the address would say it."""


def take_stage(key: str, stages: Sequence[str]) -> None:
    """Go on at the stage whose point was clicked in the figure `key`."""
    with shown_errors("Reading the click"):
        points = st.session_state[key]["selection"]["points"]
        if points and points[0].get("x") in stages:
            state.put(AT_STAGE, str(stages.index(points[0]["x"])))


def draw_prompt_links(readings: Sequence[NeedleReading], request: SampleRequest) -> None:
    """Which prompt, what is known of it, and the pages that open with it; of pasted prompts there is none."""
    if request.stories:
        return
    read = [reading.trajectory for reading in readings]
    st.header("Go on with one of these prompts", anchor=False)
    left, right = st.columns([1, 4], vertical_alignment="bottom")
    with left:
        number = state.number_input("Prompt", "needle_prompt", 0, len(read[0].samples) - 1, 0)
    stages = {one.model: int(formation_stages(one, "7 dB")[0, number]) for one in read}
    told = "; ".join(
        f"{short_name(one.model)}: comes in {stage_words(stages[one.model], len(one.stages))}" for one in read
    )
    sample = read[0].samples[number]
    at = chosen_stage(state.remembered(AT_STAGE, ""), stages[read[0].model], len(read[0].stages))
    right.caption(
        f"Answer: {sample.answer}. {told}. The links open {stage_words(at, len(read[0].stages))}; click a point of a "
        "curve for another block."
    )
    shared = {
        "source": "needle", "task": request.task, "length": str(request.length), "seed": str(request.seed),
        "number": str(number),
    }  # fmt: skip
    draw_links(*places_links(block=max(at - 1, 0), position=None, last=sample.n_tokens - 1, **shared))


def chosen_stage(said: str, ready: int, n_stages: int) -> int:
    """The stage that was clicked, else the one where the answer comes in, else the last."""
    stage = int(said) if said.isdecimal() else ready
    return min(stage, n_stages - 1)
