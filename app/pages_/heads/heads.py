"""Heads: a number for every head of every scan, and what it means."""

from __future__ import annotations

import streamlit as st

from app.pages_.heads.request import (
    MAKERS,
    N_RANKED,
    HeadsRequest,
    boundary_of,
    figure_steps,
    head_files,
    head_scores,
    ranked_row,
    score_steps,
)
from app.shell import state
from app.shell.choices import choose_model, choose_prompt
from app.shell.downloads import draw_downloads
from app.shell.errors import shown_errors
from app.shell.estimates import agreed
from app.shell.figures import draw_figure
from app.shell.glossary import WORDS, draw_note
from app.shell.headlines import UNTIED, draw_headline, heads_headline
from app.shell.kept_runs import HeadsRun
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt
from app.shell.steps import as_python, model_steps, run_steps
from app.shell.tables import draw_table
from diffmamba_interp.figures.heads import NAMES
from diffmamba_interp.implicit_attention import DEFINITIONS, HeadScores

FIGURE_HEIGHT = 400
MEANINGS = "\n".join(f"- **{NAMES[measure]}**: {WORDS[NAMES[measure]]}" for measure in MAKERS)


def page() -> None:
    st.title("Heads")
    chosen = choose_model()
    prompt = choose_prompt(chosen) if chosen else None
    if chosen is None or prompt is None:
        return
    with shown_errors("Scoring the heads", "Shorten the prompt to need less."):
        # What the Attention page ranks heads by, where a needle is marked.
        ready = "needle_share" if prompt.spans.needle else "sink_share"
        measure = state.selectbox("Shown", "measure", list(MAKERS), ready, format_func=NAMES.__getitem__, help=MEANINGS)
        request = HeadsRequest(measure=measure, boundary=boundary_of(chosen, prompt))
        missing = request.missing(prompt)
        if missing is not None:
            st.info(missing)
            return
        n_tokens = int(len(prompt.tokens) * request.passes(len(prompt.tokens)))
        if agreed(chosen.key, n_tokens, what=("heads", prompt, request), reduce="Shorten the prompt"):
            with st.spinner("Computing", show_time=True):
                scores = head_scores(chosen.key, prompt, request)
            draw_scores(chosen, prompt, request, scores)


def draw_scores(chosen: ChosenModel, prompt: Prompt, request: HeadsRequest, scores: HeadScores) -> None:
    draw_headline(heads_headline(scores, request.measure))
    chosen.keep(prompt, f"heads, {NAMES[request.measure]}", HeadsRun(scores=scores, measure=request.measure))
    drawn = run_steps(figure_steps(request), {"scores": scores})
    figure = drawn["figure"]
    figure.update_layout(height=FIGURE_HEIGHT)
    draw_figure(figure, "heads_figure")
    draw_note(what_it_means(request, scores))
    st.header(f"The {min(N_RANKED, len(drawn['largest']))} largest")
    draw_table([ranked_row(head, request.measure) for head in drawn["largest"]], decimals=3)
    code = as_python([*model_steps(chosen.key), *score_steps(chosen.key, prompt, request), *figure_steps(request)])
    draw_downloads(head_files(scores, figure), code, name=f"heads-{request.measure}", of=prompt.strings)


def what_it_means(request: HeadsRequest, scores: HeadScores) -> str:
    """The definition, what uniform reading would give, and what a difference of heads is."""
    said = f"{NAMES[request.measure].capitalize()}: {DEFINITIONS[request.measure]}."
    if request.measure in scores.uniform:
        said += f" Reading all visible tokens alike would give {scores.uniform[request.measure][0]:.3f}."
    if any(branch == "difference" for _, branch in scores.rows):
        said += " Difference: H1 − λ H2 of the heads of one number, which pairs heads that have no tie to one another."
    elif any(branch == "subtrahend" for _, branch in scores.rows):
        said += f" {UNTIED}"
    return said


page()
