"""Graph page: the library's graph, a headline whose parts sum to the logit, and the node that was clicked."""

import re

import numpy as np
import pytest
import torch

from app.pages_.graph.request import node_of
from app.shell.wording import signed_text
from diffmamba_interp import load_demo
from diffmamba_interp.implicit_attention import contribution_graph
from tests.app.conftest import IDS, OpenApp, complaint, drawn, run_code, texts
from tests.models.tiny import random_tokens, tiny_model

BUNDLED = "bundled:diff-mamba2"


def headline(app) -> str:
    return next(html.proto.body for html in app.get("html") if "headline" in html.proto.body)


def test_the_parts_of_the_prompt_sum_to_the_logit_and_the_code_gives_the_figure(open_app: OpenApp) -> None:
    app = open_app("graph", model=BUNDLED)
    made = run_code(app)
    graph = made["graph"]
    model, tokenizer = load_demo("diff-mamba2")
    (answer,) = tokenizer(" hallway", add_special_tokens=False).input_ids
    logit = float(model(made["tokens"])[0, -1, answer].detach())
    words = re.sub("<[^>]*>", "", headline(app))
    assert f"hallway”, {logit:.2f}," in words
    words = words.replace("−", "-")
    parts = re.findall(r"[+-][0-9]+[.][0-9]{2}", words.partition(".</p>")[0].partition("The token")[0])
    assert sum(map(float, parts)) == pytest.approx(logit, abs=0.03)
    assert float(graph.remainder.abs().max()) < 1e-3
    targets = drawn(app)["data"][-1]
    assert [list(point) for point in targets["customdata"]] == [list(p) for p in made["figure"].data[-1].customdata]


def test_a_node_that_was_clicked_is_told_with_what_enters_it(open_app: OpenApp) -> None:
    app = open_app("graph", model=BUNDLED, node="4-43")
    graph = run_code(app)["graph"]
    (told,) = [text for text in texts(app.markdown) if "after block 3" in text]
    assert f"after block 3**: {signed_text(float(graph.node[0, 4, 43]))} logits" in told
    told = told.replace("−", "-")
    parts = [
        float(re.search(f"{words} ([+-][0-9.e-]+[0-9])", told)[1])
        for words in ("past block 3", "through it", "no token,")
    ]
    assert sum(parts) == pytest.approx(float(graph.node[0, 4, 43]), rel=0.02, abs=0.02)
    through = graph.minuend[0, 3, 43] + graph.subtrahend[0, 3, 43]
    assert f"most of it from {int(through.abs().argmax())} " in told
    layout = drawn(app)["layout"]
    ring = layout["shapes"][-1]
    assert (ring["type"], ring["y0"] + ring["y1"]) == ("circle", 8)
    labels = dict(zip(layout["xaxis"]["tickvals"], layout["xaxis"]["ticktext"], strict=True))
    shaded = sorted({shape["x0"] + 0.5 for shape in layout["shapes"] if shape["type"] == "rect"})
    # The question ends with its mark, right before "Answer", which is drawn, too.
    assert [labels[place] for place in shaded] == ["26 ␣hallway", "40 ␣John", "41 ?"]
    assert "42 ␣Answer" in labels.values()
    attention = next(link.proto for link in app.get("page_link") if link.proto.page == "attention")
    assert attention.query_string == "block=3&row=43"
    assert {note["text"] for note in layout["annotations"]} >= {"needle", "question"}
    assert "the distractors +" in re.sub("<[^>]*>", "", headline(app)).replace("-", "+")


def test_a_node_that_the_graph_does_not_have_is_none() -> None:
    graph = contribution_graph(tiny_model(), random_tokens(1, 5), 3)
    assert node_of("2-4", graph) == (2, 4)
    assert [node_of(said, graph) for said in ("3-0", "0-5", "x-1", "-", "1-", "", "9" * 30)] == [None] * 7


def test_a_model_without_a_tokenizer_and_a_difference_of_logits(open_app: OpenApp) -> None:
    app = open_app("graph", ids=IDS, token="8", graph_versus="5", least_edge="20")
    graph = run_code(app)["graph"]
    assert (int(graph.answer[0]), int(graph.versus[0])) == (8, 5)
    size = np.abs(float(graph.logit[0]))
    assert all(abs(edge.logits) >= 0.2 * size for edge in graph.edges_to_logit(0.2 * size))
    assert torch.count_nonzero(graph.subtrahend[:, 1]) == 0
    app.text_input(key="token").set_value("97").run()
    assert "vocabulary is 0 to 96" in complaint(app)
