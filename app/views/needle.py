"""Needle: at which block the answer comes in, for two models on the same prompts, and what the subtraction does."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import plotly.graph_objects as go
import streamlit as st

from app.estimates import LONG_S, require_feasible, require_memory
from app.needle_code import attention_code, curves_code
from app.needle_estimate import estimate
from app.needle_files import attention_files, curve_files
from app.needle_found import NeedleFound, NeedleRun
from app.needle_pictures import attention_picture, curve_figures
from app.needle_request import NeedleRead, SampleRequest, run_needle
from app.panels.chosen_model import baseline_last, choose_model, choose_second_model
from app.panels.downloads import FIGURE_BUTTONS, draw_downloads
from app.panels.errors import shown_errors
from app.panels.kept_records import KeptRecord, keep_record
from app.panels.needle_choices import choose_reading, choose_samples

FOUND, STOPPED = "needle_found", "needle_stopped"


def page() -> None:
    st.header("Needle")
    first = choose_model()
    second = choose_second_model(first) if first else None
    if first is None:
        return
    with shown_errors("Reading the needle"):
        request = choose_samples()
        reads, drawing = choose_reading(baseline_last([model for model in (first, second) if model]))
        found, share = run_or_recall(reads, request)
        if found:
            run = NeedleRun(found=tuple(found), drawing=drawing)
            if share < 1:
                st.warning(f"Stopped after {run.n_prompts} prompts, {share:.0%} of the run. Press Run to go on.")
            draw_curves(reads, request, run)
            draw_attention(reads, request, run)
            keep_run(reads, request, run)


def run_or_recall(reads: Sequence[NeedleRead], request: SampleRequest) -> tuple[list[NeedleFound], float]:
    """What was found, and the share of the run that is done; runs if the button was pressed or it is short."""
    what = (tuple(reads), request)
    expected = estimate(reads, request)
    require_feasible(expected.seconds, "Choose fewer or shorter prompts")
    require_memory(expected.memory_bytes, "Choose shorter prompts, one model, or bfloat16")
    left, right, words = st.columns([1, 1, 4])
    pressed = left.button("Run", key="run_needle", type="primary")
    stop, bar = right.empty(), st.empty()
    words.caption(
        f"About {request.n_tokens:,} tokens for each of {len(reads)} models: about {expected.seconds:.0f} s here "
        f"({expected.in_words}), {expected.memory_bytes / 2**20:,.0f} MiB."
    )
    ran, found, share = st.session_state.get(FOUND, (None, [], 0.0))
    if ran != what:
        found, share = [], 0.0
    at_once = share < 1 and expected.seconds <= LONG_S and st.session_state.get(STOPPED) != what
    if pressed or at_once:
        st.session_state.pop(STOPPED, None)
        # The press makes Streamlit leave this run at its next drawing; what was found until then stays.
        stop.button("Cancel", key="cancel_needle", on_click=stop_run, args=(what,))
        bar.progress(0.0, "Making the prompts")
        for share, found in run_needle(reads, request):
            st.session_state[FOUND] = (what, found, share)
            bar.progress(share, f"{share:.0%} of the prompts")
        bar.empty()
        stop.empty()
    return found, share


def keep_run(reads: Sequence[NeedleRead], request: SampleRequest, run: NeedleRun) -> None:
    """For the session's file."""
    part = f", {run.n_prompts} of them read" if run.n_prompts < request.n_prompts else ""
    keep_record(
        KeptRecord(
            title=f"needle, {request.in_words}{part}",
            model=" and ".join(read.name for read in reads), dtype=reads[0].key.dtype, device=reads[0].key.device,
            strings=(), record=run,
        )
    )  # fmt: skip


def stop_run(what: Hashable) -> None:
    st.session_state[STOPPED] = what


def draw_curves(reads: Sequence[NeedleRead], request: SampleRequest, run: NeedleRun) -> None:
    """The measure and the SNR by stage, and model minus baseline."""
    figures, curves = curve_figures(run)
    for place, (name, figure) in enumerate(figures.items()):
        if place % 2 == 0:
            columns = st.columns(2)
        with columns[place % 2]:
            draw_figure(figure, f"needle_{name}")
    st.caption(
        f"{run.n_prompts} prompts; bands: 95 % bootstrap intervals over prompts. SNR: probability of the answer over "
        "the mean of the wrong labels. Differences: model minus baseline on the same prompts; filled: p < 0.05, "
        "corrected."
    )
    drawing = run.drawing
    code = curves_code(reads, request, drawing.measure, drawing.statistic, log=drawing.log, n=run.n_prompts)
    draw_downloads(curve_files(figures, curves, run.found), code, name="needle")


def draw_attention(reads: Sequence[NeedleRead], request: SampleRequest, run: NeedleRun) -> None:
    made = attention_picture(run)
    if made is None:
        return
    figure, curves = made
    st.subheader("What the last position reads for its answer")
    draw_figure(figure, "needle_attention_figure")
    st.caption(
        "Sizes of the exact contributions of every token to the answer's logit. Written: what a block adds, which is "
        "minuend − λ · subtrahend in a differential one. Cancelled: 1 − |difference| / (|minuend| + |λ · subtrahend|)."
    )
    code = attention_code(reads, request, run.n_prompts)
    draw_downloads(attention_files(figure, curves, run.found), code, name="needle")


def draw_figure(figure: go.Figure, key: str) -> None:
    st.plotly_chart(figure, width="stretch", key=key, config=FIGURE_BUTTONS)


page()
