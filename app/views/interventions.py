"""Interventions: lambda, branches, heads and tokens changed, and what becomes of the answer, before and after."""

from __future__ import annotations

from functools import partial

import streamlit as st

from app import view_state
from app.intervention_code import intervention_code
from app.intervention_files import intervention_files
from app.intervention_pictures import AFTER, BEFORE, at_output, in_words, present_readings, stage_figures
from app.intervention_request import Answer, Changes, changed_trajectory, readings
from app.lens_pictures import difference_picture, lens_picture, top_tokens
from app.lens_request import STATISTICS, LensRequest, trajectory
from app.panels.answer_choice import choose_answer
from app.panels.chosen_model import ChosenModel, choose_model
from app.panels.chosen_prompt import choose_prompt
from app.panels.dose_response import draw_dose_response
from app.panels.downloads import FIGURE_BUTTONS, draw_downloads
from app.panels.errors import shown_errors
from app.panels.fitting_lens import choose_fitting_lenses
from app.panels.intervention_choices import choose_changes
from app.panels.kept_records import keep
from app.panels.long_runs import agreed
from app.prompts import Prompt, token_text
from diffmamba_interp.interventions import InterventionRecord
from diffmamba_interp.lens import LensTrajectory

WINDOW, NARROW_WINDOW = 14, 7
"""Last positions that the heat maps show."""

MAPS = {"difference": "after minus before", "beside": "side by side"}
N_PASSES, N_TOP = 4, 5
STAGE_HEIGHT = 320
LEGEND_ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def page() -> None:
    st.header("Interventions")
    chosen = choose_model()
    prompt = choose_prompt(chosen) if chosen else None
    if chosen is None or prompt is None:
        return
    with shown_errors("Changing the model", "Shorten the prompt."):
        numbers, controls, pictures = st.container(), st.container(border=True), st.container()
        with controls:
            answer = choose_answer(chosen, prompt)
            changes = choose_changes(chosen, prompt)
        with pictures:
            columns = st.columns([3, 3, 3, 2])
            with columns[0]:
                (lens,) = choose_fitting_lenses([chosen], "lens")
            with columns[1]:
                maps = view_state.selectbox("Heat map", "maps", list(MAPS), "difference", format_func=MAPS.get)
            with columns[2]:
                names = [name for name in STATISTICS if not name.startswith("target")]
                colour = view_state.selectbox("Colour", "map_colour", names, names[0], format_func=STATISTICS.get)
            with columns[3]:
                log = view_state.toggle("Logarithmic axis", "change_log")
        window = NARROW_WINDOW if maps == "beside" else WINDOW
        last = len(prompt.tokens) - 1
        request = LensRequest(
            lens=lens.lens, revision=lens.revision, first=max(0, last + 1 - window), last=last,
            needs_target=True, target=answer.token,
        )  # fmt: skip
        what = (prompt, answer, request, changes)
        if agreed(chosen.key, N_PASSES * len(prompt.tokens), what=what, reduce="Shorten the prompt"):
            with numbers, st.spinner("Computing", show_time=True):
                record = readings(chosen.key, prompt, answer, request, changes)
                found = {
                    BEFORE: trajectory(chosen.key, prompt, request),
                    AFTER: changed_trajectory(chosen.key, prompt, request, changes),
                }
            with numbers:
                draw_numbers(record)
            with pictures:
                figures = draw_stages(record, found, request, log=log)
                figures |= draw_maps(chosen, request, found, maps, colour)
                draw_top(chosen, request, found)
                draw_files(chosen, prompt, answer, request, changes, colour, figures, record, found)
                draw_dose_response(chosen, prompt, answer, changes, present_readings(record), log=log)


def draw_numbers(record: InterventionRecord) -> None:
    """What is read at the output, before and after."""
    numbers = at_output(record)
    for column, (name, before, after, unit) in zip(st.columns(len(numbers)), numbers, strict=True):
        change = f"{after - before:+.4g}{unit} from {before:.4g}" if after != before else None
        column.metric(name, f"{after:.4g}{unit}", change, border=True)
    lines = [in_words(change) for change in record.interventions]
    st.code("\n".join(lines) or "nothing is changed", language=None, wrap_lines=True)


def draw_stages(
    record: InterventionRecord, found: dict[str, LensTrajectory], request: LensRequest, *, log: bool
) -> dict[str, object]:
    """Curves by stage; returns the figures by the name of their file."""
    made = stage_figures(record, found[BEFORE].stages, "tuned" if request.lens else "logit", log=log)
    for column, one in zip(st.columns(len(made)), made, strict=True):
        one.figure.update_layout(height=STAGE_HEIGHT, margin={"t": 40, "b": 10}, legend=LEGEND_ABOVE)
        column.plotly_chart(one.figure, width="stretch", key=f"stages_{one.name}", config=FIGURE_BUTTONS)
    return {one.name: one.figure for one in made}


def draw_maps(
    chosen: ChosenModel, request: LensRequest, found: dict[str, LensTrajectory], maps: str, colour: str
) -> dict[str, object]:
    """What the lens reads at the last positions: after minus before, or both."""
    text = partial(token_text, tokenizer=chosen.tokenizer)
    if maps == "difference":
        made = {"map": difference_picture(found[AFTER], found[BEFORE], text, colour, request.first, (AFTER, BEFORE))}
        st.caption("Red: more after the change, blue: less. A word: the top token after it, where it was another one.")
    else:
        made = {f"map_{when}": lens_picture(one, text, colour, request.first) for when, one in found.items()}
    for column, (name, figure) in zip(st.columns(len(made)), made.items(), strict=True):
        with column:
            if len(made) > 1:
                st.text(name.removeprefix("map_"))
            st.plotly_chart(figure, width="stretch", key=name, config=FIGURE_BUTTONS)
    return made


def draw_top(chosen: ChosenModel, request: LensRequest, found: dict[str, LensTrajectory]) -> None:
    """The likeliest tokens at the output, before and after."""
    text = partial(token_text, tokenizer=chosen.tokenizer)
    config = {"probability": st.column_config.ProgressColumn(min_value=0, max_value=1, format="%.4f")}
    for column, (when, one) in zip(st.columns(2), found.items(), strict=True):
        table = top_tokens(one, text, len(one.stages) - 1, request.last - request.first)[:N_TOP]
        column.caption(f"What comes next, {when}")
        column.dataframe(table, hide_index=True, width="stretch", column_config=config)


def draw_files(
    chosen: ChosenModel, prompt: Prompt, answer: Answer, request: LensRequest, changes: Changes, colour: str,
    figures: dict, record: InterventionRecord, found: dict[str, LensTrajectory],
) -> None:  # fmt: skip
    for when, one in found.items():
        ids = {int(token) for token in one.top_tokens.flat} | {int(token) for token in one.tokens.flat}
        keep(chosen, prompt, f"lens, {when} the change", one, ids)
    code = intervention_code(chosen, prompt, answer, request, changes, colour)
    draw_downloads(intervention_files(figures, record, found), code, name="intervention")


page()
