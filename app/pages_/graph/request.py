"""What is asked of `contribution_graph`: made from the widgets, as steps, and files."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from app.shell import loading
from app.shell.downloads import Download, csv_file, html_file, npz_file
from app.shell.folders import ModelKey
from app.shell.kept_graphs import ARRAYS, write_graph
from app.shell.prompts import Prompt
from app.shell.steps import Ref, Step, as_python, run_steps, tokens_step
from diffmamba_interp.figures.contribution_graph import contribution_graph_csv, contribution_graph_figure
from diffmamba_interp.implicit_attention import ContributionGraph, contribution_graph

MAX_BYTES = 2**29
PASSES = 4
"""So many forward passes take as long as the graph of a short prompt."""


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """answer: the token whose logit is taken apart. versus: the one whose logit is subtracted; None for none."""

    answer: int
    versus: int | None = None


def graph_steps(key: ModelKey, prompt: Prompt, request: GraphRequest) -> list[Step]:
    given = {} if request.versus is None else {"versus": request.versus}
    made = Step("graph", contribution_graph, Ref("model"), Ref("tokens"), request.answer, **given, max_bytes=MAX_BYTES)
    return [tokens_step(key, prompt), made]


def figure_steps(prompt: Prompt, least: float) -> list[Step]:
    """The edges of at least so many logits."""
    return [
        Step("figure", contribution_graph_figure, Ref("graph"), token_strings=list(prompt.strings), least=least),
    ]


def graph_of(key: ModelKey, prompt: Prompt, request: GraphRequest) -> ContributionGraph:
    """The graph, from the cache if it was made before."""
    steps, between = graph_steps(key, prompt, request), {"graph": {"on_progress": loading.giving_way(key)}}
    return loading.result(
        key,
        as_python(steps),
        lambda model: run_steps(steps, {"model": model}, between)["graph"],
        lambda graph: sum(getattr(graph, name).nbytes for name in ARRAYS),
    )


def node_of(said: str, graph: ContributionGraph) -> tuple[int, int] | None:
    """Depth and position of a node as an address says it; None for what the graph does not have."""
    depth, _, place = said.partition("-")
    if not (depth.isdecimal() and place.isdecimal() and len(depth) < 5 and len(place) < 7):
        return None
    _, n_depths, n_pos = graph.node.shape
    return (int(depth), int(place)) if int(depth) < n_depths and int(place) < n_pos else None


def graph_files(graph: ContributionGraph, figure: go.Figure, prompt: Prompt, least: float) -> list[Download]:
    return [
        html_file(figure),
        csv_file(lambda: contribution_graph_csv(graph, prompt.strings, least)),
        npz_file(lambda: write_graph(graph)),
    ]
