"""The graph's picture: its edges where they belong, in the colours of their branches, and a point over each node."""

import pytest

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.drawing.colours import BRANCHES
from diffmamba_interp.drawing.panels import Line, Targets
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.contribution_graph import (
    NAMES,
    contribution_graph_csv,
    contribution_graph_drawing,
    contribution_graph_figure,
)
from diffmamba_interp.implicit_attention import ContributionGraph, contribution_graph
from tests.models.tiny import random_tokens, tiny_model

STRINGS = ["<b>", " is", "c", "d", "e", "f", "g"]


@pytest.fixture(scope="module")
def graph() -> ContributionGraph:
    return contribution_graph(tiny_model(DifferentialConfig(placement=(0,))), random_tokens(1, 7), 3)


def test_every_edge_is_drawn_once_in_its_branchs_colour_and_dotted_where_it_lowers(graph: ContributionGraph) -> None:
    least = 0.02 * float(graph.logit.abs())
    drawing = contribution_graph_drawing(graph, token_strings=STRINGS, least=least)
    edges = graph.edges_to_logit(least)
    lines = [line for line in drawing.marks(Line) if line.name]
    assert sum(len(line.x) // 4 for line in lines) == len(edges)
    for kind, name in NAMES.items():
        for lowers in (False, True):
            drawn = [line for line in lines if line.name == name + (", lowers" if lowers else "")]
            wanted = [edge for edge in edges if edge.kind == kind and (edge.logits < 0) == lowers]
            ends = {(line.y[at], line.y[at + 2]) for line in drawn for at in range(0, len(line.y), 4)}
            assert ends == {(edge.block, edge.block + 1) for edge in wanted}
            assert {line.style.dash for line in drawn} <= {"dot" if lowers else "solid"}
    assert {line.style.colour for line in lines if "subtrahend" in line.name} == {BRANCHES["subtrahend"].colour}
    widest = max(lines, key=lambda line: line.width)
    largest = max(edges, key=lambda edge: abs(edge.logits))
    assert widest.name.removesuffix(", lowers") == NAMES[largest.kind]


def test_nodes_and_edges_tell_what_they_hold_and_a_click_names_the_node(graph: ContributionGraph) -> None:
    drawing = contribution_graph_drawing(graph, token_strings=STRINGS, least=1e-6)
    (targets,) = drawing.marks(Targets)
    top = targets.data.index((2, 6))
    assert targets.labels[top] == f"6 g, after block 1: {float(graph.node[0, 2, 6]):+.3g} logits"
    assert (targets.x[top], targets.y[top]) == (6.0, 2.0)
    assert any(label.startswith("block 0, −λ · subtrahend\n1 ␣is → 6 g: ") for label in targets.labels)
    assert drawing.x.ticks[0.0] == "0 <b>"
    assert list(drawing.y.ticks.values()) == ["emb.", "0", "1"]
    figure = contribution_graph_figure(graph, token_strings=STRINGS, least=1e-6)
    assert "0 &lt;b&gt;" in figure.layout.xaxis.ticktext
    assert to_svg(drawing).startswith("<svg")


def test_positions_without_an_edge_are_left_out_and_a_logit_without_edges_is_one_node(graph: ContributionGraph) -> None:
    drawing = contribution_graph_drawing(graph, least=1e9)
    assert list(drawing.x.ticks.values()) == ["6"]
    assert drawing.title.startswith("0 edges")


def test_the_table_has_a_line_for_every_edge(graph: ContributionGraph) -> None:
    lines = contribution_graph_csv(graph, STRINGS, 1e-6).splitlines()
    assert lines[0] == "block,edge,src_pos,src_token,dest_pos,dest_token,logits"
    assert len(lines) == 1 + len(graph.edges_to_logit(1e-6))
