"""A `ContributionGraph` as a session keeps it: what it says, and its file, which is checked when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch

from app.shell.headlines import Headline
from app.shell.wording import quoted, said, signed_text
from diffmamba_interp.files.archives import arrays_from_bytes, arrays_to_bytes
from diffmamba_interp.implicit_attention import ContributionGraph
from diffmamba_interp.mixer_sizes import BlockKind
from diffmamba_interp.spans import SPAN_CLASSES, Spans

ARRAYS = ("node", "straight", "minuend", "subtrahend", "bias", "logit", "position", "answer")
WORDS = {"needle": "the needle", "question": "the question", "distractors": "the distractors", "filler": "filler"}
CANCELLING = 3.0
"""Where the parts' sizes sum to more than so many times the logit, the page says so."""


def by_span(graph: ContributionGraph, spans: Spans) -> dict[str, float]:
    """What each span's tokens bring to the logit, the rest, and what the blocks add by themselves; they sum to it."""
    node = graph.node[0, 0].cpu().numpy()
    brought, rest = {}, set(range(len(node)))
    for name in SPAN_CLASSES:
        places = [place for start, end in getattr(spans, name) for place in range(start, min(end, len(node)))]
        if places:
            brought[WORDS[name]] = float(node[places].sum())
            rest -= set(places)
    brought["the rest of the prompt" if brought else "the prompt"] = float(node[sorted(rest)].sum())
    brought["biases"] = float(graph.bias[0].sum())
    return brought


def graph_headline(graph: ContributionGraph, spans: Spans, strings: Sequence[str], of: str = "the logit") -> Headline:
    """What every part of the prompt brings. of: the logit, in words."""
    logit, node = float(graph.logit[0]), graph.node[0, 0].cpu().numpy()
    brought = sorted(by_span(graph, spans).items(), key=lambda item: -abs(item[1]))
    told = ", ".join(f"{name} {value:+.2f}" for name, value in brought).replace("-", "−")
    best = int(np.abs(node).argmax())
    says = [
        f"Of {of}, {logit:.2f}, each part of the prompt brings: {told}.",
        f"The token that brings most is {best}, {quoted(strings[best])}: {signed_text(node[best])}.",
    ]
    minuend, subtrahend = (float(part[0].abs().sum()) for part in (graph.minuend, graph.subtrahend))
    if subtrahend:
        share = subtrahend / (minuend + subtrahend)
        says.append(f"{share:.0%} of the size of all edges through blocks runs through subtrahends.")
    against = [
        "One prompt. Gates, norms and λ are held at their values: what a token does by way of them is not in it, so a "
        "token that is knocked out may change more or less."
    ]
    size = sum(abs(value) for _, value in brought)
    if size > CANCELLING * abs(logit):
        times = said(size / max(abs(logit), 1e-9))
        against.append(f"Large parts cancel: their sizes sum to {size:.1f}, {times} times the logit.")
    return Headline(says=tuple(says), against=tuple(against))


def write_graph(graph: ContributionGraph) -> bytes:
    """As NPZ."""
    arrays = {name: getattr(graph, name).cpu().numpy() for name in ARRAYS} | {"kinds": np.array(graph.kinds)}
    return arrays_to_bytes(arrays if graph.versus is None else arrays | {"versus": graph.versus.cpu().numpy()})


def read_graph(content: bytes, *, source: str, remedy: str) -> ContributionGraph:
    """The inverse of `write_graph`. Raises ValueError for what is no whole graph; KeyError where a part is missing."""
    arrays = arrays_from_bytes(content, source=source, remedy=remedy)
    kinds = tuple(str(kind) for kind in arrays.pop("kinds"))
    tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    n_batch, depth, n_pos = tensors["node"].shape
    n_blocks = depth - 1
    wanted = {
        "straight": (n_batch, n_blocks, n_pos),
        "minuend": (n_batch, n_blocks, n_pos, n_pos),
        "subtrahend": (n_batch, n_blocks, n_pos, n_pos),
        "bias": (n_batch, n_blocks, n_pos),
        "logit": (n_batch,),
        "position": (n_batch,),
        "answer": (n_batch,),
    }
    fits = all(tuple(tensors[name].shape) == shape for name, shape in wanted.items())
    if not fits or n_batch < 1 or len(kinds) != n_blocks or not set(kinds) <= set(get_args(BlockKind)):
        raise ValueError(f"{source} is not of one piece: the parts of a graph do not fit together.")
    if not bool(((tensors["position"] >= 0) & (tensors["position"] < n_pos)).all()):
        raise ValueError(f"{source} is not of one piece: a graph's logit lies outside of its prompt.")
    return ContributionGraph(
        kinds=kinds,  # type: ignore[arg-type]
        versus=tensors.get("versus"),
        **{name: tensors[name] for name in ARRAYS},
    )
