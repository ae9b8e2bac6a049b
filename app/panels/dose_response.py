"""Dose and response on the interventions page: what is swept, over which blocks, and the curves."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app import view_state
from app.dose_code import dose_code
from app.dose_pictures import dose_figures, dose_files
from app.dose_request import DoseRequest, present_factor, swept_record
from app.intervention_request import Answer, Changes, differential_blocks
from app.panels.chosen_model import ChosenModel
from app.panels.chosen_prompt import MAX_SEED
from app.panels.downloads import FIGURE_BUTTONS, draw_downloads
from app.panels.long_runs import agreed
from app.prompts import Prompt

SWEPT = {"nothing": "nothing", "lambda": "λ, times 0 to 2", "noise": "noise in the residual stream"}


def draw_dose_response(
    chosen: ChosenModel, prompt: Prompt, answer: Answer, changes: Changes, present: Mapping[str, float], *, log: bool
) -> None:
    """The widgets, and the curves if something is swept. present: readings with the page's changes, by name."""
    st.subheader("Dose and response")
    request = choose_sweep(chosen, changes)
    if request is None:
        return
    what = (prompt, answer, changes, request)
    n_tokens = request.n_passes * len(prompt.tokens)
    if not agreed(chosen.key, n_tokens, what=what, reduce="Shorten the prompt, or choose fewer blocks", slot="sweep"):
        return
    bar = st.progress(0.0, "Sweeping")
    done = 0

    def progress(n: int) -> None:
        nonlocal done
        done += n
        bar.progress(min(done / request.n_passes, 1.0), "Sweeping")

    record = swept_record(chosen.key, prompt, answer, changes, request, progress)
    bar.empty()
    figures = dose_figures(record, request, present, log=log)
    for column, (name, figure) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.plotly_chart(figure, width="stretch", key=f"dose_{name}", config=FIGURE_BUTTONS)
    st.caption(
        "All that is set above stays in force, but for what is swept. Dotted: the answer as set above"
        + ("; ring: where λ stands there." if request.swept == "lambda" else ", without noise; one draw per dose.")
    )
    draw_downloads(
        dose_files(figures, record), dose_code(chosen, prompt, answer, changes, request, log=log), name="dose"
    )


def choose_sweep(chosen: ChosenModel, changes: Changes) -> DoseRequest | None:
    """None if nothing is to be swept."""
    differential = differential_blocks(chosen.cfg)
    columns = st.columns([3, 4, 3, 2])
    with columns[0]:
        offered = [name for name in SWEPT if differential or name != "lambda"]
        swept = view_state.selectbox("Swept", "swept", offered, "nothing", format_func=SWEPT.get)
    if swept == "nothing":
        return None
    allowed = differential if swept == "lambda" else list(range(chosen.cfg.n_layers))
    with columns[1]:
        hint = "None named: every block" + (" that has λ" if swept == "lambda" else "")
        named = view_state.multiselect("In blocks", "swept_blocks", [str(b) for b in allowed], [], help=hint)
    with columns[2]:
        apart = view_state.toggle("Each on its own", "swept_apart", help="one curve per block, the others as set above")
    seed = 0
    with columns[3]:
        if swept == "noise":
            seed = view_state.number_input("Seed of the noise", "noise_seed", 0, MAX_SEED, 0)
    blocks = tuple(sorted(map(int, named))) or tuple(allowed)
    groups = tuple((block,) for block in blocks) if apart else (blocks,)
    if swept == "noise":
        return DoseRequest(swept="noise", groups=groups, present=(None,) * len(groups), seed=seed)
    present = tuple(present_factor(chosen.key, changes, group) for group in groups)
    return DoseRequest(swept="lambda", groups=groups, present=present)
