"""Lens: what the model would predict at each depth, for every token of the prompt; two models if wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import streamlit as st

from app.shell import state
from app.shell.answers import draw_likely, one_token, ready_answer
from app.shell.choices import (
    choose_lens,
    choose_model,
    choose_prompt,
    choose_second_model,
    lens_of_second,
    require_same_vocabulary,
)
from app.shell.downloads import draw_downloads
from app.shell.errors import shown_errors
from app.shell.estimates import agreed
from app.shell.figures import draw_figure, paled
from app.shell.glossary import draw_note
from app.shell.headlines import draw_headline, lens_headline
from app.shell.lens_reading import (
    STATISTICS,
    LensRequest,
    clickable,
    lens_files,
    lens_request,
    marked,
    positions_shown,
    token_ids,
    top_tokens,
    trajectory,
    trajectory_steps,
)
from app.shell.links import draw_links, places_links
from app.shell.loading import ChosenModel, baseline_last
from app.shell.prompts import Prompt, markdown, token_text
from app.shell.steps import Ref, Step, Steps, as_python, model_steps, run_steps, token_text_lines
from app.shell.wording import quoted
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.drawing.labels import probability_text
from diffmamba_interp.figures.lens import CellQuantity, lens_difference_heat_map, lens_heat_map
from diffmamba_interp.lens import LensTrajectory

TRAJECTORIES = ("trajectory", "second_trajectory")
N_IN_LINE = 5
COMPARE = {"one": "the first model", "beside": "both models side by side", "difference": "model minus baseline"}


@dataclass(frozen=True, kw_only=True)
class Read:
    """One model, what is asked of its lens, and what came out."""

    chosen: ChosenModel
    request: LensRequest
    trajectory: LensTrajectory

    @property
    def text(self) -> Callable[[int], str]:
        return partial(token_text, tokenizer=self.chosen.tokenizer)


def page() -> None:
    st.title("Lens")
    first = choose_model()
    second = choose_second_model(first) if first else None
    prompt = choose_prompt(first) if first else None
    if first is None or prompt is None:
        return
    with shown_errors("Reading with the lens"):
        choices = choose_reads([model for model in (first, second) if model], prompt)
        what = (prompt, *(request for _, request in choices.requests))
        if agreed(first.key, len(prompt.tokens), choices.n_read_outs, what=what, reduce="Shorten the prompt"):
            with st.spinner("Computing", show_time=True):
                reads = [
                    Read(chosen=m, request=r, trajectory=trajectory(m.key, prompt, r)) for m, r in choices.requests
                ]
            draw(choices, prompt, reads)


def draw(choices: LensChoices, prompt: Prompt, reads: list[Read]) -> None:
    first, text = choices.first, reads[0].text
    kind = reads[0].request.name.replace("jacobian", "Jacobian")
    draw_headline(lens_headline({read.chosen.name: read.trajectory for read in reads}, text, lens=kind))
    if choices.compare == "difference":
        order = baseline_last([read.chosen for read in reads])
        reads = sorted(reads, key=lambda read: order.index(read.chosen))
    steps = figure_steps(reads, choices)
    given = {name: read.trajectory for name, read in zip(TRAJECTORIES, reads, strict=False)}
    results = run_steps(steps, {**given, "token_text": text})
    figures = [clickable(results[step.name]) for step in steps]
    stage, position = cell(state.remembered("cell", ""), len(reads[0].trajectory.stages), reads[0].request)
    shown = [
        marked(figure, stage, position) if stage < len(read.trajectory.stages) else figure
        for figure, read in zip(figures, reads, strict=False)
    ]
    draw_chosen(prompt, reads, stage, position)
    if choices.compare == "difference":
        model, baseline = (read.chosen.name for read in reads)
        draw_figure(shown[0], "lens_figure", on_select=partial(take_cell, "lens_figure"))
        st.caption(
            f"Red: more in `{model}`, blue: more in `{baseline}`. A word: the top token of `{model}`, where the "
            "other has another." + paled(shown[0])
        )
    else:
        for place, (column, read) in enumerate(zip(st.columns(len(reads)), reads, strict=True)):
            with column:
                if len(reads) > 1:
                    st.text(read.chosen.name)
                key = f"lens_figure_{place}" if place else "lens_figure"
                draw_figure(shown[place], key, on_select=partial(take_cell, key))
    draw_note(
        f"Each cell: the token that the {kind} lens finds most likely to follow the token below, at that depth. "
        f"Positions {first} to {reads[0].request.last} of {len(prompt.tokens)}. Click a cell for its list, "
        "of which the first stand above, all below; the framed cell is the one it is of."
    )
    draw_cell(prompt, reads)
    for read in reads:
        title = f"lens, positions {first} to {read.request.last}"
        read.chosen.keep(prompt, title, read.trajectory, token_ids(read.trajectory))
    code = as_python(lens_steps(reads, prompt, choices))
    by_model = {read.chosen.name: read.trajectory for read in reads}
    draw_downloads(lens_files(by_model, figures, text), code, name="lens", of=prompt.strings)


def take_cell(key: str) -> None:
    """Show the list of the cell that was clicked."""
    with shown_errors("Reading the click"):
        points = st.session_state[key]["selection"]["points"]
        if points:
            stage, place = points[0]["customdata"][:2]
            state.put("cell", f"{int(stage)}-{int(place)}")


def draw_chosen(prompt: Prompt, reads: list[Read], stage: int, position: int) -> None:
    """Above the map, where a click looks first: the framed cell's likeliest tokens in a line for each model."""
    place = f"{reads[0].trajectory.stages[stage]}, position {position}, {markdown(quoted(prompt.strings[position]))}"
    lines = []
    for read in reads:
        if stage < len(read.trajectory.stages):
            rows = top_tokens(read.trajectory, read.text, stage, position - read.request.first)[:N_IN_LINE]
            name = f"{markdown(short_name(read.chosen.name))}: " if len(reads) > 1 else ""
            lines.append(
                name
                + " · ".join(
                    f"**{markdown(quoted(str(row['token'])))}** {probability_text(cast(float, row['probability']))}"
                    for row in rows
                )
            )
    st.markdown("  \n".join([f"In the frame: {place}", *lines]))


def draw_cell(prompt: Prompt, reads: list[Read]) -> None:
    """The most likely tokens of one cell: the clicked one, or the output at the last position shown."""
    request, stages = reads[0].request, reads[0].trajectory.stages
    stage, place = cell(state.remembered("cell", ""), len(stages), request)
    st.header(f"{stages[stage]}, position {place}, {markdown(quoted(prompt.strings[place]))}", anchor=False)
    for column, read in zip(st.columns(2), reads, strict=False):
        with column:
            if stage < len(read.trajectory.stages):
                st.caption(f"`{read.chosen.name}`")
                table = top_tokens(read.trajectory, read.text, stage, place - request.first)
                draw_likely(table)
    word = reads[0].text(int(reads[0].trajectory.top_tokens[0, stage, place - request.first, 0]))
    block, last = stage - 1 if stage else None, len(prompt.tokens) - 1
    draw_links(
        *places_links(block=block, position=place, last=last, word=word, but="lens"),
        lead="Go on at this block and position:",
    )


def cell(said: str, n_stages: int, request: LensRequest) -> tuple[int, int]:
    """Stage and position; what is not on the page is replaced by the last cell."""
    stage, _, place = said.partition("-")
    if stage.isdecimal() and place.isdecimal():
        at = int(stage), int(place)
        if at[0] < n_stages and request.first <= at[1] <= request.last:
            return at
    return n_stages - 1, request.last


@dataclass(frozen=True, kw_only=True)
class LensChoices:
    """compare: of `COMPARE`. requests: one per model that is read. first: position of the first column."""

    compare: str
    statistic: CellQuantity
    requests: list[tuple[ChosenModel, LensRequest]]

    @property
    def first(self) -> int:
        return self.requests[0][1].first

    @property
    def n_read_outs(self) -> int:
        """How often the whole vocabulary is computed."""
        return sum((r.last - r.first + 1) * (model.cfg.n_layers + 1) for model, r in self.requests)


def choose_reads(models: list[ChosenModel], prompt: Prompt) -> LensChoices:
    """The choices in a line of widgets. Raises ValueError for a prompt or models that do not allow them."""
    columns = st.columns(4)
    with columns[0]:
        names = [choose_lens("Lens", "lens", models[0])]
    with columns[1]:
        statistic = state.selectbox(
            "Colour", "colour", list(STATISTICS), "probability", format_func=STATISTICS.__getitem__
        )
    with columns[2]:
        offered = list(COMPARE) if len(models) > 1 else ["one"]
        compare = state.selectbox("Models", "compare", offered, "one", format_func=COMPARE.__getitem__)
    needs_target, target = statistic.startswith("target"), None
    with columns[3]:
        if needs_target:
            ready = ready_answer(models[0], prompt)
            hint = f"At first {ready.source}. Empty: at each position the token that follows in the prompt."
            typed = state.text_input("Answer", "target", ready.text, help=hint)
            target = one_token(typed, ready, models[0]) if typed else None
        if compare != "one":
            require_same_vocabulary(*models)
            names.append(lens_of_second(names[0], models[1]))
    window = positions_shown(2 if compare == "beside" else 1)
    first, last = choose_window(prompt, window, whole=not needs_target or target is not None)
    requests = [
        (model, lens_request(name, model.key, first=first, last=last, needs_target=needs_target, target=target))
        for name, model in zip(names, models, strict=False)
    ]
    return LensChoices(compare=compare, statistic=cast(CellQuantity, statistic), requests=requests)


def choose_window(prompt: Prompt, window: int, *, whole: bool) -> tuple[int, int]:
    """First and last position shown; the end of a long prompt unless told otherwise.

    whole: may the last position be among them, which has no next token?
    """
    end = len(prompt.tokens) - (0 if whole else 1)
    if end < 1:
        raise ValueError("a prompt of one token has no next token: give a longer prompt, or a target token.")
    first = 0
    if end > window:
        label = f"First of the {window} positions shown"
        wanted = state.values().get("first", "")
        # A wider page shows more positions: the last of them hold what was asked for.
        if wanted.isdecimal() and end - window < int(wanted) < end:
            state.forget("first")
        first = state.slider(label, "first", 0, end - window, end - window)
    return first, min(first + window, end) - 1


def figure_steps(reads: list[Read], choices: LensChoices) -> list[Step]:
    """The heat map of every one of `TRAJECTORIES`, or of the first minus the second."""
    trajectories, text = [Ref(name) for name in TRAJECTORIES[: len(reads)]], Ref("token_text")
    how = {"statistic": choices.statistic}
    if choices.compare == "difference":
        names = tuple(read.chosen.name for read in reads)
        return [Step("difference_figure", lens_difference_heat_map, *trajectories, text, **how, names=names)]
    return [
        Step(name, lens_heat_map, trajectory, text, **how)
        for name, trajectory in zip(("figure", "second_figure"), trajectories, strict=False)
    ]


def lens_steps(reads: list[Read], prompt: Prompt, choices: LensChoices) -> Steps:
    """Models, trajectories and figures."""
    steps: list = []
    for read, name in zip(reads, TRAJECTORIES, strict=False):
        steps += [*model_steps(read.chosen.key), *trajectory_steps(read.chosen.key, prompt, read.request, name)]
    return [*steps, token_text_lines(reads[0].chosen.key), *figure_steps(reads, choices)]


page()
