"""Heads page: the numbers of the library on a map, what they mean beside them, and what a prompt lacks."""

import numpy as np
import pytest
import torch

from app.pages_.heads.request import heads_npz
from diffmamba_interp import load_demo
from diffmamba_interp.figures.heads import head_scores_csv
from diffmamba_interp.files.archives import arrays_from_bytes
from diffmamba_interp.implicit_attention import DEFINITIONS, Spans, gather_and_aggregate, head_rivals, state_sink
from diffmamba_interp.text import boundary_tokens
from tests.app.conftest import IDS, OpenApp, captions, drawn, run_code, tables, texts

BUNDLED = "bundled:diff-mamba2"
TOKENS = [int(part) for part in IDS.split()]
NEEDLE = {"model": BUNDLED, "source": "needle", "length": "0"}


def test_the_state_sink_of_a_prompt_is_drawn_beside_what_it_means(open_app: OpenApp) -> None:
    app = open_app("heads", measure="sink_share", **NEEDLE)
    results = run_code(app)
    model, tokenizer = load_demo("diff-mamba2")
    tokens = results["tokens"]
    expected = state_sink(model, tokens, boundary_tokens(tokenizer))
    figure = drawn(app)
    titles = [note["text"] for note in figure["layout"]["annotations"]]
    assert titles == ["minuend", "subtrahend (without λ)"]
    for trace, part in zip(figure["data"], ("minuend", "subtrahend"), strict=True):
        rows = [row for row, (_, of) in enumerate(expected.rows) if of == part]
        np.testing.assert_allclose(trace["z"], expected.mean("sink_share")[rows], rtol=1e-5)
    np.testing.assert_allclose(results["scores"].mean("dt_ratio"), expected.mean("dt_ratio"), rtol=1e-5)
    caption = next(text for text in captions(app) if DEFINITIONS["sink_share"] in text)
    assert f"{expected.uniform['sink_share'][0]:.3f}" in caption
    (table,) = tables(app)
    assert float(table["sink share"][0]) == pytest.approx(np.nanmax(expected.mean("sink_share")), abs=6e-4)


def test_the_page_opens_with_the_needle_share_where_a_needle_is_marked(open_app: OpenApp) -> None:
    app = open_app("heads", **NEEDLE)
    assert app.selectbox(key="measure").value == "needle_share"
    (table,) = tables(app)
    shares = [float(share) for share in table["needle share"]]
    assert shares == sorted(shares, reverse=True)
    app.selectbox(key="source").select("text").run()
    app.text_area(key="prompt").set_value("Mary is here. John is not.").run()
    assert app.selectbox(key="measure").value == "sink_share"


@pytest.mark.parametrize("measure", ["aggregate", "gather", "needle_share"])
def test_facts_that_are_marked_have_gather_and_aggregate(open_app: OpenApp, measure: str) -> None:
    app = open_app("heads", measure=measure, **NEEDLE)
    results = run_code(app)
    assert isinstance(results["scores"].values[measure], np.ndarray)
    z = np.array(drawn(app)["data"][0]["z"], dtype=float)
    rows = [row for row, (_, of) in enumerate(results["scores"].rows) if of == "minuend"]
    np.testing.assert_allclose(z, results["scores"].mean(measure)[rows], rtol=1e-5)


def test_a_model_without_a_tokenizer_has_negative_mass_and_is_told_what_the_rest_lacks(open_app: OpenApp) -> None:
    app = open_app("heads", ids=IDS)
    assert any("no token that is a full stop" in text for text in texts(app.info))
    app.selectbox(key="measure").select("aggregate").run()
    assert any("No needle is marked" in text for text in texts(app.info))
    app.selectbox(key="measure").select("redundancy").run()
    results = run_code(app)
    expected = head_rivals(results["model"], torch.tensor([TOKENS]))
    titles = [note["text"] for note in drawn(app)["layout"]["annotations"]]
    assert titles == ["plain blocks", "minuend", "subtrahend (without λ)", "difference"]
    np.testing.assert_allclose(results["scores"].mean("redundancy"), expected.mean("redundancy"), rtol=1e-4, atol=1e-6)
    assert any("pairs heads that have no tie" in text for text in captions(app))
    scale = drawn(app)["layout"]["coloraxis"]
    assert scale["cmin"] == -scale["cmax"] < 0


def test_the_files_hold_every_measure_of_every_head() -> None:
    model, _ = load_demo("diff-mamba2")
    spans = Spans(needle=((1, 4),))
    scores = gather_and_aggregate(model, torch.tensor([TOKENS]), spans)
    arrays = arrays_from_bytes(heads_npz(scores), source="heads", remedy="", kind="archive")
    assert set(arrays) == {"gather", "aggregate", "output_norm", "block", "branch"}
    assert head_scores_csv(scores).count("\n") == 1 + sum(scores.n_heads)
