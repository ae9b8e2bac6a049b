"""Attention: what the branches of a block read, and what the subtraction leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.pages_.attention.beside import Beside, draw_beside
from app.pages_.attention.request import (
    KINDS,
    MAX_CELLS,
    REDUCTIONS,
    VIEWS,
    AttentionRequest,
    WayIn,
    attention_files,
    attention_record,
    figure_steps,
    find_way_in,
    record_steps,
    strip_steps,
)
from app.pages_.attention.row import choose_row, draw_row, source_of
from app.pages_.attention.way_in import draw_steps, draw_way_in
from app.shell import state
from app.shell.answers import one_token, ready_answer
from app.shell.carriers import reading_steps
from app.shell.choices import choose_model, choose_prompt
from app.shell.downloads import draw_downloads
from app.shell.errors import shown_errors
from app.shell.estimates import agreed
from app.shell.figures import draw_figure
from app.shell.glossary import draw_note
from app.shell.headlines import attention_headline, draw_headline
from app.shell.links import draw_links, places_links
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt
from app.shell.steps import as_python, model_steps, run_steps
from diffmamba_interp.implicit_attention.record import AttentionRecord, Kind

PLAIN_MEANS = {
    "hidden": "weights: H of the block's only scan, signed, not normalised, without gates, norms and output projection",
    "contribution": "exact: what each source adds to what the block writes, along the direction, frozen scales",
    "contribution_norm": "norm of what each source adds to what the block writes, frozen scales",
}
WORDS = ("Computing the attention", "Zoom in, or choose fewer heads, to need less.")
"""Of an error: what was done, and what to do."""

ROOTED = (
    " Colours follow the root of a value's size, so that small ones are seen and large ones told apart: a quarter of "
    "the scale's end has half of its colour."
)
FIGURE_HEIGHT = 440
LINE_HEIGHT, SEGMENT_HEIGHT = 85, 15


def page() -> None:
    st.title("Attention")
    chosen = choose_model()
    prompt = choose_prompt(chosen) if chosen else None
    if chosen is None or prompt is None:
        return
    with shown_errors(*WORDS):
        beside: Beside | None = None
        top, controls, picture, below = st.container(), st.container(), st.container(), st.container()
        if prompt.spans.needle and not agreed(
            chosen.key, len(prompt.tokens), what=("way in", prompt), reduce="Shorten the prompt", slot="way_in"
        ):
            return
        with top, st.spinner("Looking where the needle is read", show_time=True):
            way_in = find_way_in(chosen, prompt)
        with controls:
            columns = st.columns(4)
        with below:
            window = choose_window(prompt)
        request = choose_request(chosen, prompt, window, columns, way_in)
        n_tokens = int(len(prompt.tokens) * request.passes(chosen.key, len(prompt.tokens)))
        drawn: tuple[AttentionRecord, go.Figure] | None = None
        with shown_errors(*WORDS):
            if agreed(chosen.key, n_tokens, what=(prompt, request), reduce="Shorten the prompt or zoom in"):
                drawn = draw_record(chosen, prompt, request, picture)
        # A browser draws what comes first first: what was asked for, then what led there.
        with top:
            draw_way_in(way_in, request.block, request.heads if request.head is not None else "")
        if drawn is not None:
            record, figure = drawn
            with picture:
                steps_between(chosen, request)
                with shown_errors("Drawing what is compared"):
                    beside = draw_beside(chosen, prompt, request, figure.layout.height)
            with below:
                draw_rest(chosen, prompt, request, record, figure, beside)


def draw_record(
    chosen: ChosenModel, prompt: Prompt, request: AttentionRequest, picture: DeltaGenerator
) -> tuple[AttentionRecord, go.Figure]:
    """What was asked for, below what it says."""
    with picture, st.spinner("Computing", show_time=True):
        record = attention_record(chosen.key, prompt, request)
    with picture:
        rows = record.rows[0].tolist()
        at = -1 if request.view == "heads" else chosen_row(rows) - rows[0]
        draw_headline(attention_headline(record, prompt.spans, at))
        return record, draw_picture(prompt, request, record)


def steps_between(chosen: ChosenModel, request: AttentionRequest) -> None:
    """To the next block and head."""
    n_heads = chosen.cfg.mixer_sizes(chosen.cfg.block_kind(request.block)).n_heads
    takes_heads = request.kind == "hidden" and request.view != "heads"
    draw_steps(chosen.cfg.n_layers, request.block, n_heads, request.heads if takes_heads else None)


def choose_window(prompt: Prompt) -> tuple[int, int]:
    """The positions shown: all of them, unless told otherwise."""
    return state.range_slider("Zoom: positions shown", "zoom", 0, len(prompt.tokens) - 1)


def choose_request(
    chosen: ChosenModel,
    prompt: Prompt,
    window: tuple[int, int],
    columns: Sequence[DeltaGenerator],
    way_in: WayIn | None,
) -> AttentionRequest:
    """What the widgets say; they start at the head with the largest share on the needle, of all or of its block."""
    with columns[0]:
        block = state.slider("Block", "block", 0, chosen.cfg.n_layers - 1, way_in.first.block if way_in else 0)
    with columns[1]:
        kind = state.selectbox("Shown", "kind", list(KINDS), "hidden", format_func=KINDS.__getitem__)
    with columns[3]:
        views = [view for view in VIEWS if view != "heads" or kind != "contribution_norm"]
        long = window[1] - window[0] >= MAX_CELLS and bool(prompt.spans.needle)
        view = state.selectbox("View", "view", views, "spans" if long else "positions", format_func=VIEWS.get)
    heads, token = "mean", None
    with columns[2]:
        if kind == "hidden" and view != "heads":
            n_heads = chosen.cfg.mixer_sizes(chosen.cfg.block_kind(block)).n_heads
            choices = [*REDUCTIONS, *(str(head) for head in range(n_heads))]
            best = way_in.best_head(block) if way_in else None
            heads = state.selectbox("Heads", "heads", choices, best or "mean", format_func=heads_name)
        elif kind == "contribution":
            label = "Token" if chosen.tokenizer else "Token id"
            ready = ready_answer(chosen, prompt)
            typed = state.text_input(label, "token", ready.text, help=f"Of its logit: {ready.source}")
            token = one_token(typed, ready, chosen)
    return AttentionRequest(block=block, kind=cast(Kind, kind), heads=heads, token=token, view=view, window=window)


def heads_name(heads: str) -> str:
    return REDUCTIONS.get(heads, f"head {heads}")


def draw_picture(prompt: Prompt, request: AttentionRequest, record: AttentionRecord) -> go.Figure:
    figure = run_steps(figure_steps(prompt, request), {"record": record})["figure"]
    if request.view == "heads":
        n_lines = len(record.pictures) * -(-len(record.heads) // 16)
        figure.update_layout(height=140 + LINE_HEIGHT * n_lines, margin={"b": 10})
        draw_figure(figure, "heads_figure", on_select=take_head if request.kind == "hidden" else None)
        return figure
    if request.view == "spans":
        n_segments = len(figure.data[0].y)
        figure.update_layout(height=max(FIGURE_HEIGHT, 240 + SEGMENT_HEIGHT * min(n_segments, 28)))
        draw_figure(figure, "attention_figure")
        return figure
    figure.update_layout(height=FIGURE_HEIGHT)
    rows = record.rows[0].tolist()
    row = chosen_row(rows)
    draw_figure(with_cell(figure, row, source_of(row)), "attention_figure", on_select=take_cell)
    return figure


def chosen_row(rows: Sequence[int]) -> int:
    """What the row's slider, which is drawn below, says or will say."""
    said = state.pending("row")
    return int(said) if said.isdecimal() and rows[0] <= int(said) <= rows[-1] else rows[-1]


def with_cell(figure: go.Figure, row: int, source: int | None) -> go.Figure:
    """The figure with a frame around the cell that was clicked; itself if none was."""
    if source is None:
        return figure
    marked = go.Figure(figure)
    frames = [
        {
            "type": "rect", "xref": f"x{place}", "yref": f"y{place}", "x0": source - 0.5, "x1": source + 0.5,
            "y0": row - 0.5, "y1": row + 0.5, "line": {"color": "#111111", "width": 2},
        }
        for place in ("", *map(str, range(2, len([t for t in figure.data if t.type == "heatmap"]) + 1)))
    ]  # fmt: skip
    marked.layout.shapes = [*marked.layout.shapes, *frames]
    return marked


def take_cell() -> None:
    """Show the row and the source of the cell that was clicked."""
    with shown_errors("Reading the click"):
        points = st.session_state["attention_figure"]["selection"]["points"]
        if points:
            # The middle of a pooled cell lies between two positions.
            state.put("row", str(math.ceil(points[0]["y"])))
            state.put("source_pos", str(math.floor(points[0]["x"])))


def what_is_drawn(request: AttentionRequest) -> str:
    """What was done to the record's values before they were drawn."""
    if request.view == "heads":
        return " Pooled to thumbnails by the value of largest magnitude. Click one to see that head large."
    if request.view == "spans":
        return " A cell is a sum over the sources of a span, and a mean over its destinations."
    if request.pooled == 1:
        return " Click a cell to see its row over the text."
    return (
        f" A cell stands for {request.pooled} × {request.pooled} positions and shows their value of largest magnitude; "
        "zoom in for single ones. The row below, CSV and NPZ hold every value."
    )


def take_head() -> None:
    """Show the head that was clicked."""
    with shown_errors("Reading the click"):
        points = st.session_state["heads_figure"]["selection"]["points"]
        if points:
            state.put("heads", str(int(points[0]["customdata"][0])))
            state.put("view", "positions")


def draw_rest(
    chosen: ChosenModel,
    prompt: Prompt,
    request: AttentionRequest,
    record: AttentionRecord,
    figure: go.Figure,
    beside: Beside | None,
) -> None:
    if record.is_differential:
        means = f"Block {record.block} is differential. Difference: {record.difference_means}."
    else:
        means = f"Block {record.block} is plain: nothing is subtracted. {PLAIN_MEANS[record.kind]}."
    draw_note(means + what_is_drawn(request) + ROOTED)
    if request.view != "heads":
        row = choose_row(prompt, record)
        # By span the picture shows sums, on a scale of their own.
        draw_row(prompt, record, row, figure.layout.coloraxis.cmax if request.view == "positions" else None)
        draw_links(
            *places_links(block=record.block, position=row, last=len(prompt.tokens) - 1, but="attention"),
            lead="Go on at this block and position:",
        )
    title = f"attention, block {record.block}, {request.kind}, {request.view}"
    chosen.keep(prompt, title, record, view=request.view, spans=prompt.spans)
    key = chosen.key
    steps = [*model_steps(key), *record_steps(key, prompt, request), *figure_steps(prompt, request)]
    if prompt.spans.needle:
        shown = None if request.head is None else (request.block, request.head)
        steps += [*reading_steps(key, prompt)[1:], *strip_steps(shown)]
    files = attention_files(record, figure)
    if beside is not None:
        steps += beside.steps
        files += attention_files(beside.record, beside.figure, "second.")
    code = as_python(steps)
    draw_downloads(files, code, name=f"attention-block-{record.block}", of=prompt.strings)


page()
