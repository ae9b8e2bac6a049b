"""What is asked of `contribution_graph`: made from the widgets, as steps; the headline; and files."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from app.shell import loading
from app.shell.downloads import Download, csv_file, html_file, npz_file
from app.shell.folders import ModelKey
from app.shell.headlines import Headline, said, word
from app.shell.prompts import Prompt
from app.shell.steps import Ref, Step, as_python, run_steps, tokens_step
from diffmamba_interp.figures.contribution_graph import contribution_graph_csv, contribution_graph_figure
from diffmamba_interp.files.archives import arrays_to_bytes
from diffmamba_interp.implicit_attention import ContributionGraph, contribution_graph
from diffmamba_interp.spans import SPAN_CLASSES

MAX_BYTES = 2**29
PASSES = 4
"""So many forward passes take as long as the graph of a short prompt."""

ARRAYS = ("node", "straight", "minuend", "subtrahend", "bias", "logit")
WORDS = {"needle": "the needle", "question": "the question", "distractors": "other facts", "filler": "filler"}


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
    steps = graph_steps(key, prompt, request)
    return loading.result(
        key,
        as_python(steps),
        lambda model: run_steps(steps, {"model": model})["graph"],
        lambda graph: sum(getattr(graph, name).nbytes for name in ARRAYS),
    )


def by_span(graph: ContributionGraph, prompt: Prompt) -> dict[str, float]:
    """What each span's tokens bring to the logit, the rest, and what the blocks add by themselves; they sum to it."""
    node = graph.node[0, 0].cpu().numpy()
    brought, rest = {}, set(range(len(node)))
    for name in SPAN_CLASSES:
        places = [place for start, end in getattr(prompt.spans, name) for place in range(start, end)]
        if places:
            brought[WORDS[name]] = float(node[places].sum())
            rest -= set(places)
    brought["the rest of the prompt" if brought else "the prompt"] = float(node[sorted(rest)].sum())
    brought["biases"] = float(graph.bias[0].sum())
    return brought


def graph_headline(graph: ContributionGraph, prompt: Prompt, of: str) -> Headline:
    """What every part of the prompt brings. of: the logit, in words."""
    logit, node = float(graph.logit[0]), graph.node[0, 0].cpu().numpy()
    brought = sorted(by_span(graph, prompt).items(), key=lambda item: -abs(item[1]))
    told = ", ".join(f"{name} {value:+.2f}" for name, value in brought)
    best = int(abs(node).argmax())
    through = {
        name: float(abs(getattr(graph, name)[0]).sum())
        for name in ("minuend", "subtrahend")
        if float(abs(getattr(graph, name)[0]).sum()) > 0
    }
    says = [
        f"Of {of}, {logit:.2f}, each part of the prompt brings: {told}.",
        f"The token that brings most is {best}, “{word(prompt.strings[best])}”: {node[best]:+.2f}.",
    ]
    if "subtrahend" in through and "minuend" in through:
        share = through["subtrahend"] / sum(through.values())
        says.append(f"{share:.0%} of the size of all edges through blocks runs through subtrahends.")
    against = [
        "One prompt. Gates, norms and λ are held at their values: what a token does by way of them is not in it, so a "
        "token that is knocked out may change more or less.",
    ]
    size = sum(abs(value) for _, value in brought)
    if size > 3 * abs(logit):
        against.append(
            f"Large parts cancel: their sizes sum to {size:.1f}, {said(size / max(abs(logit), 1e-9))} times the logit."
        )
    return Headline(says=tuple(says), against=tuple(against))


def graph_files(graph: ContributionGraph, figure: go.Figure, prompt: Prompt, least: float) -> list[Download]:
    return [
        html_file(figure),
        csv_file(lambda: contribution_graph_csv(graph, prompt.strings, least)),
        npz_file(lambda: arrays_to_bytes({name: getattr(graph, name).cpu().numpy() for name in ARRAYS})),
    ]
