"""Needle: at which block the answer comes in, for two models on the same prompts, and what the subtraction does."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import plotly.graph_objects as go
import streamlit as st

from app.estimates import require_feasible
from app.panels.chosen_model import choose_model, choose_second_model
from app.panels.downloads import FIGURE_BUTTONS, draw_downloads
from app.panels.errors import shown_errors

with st.spinner("Loading the needle library"):
    from app.needle_attention import attention_figure, block_curves
    from app.needle_code import attention_code, curves_code
    from app.needle_files import attention_files, curve_files
    from app.needle_request import NeedleFound, NeedleRead, SampleRequest, run_needle, seconds
    from app.panels.needle_choices import Drawing, choose_reading, choose_samples
    from diffmamba_interp.figures.needle import curves_by_stage, difference_by_stage
    from diffmamba_interp.needle import Curve, compare, summarise

AT_ONCE_S = 1.5
"""A run that is expected to take less needs no press on a button."""

FIGURE_HEIGHT = 380
LEGEND_ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
FOUND, STOPPED = "needle_found", "needle_stopped"


def page() -> None:
    st.header("Needle")
    first = choose_model()
    second = choose_second_model(first) if first else None
    if first is None:
        return
    with shown_errors("Reading the needle", "Choose shorter prompts, or bfloat16."):
        request = choose_samples()
        reads, drawing = choose_reading([model for model in (first, second) if model])
        found, share = run_or_recall(reads, request)
        if found:
            n = len(found[0].trajectory.samples)
            if share < 1:
                st.warning(f"Stopped after {n} prompts, {share:.0%} of the run. Press Run to go on.")
            draw_curves(reads, request, drawing, found)
            if found[0].allocation is not None:
                draw_attention(reads, request, found)


def run_or_recall(reads: Sequence[NeedleRead], request: SampleRequest) -> tuple[list[NeedleFound], float]:
    """What was found, and the share of the run that is done; runs if the button was pressed or it is short."""
    what = (tuple(reads), request)
    expected = seconds(reads, request)
    require_feasible(expected, "Choose fewer or shorter prompts")
    left, right, words = st.columns([1, 1, 4])
    pressed = left.button("Run", key="run_needle", type="primary")
    stop, bar = right.empty(), st.empty()
    words.caption(f"About {request.n_tokens:,} tokens for each of {len(reads)} models; at least {expected:.0f} s here.")
    ran, found, share = st.session_state.get(FOUND, (None, [], 0.0))
    if ran != what:
        found, share = [], 0.0
    at_once = share < 1 and expected <= AT_ONCE_S and st.session_state.get(STOPPED) != what
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


def stop_run(what: Hashable) -> None:
    st.session_state[STOPPED] = what


def draw_curves(
    reads: Sequence[NeedleRead], request: SampleRequest, drawing: Drawing, found: Sequence[NeedleFound]
) -> None:
    """The measure and the SNR by stage, and second minus first."""
    trajectories = [one.trajectory for one in found]
    measures = (drawing.measure, "snr_db")
    how = {"measures": measures, "statistics": (drawing.statistic,), "by": ()}
    curves: list[Curve] = summarise(trajectories, **how)
    figures = {
        drawing.measure: curves_by_stage(of_measure(curves, drawing.measure), log=drawing.log),
        "snr": curves_by_stage(of_measure(curves, "snr_db")),
    }
    paired = len(found) == 2 and trajectories[0].stages == trajectories[1].stages
    if paired and set(trajectories[0].lenses) & set(trajectories[1].lenses):
        differences = compare(*trajectories, **how)
        for name, measure in (("difference", drawing.measure), ("snr_difference", "snr_db")):
            figures[name] = difference_by_stage(of_measure(differences, measure))
        curves += differences
    for place, (name, figure) in enumerate(figures.items()):
        figure.update_layout(legend=LEGEND_ABOVE)
        if place % 2 == 0:
            columns = st.columns(2)
        with columns[place % 2]:
            draw_figure(figure, f"needle_{name}")
    n = trajectories[0].log_probs.shape[1]
    st.caption(
        f"{n} prompts; bands: 95 % bootstrap intervals over prompts. SNR: probability of the answer over the mean of "
        "the wrong labels. Differences: second model minus first on the same prompts; filled: p < 0.05, corrected."
    )
    code = curves_code(reads, request, drawing.measure, drawing.statistic, log=drawing.log, n=n)
    draw_downloads(curve_files(figures, curves, found), code, name="needle")


def draw_attention(reads: Sequence[NeedleRead], request: SampleRequest, found: Sequence[NeedleFound]) -> None:
    st.subheader("What the last position reads for its answer")
    curves = [c for one in found if one.allocation for c in block_curves(one.trajectory.model, one.allocation)]
    figure = attention_figure(curves)
    draw_figure(figure, "needle_attention_figure")
    st.caption(
        "Sizes of the exact contributions of every token to the answer's logit. Written: what a block adds, which is "
        "minuend − λ · subtrahend in a differential one. Cancelled: 1 − |difference| / (|minuend| + |λ · subtrahend|)."
    )
    code = attention_code(reads, request, len(found[0].trajectory.samples))
    draw_downloads(attention_files(figure, curves, found), code, name="needle")


def draw_figure(figure: go.Figure, key: str) -> None:
    figure.update_layout(height=FIGURE_HEIGHT, margin={"t": 70, "b": 10})
    st.plotly_chart(figure, width="stretch", key=key, config=FIGURE_BUTTONS)


def of_measure(curves: Sequence[Curve], measure: str) -> list:
    return [curve for curve in curves if curve.measure == measure]


page()
