"""A `ContributionGraph` drawn: the strongest edges from the tokens, at the bottom, to the logit on top; and as CSV.

A column is a position of the prompt, a line the stream between two blocks. Minuend and subtrahend are edges of their
own, in their colours; dotted edges lower the logit; the wider, the more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from diffmamba_interp.drawing.colours import BRANCHES, GREY, Dash, Style
from diffmamba_interp.drawing.labels import token_label
from diffmamba_interp.drawing.panels import Axis, Drawing, Line, Panel, Place, Targets
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.files.table_text import csv_text, quoted
from diffmamba_interp.implicit_attention.graph import ContributionGraph, Edge, EdgeKind

NAMES: dict[EdgeKind, str] = {
    "straight": "past the block",
    "plain": "scan",
    "minuend": "minuend",
    "subtrahend": "−λ · subtrahend",
}
"""Of the edges, in the order in which they are drawn."""

COLOURS: dict[EdgeKind, str] = {
    "straight": GREY,
    "plain": BRANCHES["weights"].colour,
    "minuend": BRANCHES["minuend"].colour,
    "subtrahend": BRANCHES["subtrahend"].colour,
}
WIDTHS = (1.5, 3.0, 5.0, 8.0)
"""Of edges, by their share of the largest one, in as many steps."""

LEAST_SHARE = 0.05
SIDEWAYS = {"straight": 0.0, "plain": 0.0, "minuend": -0.08, "subtrahend": 0.08}
"""How far edges of a kind bend, so that those between the same two nodes lie apart."""


def contribution_graph_drawing(
    graph: ContributionGraph,
    *,
    token_strings: Sequence[str] | None = None,
    least: float | None = None,
    sample: int = 0,
    title: str = "",
) -> Drawing:
    """The edges of at least `least` logits that lead to the logit.

    Args:
        token_strings: text of each position. least: in logits; None for a twentieth of the logit. title: in place of
            one that says how many edges there are. Positions without an edge are left out.

    Over each node and each edge lies a point to point at and to click; its data are the number of blocks behind the
    node, or behind the edge's end, and its position. Raises ValueError as `edges_to_logit`.
    """
    wanted = LEAST_SHARE * max(abs(float(graph.logit[sample])), 1e-6) if least is None else least
    edges = graph.edges_to_logit(wanted, sample)
    end = int(graph.position[sample])
    positions = sorted({end, *(edge.src for edge in edges), *(edge.dest for edge in edges)})
    column = {position: float(place) for place, position in enumerate(positions)}
    labels = [_label(position, token_strings) for position in positions]
    named = {position: label for position, label in zip(positions, labels, strict=True)}
    n_blocks = len(graph.kinds)
    nodes = sorted({(n_blocks, end), *((edge.block, edge.src) for edge in edges)})
    dots = Line(
        name="", x=[column[position] for _, position in nodes], y=[float(depth) for depth, _ in nodes],
        style=Style(colour="#222222"), joined=False, quiet=True,
    )  # fmt: skip
    targets = Targets(
        x=[*dots.x, *(_middle(edge, column)[0] for edge in edges)],
        y=[*dots.y, *(_middle(edge, column)[1] for edge in edges)],
        data=[*nodes, *((edge.block + 1, edge.dest) for edge in edges)],
        labels=[
            *(
                f"{named[position]}, {depth_name(depth)}: {float(graph.node[sample, depth, position]):+.3g} logits"
                for depth, position in nodes
            ),
            *(_note(edge, named) for edge in edges),
        ],
    )
    logit = float(graph.logit[sample])
    depth_ticks: dict[Place, str] = {float(depth): str(depth - 1) for depth in range(1, n_blocks + 1)}
    return Drawing(
        title=title or f"{len(edges)} edges of {wanted:.2g} logits or more, of a logit of {logit:.3g}",
        x=Axis(title="position", ticks=dict(zip(column.values(), labels, strict=True)), upright=True),
        y=Axis(title="stream after block", ticks={0.0: "emb.", **depth_ticks}, limits=(-0.5, n_blocks + 0.5)),
        panels=[Panel(marks=[*_lines(edges, column), dots, targets])],
        panel_size=(max(300.0, 44.0 * len(positions)), 40.0 * (n_blocks + 1)),
    )


contribution_graph_figure = as_plotly(contribution_graph_drawing)


def depth_name(depth: int) -> str:
    """So many blocks behind it."""
    return "in the embedding" if depth == 0 else f"after block {depth - 1}"


def contribution_graph_csv(graph: ContributionGraph, token_strings: Sequence[str], least: float) -> str:
    """One line for every edge of the first sample that leads to the logit."""
    lines = [
        [edge.block, edge.kind, edge.src, quoted(token_strings[edge.src]), edge.dest, quoted(token_strings[edge.dest])]
        + [edge.logits]
        for edge in graph.edges_to_logit(least)
    ]
    return csv_text(["block", "edge", "src_pos", "src_token", "dest_pos", "dest_token", "logits"], lines)


def _label(position: int, strings: Sequence[str] | None) -> str:
    return str(position) if strings is None else f"{position} {token_label(strings[position], at_most=12)}"


def _middle(edge: Edge, column: dict[int, float]) -> tuple[float, float]:
    return (column[edge.src] + column[edge.dest]) / 2 + SIDEWAYS[edge.kind], edge.block + 0.5


def _note(edge: Edge, named: dict[int, str]) -> str:
    through = NAMES[edge.kind] if edge.kind == "straight" else f"block {edge.block}, {NAMES[edge.kind]}"
    return f"{through}\n{named[edge.src]} → {named[edge.dest]}: {edge.logits:+.3g} logits"


def _lines(edges: Sequence[Edge], column: dict[int, float]) -> list[Line]:
    """A line for all edges of one kind, sign and width."""
    largest = max((abs(edge.logits) for edge in edges), default=1.0)
    grouped: dict[tuple[int, bool, float], list[Edge]] = {}
    for edge in edges:
        step = min(int(len(WIDTHS) * abs(edge.logits) / largest), len(WIDTHS) - 1)
        grouped.setdefault((list(NAMES).index(edge.kind), edge.logits < 0, WIDTHS[step]), []).append(edge)
    lines = []
    for (_, lowers, width), group in sorted(grouped.items()):
        x, y = [], []
        for edge in group:
            middle = _middle(edge, column)
            x += [column[edge.src], middle[0], column[edge.dest], column[edge.dest]]
            y += [float(edge.block), middle[1], edge.block + 1.0, math.nan]
        kind, dash = group[0].kind, "dot" if lowers else "solid"
        lines.append(
            Line(
                name=NAMES[kind] + (", lowers" if lowers else ""), x=x, y=y,
                style=Style(colour=COLOURS[kind], dash=cast(Dash, dash)),
                markers=False, width=width, opacity=0.75, quiet=True,
            )
        )  # fmt: skip
    return lines
