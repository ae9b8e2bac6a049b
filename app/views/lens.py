"""Lens: what the model would predict at each depth, for every token of the prompt; two models if wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import plotly.graph_objects as go
import streamlit as st

from app import kept_state
from app.lens_code import lens_code
from app.lens_files import lens_files
from app.lens_pictures import difference_picture, lens_picture, top_tokens
from app.lens_request import LensRequest, trajectory
from app.panels.chosen_model import ChosenModel, baseline_last, choose_model, choose_second_model
from app.panels.chosen_prompt import choose_prompt
from app.panels.downloads import FIGURE_BUTTONS, draw_downloads
from app.panels.errors import shown_errors
from app.panels.kept_records import keep
from app.panels.lens_choices import LensChoices, choose_reads
from app.panels.long_runs import agreed
from app.panels.plain_text import markdown
from app.prompts import Prompt, token_text
from diffmamba_interp.drawing.labels import token_label
from diffmamba_interp.lens import LensTrajectory


@dataclass(frozen=True, kw_only=True)
class Read:
    """One model, what is asked of its lens, and what came out."""

    chosen: ChosenModel
    request: LensRequest
    found: LensTrajectory

    @property
    def text(self) -> Callable[[int], str]:
        return partial(token_text, tokenizer=self.chosen.tokenizer)


def page() -> None:
    st.header("Lens")
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
                reads = [Read(chosen=m, request=r, found=trajectory(m.key, prompt, r)) for m, r in choices.requests]
            draw(choices, prompt, reads)


def draw(choices: LensChoices, prompt: Prompt, reads: list[Read]) -> None:
    statistic, first, text = choices.statistic, choices.first, reads[0].text
    if choices.compare == "difference":
        order = baseline_last([read.chosen for read in reads])
        reads = sorted(reads, key=lambda read: order.index(read.chosen))
        model, baseline = (read.chosen.name for read in reads)
        figure = difference_picture(reads[0].found, reads[1].found, text, statistic, first, (model, baseline))
        draw_figure(figure, "lens_figure")
        st.caption(
            f"Red: more in `{model}`, blue: more in `{baseline}`. A word: the top token of `{model}`, where the "
            "other has another."
        )
    else:
        for place, (column, read) in enumerate(zip(st.columns(len(reads)), reads, strict=True)):
            with column:
                if len(reads) > 1:
                    st.text(read.chosen.name)
                figure = lens_picture(read.found, text, statistic, first)
                draw_figure(figure, f"lens_figure_{place}" if place else "lens_figure")
    st.caption(
        f"Each cell: the token that {'the tuned' if reads[0].request.lens else 'the logit'} lens finds most likely to "
        f"follow the token below, at that depth. Positions {first} to {reads[0].request.last} of "
        f"{len(prompt.tokens)}. Click a cell for its list."
    )
    draw_cell(prompt, reads)
    for read in reads:
        ids = {int(token) for token in read.found.top_tokens.flat} | {int(token) for token in read.found.tokens.flat}
        keep(read.chosen, prompt, f"lens, positions {first} to {read.request.last}", read.found, ids)
    given, names = [(read.chosen.key, read.request) for read in reads], [read.chosen.name for read in reads]
    code = lens_code(given, prompt, statistic, choices.compare, names)
    draw_downloads(lens_files(reads[-1].found, figure, text), code, name="lens")


def draw_figure(figure: go.Figure, key: str) -> None:
    st.plotly_chart(
        figure, width="stretch", key=key, config=FIGURE_BUTTONS, selection_mode="points",
        on_select=partial(take_cell, key),
    )  # fmt: skip


def take_cell(key: str) -> None:
    """Show the list of the cell that was clicked."""
    with shown_errors("Reading the click"):
        points = st.session_state[key]["selection"]["points"]
        if points:
            stage, place = points[0]["customdata"][:2]
            kept_state.put("cell", f"{int(stage)}-{int(place)}")


def draw_cell(prompt: Prompt, reads: list[Read]) -> None:
    """The most likely tokens of one cell: the clicked one, or the output at the last position shown."""
    request, stages = reads[0].request, reads[0].found.stages
    stage, place = cell(kept_state.remembered("cell", ""), len(stages), request)
    st.subheader(f"{stages[stage]}, position {place}: {markdown(token_label(prompt.strings[place]))}", anchor=False)
    for column, read in zip(st.columns(2), reads, strict=False):
        with column:
            if stage < len(read.found.stages):
                st.caption(f"`{read.chosen.name}`")
                table = top_tokens(read.found, read.text, stage, place - request.first)
                config = {"probability": st.column_config.ProgressColumn(min_value=0, max_value=1, format="%.4f")}
                st.dataframe(table, hide_index=True, width="stretch", column_config=config, height=390)


def cell(said: str, n_stages: int, request: LensRequest) -> tuple[int, int]:
    """Stage and position; what is not on the page is replaced by the last cell."""
    stage, _, place = said.partition("-")
    if stage.isdecimal() and place.isdecimal():
        found = int(stage), int(place)
        if found[0] < n_stages and request.first <= found[1] <= request.last:
            return found
    return n_stages - 1, request.last


page()
