"""Interventions: lambda, branches, heads and tokens changed, and what becomes of the answer, before and after; where it
comes from, by patching and by taking tokens out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from app.pages_.interventions.choices import choose_changes, draw_set_aside, read_answer
from app.pages_.interventions.pictures import (
    AFTER,
    BEFORE,
    dose_figures,
    dose_files,
    dose_steps,
    intervention_files,
    map_steps,
    printed_steps,
    stage_steps,
    zoomed,
)
from app.pages_.interventions.request import (
    NOTHING,
    SWEPT,
    Answer,
    Changes,
    DoseRequest,
    changed_trajectory,
    differential_blocks,
    present_factor,
    readings,
    sweep_steps,
    swept_record,
)
from app.pages_.interventions.tracing import choose_faithfulness, choose_patching, draw_faithfulness, draw_patching
from app.shell import state
from app.shell.answers import draw_likely
from app.shell.change_headlines import intervention_headline, sweep_headline, under
from app.shell.choices import MAX_SEED, choose_fitting_lenses, choose_model, choose_prompt
from app.shell.downloads import draw_downloads
from app.shell.errors import shown_errors
from app.shell.estimates import ASKED_S, TOO_LONG_S, agreed, stoppable
from app.shell.figures import LEGEND_ABOVE, draw_figure, paled
from app.shell.headlines import draw_headline
from app.shell.lens_reading import (
    STATISTICS,
    LensRequest,
    clickable,
    positions_shown,
    token_ids,
    top_tokens,
    trajectory,
)
from app.shell.links import OF_MANY, draw_links, is_asked
from app.shell.loading import ChosenModel
from app.shell.needle_pictures import name_stages_shortly
from app.shell.prompts import Prompt, token_text
from app.shell.readings import at_output, in_words
from app.shell.steps import as_python, model_steps, run_steps
from diffmamba_interp.figures.interventions import BY_STAGE
from diffmamba_interp.interventions import InterventionRecord, SweepRecord
from diffmamba_interp.interventions.records import PROBABILITY
from diffmamba_interp.lens import LensTrajectory

MAP_COLOURS = {
    "target_probability": "probability of the answer",
    **{name: words for name, words in STATISTICS.items() if not name.startswith("target")},
}
MAPS = {"difference": "after minus before", "beside": "side by side"}
N_PASSES, N_TOP = 4, 5
MAX_TITLE = 200
STAGE_HEIGHT = 340
LAST_SWEEP = "last_sweep"


def page() -> None:
    st.title("Interventions")
    chosen = choose_model()
    prompt = choose_prompt(chosen) if chosen else None
    if chosen is None or prompt is None:
        return
    with shown_errors("Changing the model", "Shorten the prompt."):
        # What there is to choose stands first, so that no result moves it; what was asked is answered on this screen.
        draw_set_aside()
        controls = st.expander("What is changed") if is_asked("interventions") else st.container(border=True)
        patching = is_asked("patching")
        with_more = is_asked("interventions") and not patching
        more = controls if with_more else st.expander("Sweep, patch, take tokens out", expanded=patching)
        numbers, at_once, doses, curves, pictures, below = (st.container() for _ in range(6))
        traced = at_once if patching else below
        with controls:
            answer = read_answer(chosen, prompt)
            changes = choose_changes(chosen, prompt)
            lens, maps, colour, log = choose_shown(chosen)
            status = st.empty()
        with more:
            swept, patched = choose_sweep(chosen, changes), None
            # What goes wrong is shown where the results would be.
            with traced, shown_errors("Choosing what is patched"), more:
                patched = choose_patching(chosen, prompt, answer)
            by_ranking = choose_faithfulness()
        window = positions_shown(2 if maps == "beside" else 1)
        last = len(prompt.tokens) - 1
        request = replace(lens, first=max(0, last + 1 - window), last=last, needs_target=True, target=answer.token)
        what = (prompt, answer, request, changes)
        if agreed(
            chosen.key, N_PASSES * len(prompt.tokens), what=what, reduce="Shorten the prompt", longest_s=longest()
        ):
            with status, st.spinner("Computing", show_time=True):
                record = readings(chosen.key, prompt, answer, request, changes)
                read = {
                    BEFORE: trajectory(chosen.key, prompt, request),
                    AFTER: changed_trajectory(chosen.key, prompt, request, changes),
                }
            steps = [
                *stage_steps(record, request, log=log),
                *map_steps(maps if record.interventions else BEFORE, colour),
            ]
            text = partial(token_text, tokenizer=chosen.tokenizer)
            figures = run_steps(steps, {"record": record, **read, "token_text": text})
            changed = "; ".join(in_words(change) for change in record.interventions)
            status.caption(changed or "nothing is changed")
            with numbers:
                draw_numbers(record)
            with curves:
                drawn = draw_stages(record, figures)
            with pictures:
                drawn |= draw_maps(record, figures)
                draw_top(request, read if record.interventions else {BEFORE: read[BEFORE]}, text)
                code = as_python(printed_steps(chosen.key, prompt, answer, request, changes, steps))
                draw_downloads(intervention_files(drawn, record, read), code, name="intervention", of=prompt.strings)
                chosen.keep(prompt, f"intervention: {changed or 'nothing is changed'}"[:MAX_TITLE], record)
                for when, through_lens in read.items():
                    chosen.keep(prompt, f"lens, {when} the change", through_lens, token_ids(through_lens))
            with doses:
                if swept is not None:
                    present = Swept(changes=changes, request=swept, present=record)
                    draw_dose_response(chosen, prompt, answer, present, log=log)
            with traced:
                if patched is not None:
                    draw_patching(chosen, prompt, answer, patched, request)
                if by_ranking:
                    draw_faithfulness(chosen, prompt, answer)


def choose_shown(chosen: ChosenModel) -> tuple[LensRequest, str, str, bool]:
    """Lens, maps, their colour, and whether the probability's axis is logarithmic."""
    columns = st.columns([3, 3, 3, 2])
    with columns[0]:
        (lens,) = choose_fitting_lenses([chosen], "lens")
    with columns[1]:
        maps = state.selectbox("Heat map", "maps", list(MAPS), "difference", format_func=MAPS.get)
    with columns[2]:
        # Before and after the top token may be another one: a difference is of the answer's probability.
        names = [name for name in MAP_COLOURS if maps == "beside" or name != "probability"]
        colour = state.selectbox("Colour", "map_colour", names, names[0], format_func=MAP_COLOURS.get)
    with columns[3]:
        return lens, maps, colour, state.toggle("Logarithmic axis", "change_log")


def is_chosen(key: str) -> bool:
    """Whether something is swept, or patched."""
    return state.pending(key) not in ("", NOTHING)


def longest() -> float | None:
    """Seconds up to which the page runs unasked."""
    return ASKED_S if is_asked("interventions") else None


def draw_numbers(record: InterventionRecord) -> None:
    """What is read at the output, before and after."""
    # Of an unchanged model there is nothing to say where a sweep has more, or a patching that was asked for.
    more = is_chosen("swept") or (is_asked("patching") and is_chosen("patched"))
    if more and not record.interventions:
        return
    draw_headline(intervention_headline(record))
    numbers = at_output(record)
    for column, number in zip(st.columns(len(numbers)), numbers, strict=True):
        column.metric(
            number.name, number.value, number.change, border=True, help=number.meaning,
            delta_color="gray" if number.is_small else "red" if number.is_lower else "green",
            delta_arrow="down" if number.is_lower else "up",
        )  # fmt: skip


def draw_stages(record: InterventionRecord, figures: Mapping[str, Any]) -> dict[str, go.Figure]:
    """Curves by stage; returns the figures by the name of their file."""
    shown: dict[str, go.Figure] = {name: figures[f"{name}_figure"] for name in BY_STAGE if f"{name}_figure" in figures}
    for column, (name, figure) in zip(st.columns(len(shown)), shown.items(), strict=True):
        name_stages_shortly(figure, figure.data[-1].x)
        figure.update_layout(height=STAGE_HEIGHT, margin={"t": 66, "b": 10}, legend=LEGEND_ABOVE)
        with column:
            draw_figure(figure, f"stages_{name}")
    return shown


def draw_maps(record: InterventionRecord, figures: Mapping[str, Any]) -> dict[str, go.Figure]:
    """What the lens reads at the last positions: after minus before, or both; as long as nothing is changed, before."""
    shown = {name: clickable(figure) for name, figure in figures.items() if name.startswith("map")}
    if not record.interventions:
        st.caption("What the lens reads at the last positions. Change something above, and what it does is drawn here.")
    elif len(shown) == 1:
        st.caption(
            "Red: more after the change, blue: less. A word: the top token after it, where it was another one."
            + paled(shown["map"])
        )
    for column, (name, figure) in zip(st.columns(len(shown)), shown.items(), strict=True):
        with column:
            if len(shown) > 1:
                st.text(name.removeprefix("map_"))
            draw_figure(figure, name)
    return shown


def draw_top(request: LensRequest, read: Mapping[str, LensTrajectory], text: Callable[[int], str]) -> None:
    """The likeliest tokens at the output, before and after."""
    for column, (when, through_lens) in zip(st.columns(2), read.items(), strict=False):
        last = len(through_lens.stages) - 1
        table = top_tokens(through_lens, text, last, request.last - request.first)[:N_TOP]
        with column:
            st.caption(f"What comes next, {when}")
            draw_likely(table)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What is swept, and all else that was set then. present: what is read with that. record: what came out."""

    changes: Changes
    request: DoseRequest
    present: InterventionRecord
    record: SweepRecord | None = None


def draw_dose_response(chosen: ChosenModel, prompt: Prompt, answer: Answer, now: Swept, *, log: bool) -> None:
    """The curves; those of before where only what else is set has changed since, until they are asked for again."""
    st.header("Dose and response")
    request = now.request
    own = (chosen.key, prompt, answer, request.swept, request.groups, request.seed)
    of, last = st.session_state.get(LAST_SWEEP, (None, now))
    is_old = of == own and last.changes != now.changes
    pressed = is_old and st.button("Sweep again, with what is set now", key="sweep_again", type="primary")
    if of != own or pressed:
        what = (own, now.changes)
        n_tokens, reduce = request.n_passes * len(prompt.tokens), "Shorten the prompt, or choose fewer blocks"
        most = TOO_LONG_S if pressed else longest()
        if not agreed(chosen.key, n_tokens, what=what, reduce=reduce, slot="sweep", longest_s=most):
            return
        run = partial(swept_record, chosen.key, prompt, answer, now.changes, request)
        record = stoppable(run, request.n_passes, what=what, words="Sweeping", slot="sweep")
        if record is None:
            return
        is_old, last = False, replace(now, record=record)
        st.session_state[LAST_SWEEP] = (own, last)
    draw_swept(chosen, prompt, answer, last, is_old=is_old, log=log)


def draw_swept(chosen: ChosenModel, prompt: Prompt, answer: Answer, swept: Swept, *, is_old: bool, log: bool) -> None:
    record, request, present = swept.record, swept.request, swept.present
    assert record is not None
    was_set = "; ".join(in_words(change) for change in present.interventions)
    if is_old:
        st.info(f"Swept before the last change, with {was_set or 'nothing else changed'}.")
    # What the sweep starts from is the model with all that was set.
    draw_headline(under(sweep_headline(replace(record, clean=present.intervened)), was_set))
    draw_links(*OF_MANY, lead="One prompt (n = 1). Over many prompts:")
    chosen.keep(prompt, f"sweep of {SWEPT[request.swept]}", record)
    figures = dose_figures(record, request, present, log=log)
    for column, (name, figure) in zip(st.columns(len(figures)), figures.items(), strict=True):
        with column:
            draw_figure(figure, f"dose_{name}")
    st.caption(
        "All that is set above stays in force, but for what is swept. Dotted: the answer as set above"
        + ("; ring: where λ stands there." if request.swept == "lambda" else ", without noise; one draw per dose.")
        + zoomed(figures[PROBABILITY])
    )
    steps = [*sweep_steps(chosen.key, prompt, answer, swept.changes, request), *dose_steps(record.clean, log=log)]
    code = as_python([*model_steps(chosen.key), *steps])
    draw_downloads(dose_files(figures, record), code, name="dose", of=prompt.strings)


def choose_sweep(chosen: ChosenModel, changes: Changes) -> DoseRequest | None:
    """None if nothing is to be swept."""
    differential = differential_blocks(chosen.cfg)
    columns = st.columns([3, 4, 3, 2])
    with columns[0]:
        offered = [name for name in SWEPT if differential or name != "lambda"]
        swept = state.selectbox("Swept", "swept", offered, NOTHING, format_func=SWEPT.get)
    if swept == NOTHING:
        return None
    allowed = differential if swept == "lambda" else list(range(chosen.cfg.n_layers))
    with columns[1]:
        hint = "None named: every block" + (" that has λ" if swept == "lambda" else "")
        named = state.multiselect("In blocks", "swept_blocks", [str(b) for b in allowed], [], help=hint)
    with columns[2]:
        apart = state.toggle("Each on its own", "swept_apart", help="one curve per block, the others as set above")
    seed = 0
    with columns[3]:
        if swept == "noise":
            seed = state.number_input("Seed of the noise", "noise_seed", 0, MAX_SEED, 0)
    blocks = tuple(sorted(map(int, named))) or tuple(allowed)
    groups = tuple((block,) for block in blocks) if apart else (blocks,)
    if swept == "noise":
        return DoseRequest(swept="noise", groups=groups, present=(None,) * len(groups), seed=seed)
    present = tuple(present_factor(chosen.key, changes, group) for group in groups)
    return DoseRequest(swept="lambda", groups=groups, present=present)


page()
