"""Graph: how a logit came together, from the tokens through minuends and subtrahends, block by block."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from app.pages_.graph.request import (
    PASSES,
    GraphRequest,
    figure_steps,
    graph_files,
    graph_of,
    graph_steps,
    node_of,
)
from app.shell import state
from app.shell.answers import label_token, one_token, ready_answer
from app.shell.choices import choose_model, choose_prompt
from app.shell.downloads import draw_downloads
from app.shell.errors import shown_errors
from app.shell.estimates import agreed
from app.shell.figures import draw_figure
from app.shell.headlines import draw_headline
from app.shell.kept_graphs import graph_headline
from app.shell.links import draw_links, places_links
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt, markdown, token_text
from app.shell.steps import as_python, model_steps, run_steps
from app.shell.wording import quoted, signed_text
from diffmamba_interp.drawing.colours import SPANS
from diffmamba_interp.figures.contribution_graph import depth_name
from diffmamba_interp.implicit_attention import ContributionGraph
from diffmamba_interp.spans import SPAN_CLASSES, Spans

BLOCK_HEIGHT = 40
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yref": "paper", "yanchor": "bottom"}


def page() -> None:
    st.title("Graph")
    chosen = choose_model()
    prompt = choose_prompt(chosen) if chosen else None
    if chosen is None or prompt is None:
        return
    with shown_errors("Taking the logit apart", "Shorten the prompt to need less."):
        request, of = choose_request(chosen, prompt)
        n_tokens = PASSES * len(prompt.tokens)
        if agreed(chosen.key, n_tokens, what=("graph", prompt, request), reduce="Shorten the prompt"):
            with st.spinner("Computing", show_time=True):
                graph = graph_of(chosen.key, prompt, request)
            draw_graph(chosen, prompt, request, graph, of)


def choose_request(chosen: ChosenModel, prompt: Prompt) -> tuple[GraphRequest, str]:
    """The logit that is taken apart, and what it is in words. Raises ValueError for texts that are no token."""
    ready = ready_answer(chosen, prompt)
    left, right = st.columns(2)
    with left:
        typed = state.text_input("Logit of", "token", ready.text, help=f"Ready: {ready.source}")
        token = one_token(typed, ready, chosen)
    with right:
        less = state.text_input("Less that of", "graph_versus", "", help="A token to compare with; empty for none")
    name = f"the logit of {quoted(token_text(token, chosen.tokenizer))}"
    if not less.strip():
        return GraphRequest(answer=token), name
    return GraphRequest(answer=token, versus=label_token(less, chosen)), f"{name} less that of {quoted(less)}"


def draw_graph(chosen: ChosenModel, prompt: Prompt, request: GraphRequest, graph: ContributionGraph, of: str) -> None:
    draw_headline(graph_headline(graph, prompt.spans, prompt.strings, of))
    share = state.slider("Smallest edge shown, % of the logit", "least_edge", 1, 50, 5)
    least = max(share / 100 * abs(float(graph.logit[0])), 1e-6)
    figure = run_steps(figure_steps(prompt, least), {"graph": graph})["figure"]
    figure.update_layout(height=190 + BLOCK_HEIGHT * (chosen.cfg.n_layers + 1), legend=LEGEND, margin={"t": 90})
    figure.update_traces(selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 1}}, selector=has_nodes)
    shade_spans(figure, prompt.spans, chosen.cfg.n_layers + 0.5)
    draw_node(prompt, graph)
    draw_figure(with_node(figure, node_of(state.remembered("node", ""), graph)), "graph_figure", on_select=take_node)
    st.caption(
        "From below: the tokens; on top the logit. Edges are what a position's stream brings to the logit by way of "
        "another: past a block, through its minuend, or, −λ times, through its subtrahend; dotted ones lower the "
        "logit. A node holds the sum of all edges that leave it upwards, also of those too small to be drawn. Shaded: "
        "the prompt's spans."
    )
    chosen.keep(prompt, f"graph of {of}", graph, spans=prompt.spans)
    steps = [*model_steps(chosen.key), *graph_steps(chosen.key, prompt, request), *figure_steps(prompt, least)]
    draw_downloads(graph_files(graph, figure, prompt, least), as_python(steps), name="graph", of=prompt.strings)


def has_nodes(trace: go.Scatter) -> bool:
    return trace.customdata is not None


def columns_of(figure: go.Figure) -> dict[int, float]:
    """Where each drawn position stands; a label begins with its position."""
    axis = figure.layout.xaxis
    return {int(label.split()[0]): float(place) for place, label in zip(axis.tickvals, axis.ticktext, strict=True)}


def shade_spans(figure: go.Figure, spans: Spans, top: float) -> None:
    """The columns of needle, question and distractors in their colours, each span named once on top."""
    columns = columns_of(figure)
    for name in SPAN_CLASSES:
        for start, end in getattr(spans, name) if name != "filler" else ():
            places = [place for position, place in columns.items() if start <= position < end]
            for place in places:
                figure.add_shape(
                    type="rect", x0=place - 0.5, x1=place + 0.5, y0=-0.5, y1=top, layer="below", line={"width": 0},
                    fillcolor=SPANS[name].colour, opacity=0.18,
                )  # fmt: skip
            if places:
                figure.add_annotation(
                    x=places[0] - 0.5, y=top, text=name, showarrow=False, xanchor="left", yanchor="top"
                )


def with_node(figure: go.Figure, node: tuple[int, int] | None) -> go.Figure:
    """The figure with a ring around the node that was clicked; itself if none was, or if it is not drawn."""
    columns = columns_of(figure)
    if node is None or node[1] not in columns:
        return figure
    marked, place = go.Figure(figure), columns[node[1]]
    marked.add_shape(
        type="circle", x0=place - 0.3, x1=place + 0.3, y0=node[0] - 0.3, y1=node[0] + 0.3,
        line={"color": "#E69F00", "width": 3},
    )  # fmt: skip
    return marked


def take_node() -> None:
    """Remember the node that was clicked."""
    with shown_errors("Reading the click"):
        points = st.session_state["graph_figure"]["selection"]["points"]
        if points:
            depth, position = points[0]["customdata"][:2]
            state.put("node", f"{int(depth)}-{int(position)}")


def draw_node(prompt: Prompt, graph: ContributionGraph) -> None:
    """What the clicked node holds, what enters it most, and links to the block that wrote it; how to, if none was."""
    node = node_of(state.remembered("node", ""), graph)
    if node is None:
        st.caption("Click a node to read here what it holds, and to open its block.")
        return
    at, position = node
    token = markdown(quoted(prompt.strings[position]))
    st.markdown(
        f"**Position {position}, {token}, {depth_name(at)}**: {signed_text(float(graph.node[0, at, position]))} logits"
        + ("" if at == 0 else f"; {entering(prompt, graph, at - 1, position)}")
    )
    last = len(prompt.tokens) - 1
    draw_links(
        *places_links(block=max(at - 1, 0), position=position, last=last, but="graph"), lead="Look at its block:"
    )


def entering(prompt: Prompt, graph: ContributionGraph, block: int, position: int) -> str:
    """What comes past the block and through it, with the source that brings most, and its biases: the node's value."""
    through = graph.minuend[0, block, position] + graph.subtrahend[0, block, position]
    source = int(through.abs().argmax())
    return (
        f"past block {block} {signed_text(float(graph.straight[0, block, position]))}, through it "
        f"{signed_text(float(through.sum()))}, most of it from {source} ({markdown(quoted(prompt.strings[source]))}): "
        f"{signed_text(float(through[source]))}; the block's biases, which belong to no token, "
        f"{signed_text(float(graph.bias[0, block, position]))}"
    )


page()
