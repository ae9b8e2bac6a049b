"""What the needle page asks: which prompts, which lens, which numbers, and how they are drawn."""

from __future__ import annotations

from typing import cast

import streamlit as st

from app import view_state
from app.needle_found import Drawing
from app.needle_request import NeedleRead, SampleRequest
from app.panels.chosen_model import ChosenModel
from app.panels.chosen_prompt import LENGTHS, MAX_SEED, TASKS
from app.panels.fitting_lens import choose_fitting_lenses
from app.panels.lens_choices import require_same_vocabulary
from app.pasted_samples import EXAMPLE, MAX_CHARACTERS, MAX_SAMPLES, parse_stories
from diffmamba_interp.figures.needle import NAMES
from diffmamba_interp.needle import Measure
from diffmamba_interp.statistics import Statistic

SOURCES = {"generated": "generated", "pasted": "pasted"}
SHOWN: tuple[Measure, ...] = (
    "probability", "label_share", "per_token_probability", "label_rank", "is_right", "entropy_nats", "kl_to_final_nats",
)  # fmt: skip
LOGARITHMIC = ("probability", "label_share", "per_token_probability")
STATISTICS = {"mean": "mean", "median": "median"}


def choose_samples() -> SampleRequest:
    """Generated prompts, which the address can name, or pasted ones. Raises ValueError for pasted text that is none."""
    columns = st.columns([2, 4, 2, 2, 2])
    with columns[0]:
        source = view_state.selectbox("Prompts", "needle_source", list(SOURCES), "generated")
    if source == "pasted":
        pasted = view_state.text_area(
            f"JSON, at most {MAX_SAMPLES} samples; the needle is a text of the context", "needle_pasted", EXAMPLE,
            height=180, max_chars=MAX_CHARACTERS,
        )  # fmt: skip
        return SampleRequest(task="", length=0, n=0, seed=0, stories=parse_stories(pasted))
    with columns[1]:
        task = view_state.selectbox("Task", "needle_task", list(TASKS), "qa1", format_func=TASKS.__getitem__)
    with columns[2]:
        length = view_state.selectbox("Tokens", "needle_length", LENGTHS, "256", help="0: the facts without filler")
    with columns[3]:
        n = view_state.number_input("How many", "needle_n", 1, MAX_SAMPLES, 8)
    with columns[4]:
        seed = view_state.number_input("Seed", "needle_seed", 0, MAX_SEED, 0)
    return SampleRequest(task=task, length=int(length), n=n, seed=seed)


def choose_reading(models: list[ChosenModel]) -> tuple[list[NeedleRead], Drawing]:
    """Lens, measure and scale in a line. Raises ValueError for models that do not read the same words."""
    if any(model.tokenizer is None for model in models):
        raise ValueError("the prompts are text: choose models that have a tokenizer.")
    for other in models[1:]:
        require_same_vocabulary(models[0], other)
    columns = st.columns([3, 4, 2, 3])
    with columns[0]:
        requests = choose_fitting_lenses(models, "needle_lens")
    with columns[1]:
        measure = view_state.selectbox("Shown", "needle_measure", SHOWN, "probability", format_func=NAMES.get)
    with columns[2]:
        statistic = view_state.selectbox("Over prompts", "needle_statistic", list(STATISTICS), "mean")
    with columns[3]:
        log = measure in LOGARITHMIC and view_state.toggle("Logarithmic axis", "needle_log")
        tuned = all(request.lens for request in requests)
        with_logit = tuned and view_state.toggle("Logit lens beside it", "needle_logit")
        attention = view_state.toggle("What is read", "needle_attention", True, help="about twice the time")
    reads = [
        NeedleRead(name=model.name, key=model.key, lens=request, with_logit=with_logit, attention=attention)
        for model, request in zip(models, requests, strict=True)
    ]
    return reads, Drawing(measure=cast(Measure, measure), statistic=cast(Statistic, statistic), log=log)
