"""The way to where something is seen: all heads by what they read of the needle, and steps from one to the next."""

from __future__ import annotations

import streamlit as st

from app.pages_.attention.request import REDUCTIONS, WayIn, strip_steps
from app.shell import state, viewport
from app.shell.errors import shown_errors
from app.shell.figures import draw_figure
from app.shell.steps import run_steps

STRIP_HEIGHT = 150
N_SHOWN = 24
NEXT_BLOCK, BLOCK_BEFORE, NEXT_HEAD, HEAD_BEFORE = "J", "K", "L", "H"
"""Keys of the buttons, which lie side by side."""


def draw_way_in(way_in: WayIn | None, block: int, head: str) -> None:
    """What the heads read, in words and as bars to click."""
    if way_in is None:
        st.caption(
            "No needle is marked in the prompt: mark one in the side bar (Mark in it), and the page opens at the head "
            "with the largest share on it."
        )
        return
    st.caption(way_in.in_words(block, head))
    shown = (block, int(head)) if head.isdigit() else None
    figure = run_steps(strip_steps(shown), {"needle_reading": way_in.scores})["strip"]
    figure.update_layout(
        height=STRIP_HEIGHT, margin={"t": 4, "b": 4, "r": 10}, clickmode="event+select",
        legend={"orientation": "h", "x": 0.7, "xanchor": "right", "y": 0.98, "yanchor": "top"},
    )  # fmt: skip
    figure.update_traces(selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 1}})
    if viewport.is_narrow():
        figure.update_xaxes(tickmode="linear", dtick=2)
    draw_figure(figure, "strip_figure", on_select=take_bar)


def take_bar() -> None:
    """Show the head whose bar was clicked."""
    with shown_errors("Reading the click"):
        points = st.session_state["strip_figure"]["selection"]["points"]
        if points:
            # Named as the bar is, "block 3, minuend, head 1".
            words = str(points[0]["customdata"][0]).split(", ")
            show(words[0].removeprefix("block "), words[-1].removeprefix("head "))


def show(block: str, head: str) -> None:
    state.put("block", block)
    state.put("heads", head)
    state.put("kind", "hidden")


def draw_steps(n_layers: int, block: int, n_heads: int, heads: str | None) -> None:
    """Buttons, with keys, to the next block and the next head. heads: None where no head is chosen."""
    columns = st.columns(4)
    for column, label, key, to, shortcut in (
        (columns[0], "Block before", "block_before", block - 1, BLOCK_BEFORE),
        (columns[1], "Next block", "block_next", block + 1, NEXT_BLOCK),
    ):
        column.button(
            label, key=key, shortcut=shortcut, width="stretch", disabled=not 0 <= to < n_layers,
            on_click=state.put, args=("block", str(to)),
        )  # fmt: skip
    choices = [*REDUCTIONS, *map(str, range(n_heads))]
    at = choices.index(heads) if heads in choices else None
    for column, label, key, by, shortcut in (
        (columns[2], "Head before", "head_before", -1, HEAD_BEFORE),
        (columns[3], "Next head", "head_next", 1, NEXT_HEAD),
    ):
        other = None if at is None or not 0 <= at + by < len(choices) else choices[at + by]
        column.button(
            label, key=key, shortcut=shortcut, width="stretch", disabled=other is None,
            on_click=state.put, args=("heads", other),
        )  # fmt: skip
