"""Attention page: the right pictures for what the widgets say, and words that say what they are."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from diffmamba_interp import HookedMamba
from diffmamba_interp.implicit_attention import extract_attention
from tests.app.conftest import IDS, MODEL, OpenApp, captions, complaint, drawn, run_code, texts

TOKENS = [int(part) for part in IDS.split()]


@pytest.fixture(scope="module")
def model(root: Path) -> HookedMamba:
    return HookedMamba.from_pretrained(root / MODEL).eval()


def expected(model: HookedMamba, **options):
    return extract_attention(model, torch.tensor([TOKENS]), kind="hidden", **options).to_numpy()


def test_a_differential_block_shows_three_pictures_on_one_signed_scale(open_app: OpenApp, model: HookedMamba) -> None:
    figure = drawn(open_app("attention", ids=IDS, block="2"))
    arrays = expected(model, block=2, reduce="mean")
    for trace, name in zip(figure["data"], ("minuend", "lambda_subtrahend", "difference"), strict=True):
        assert np.array_equal(trace["z"], arrays[name][0])
        assert trace["coloraxis"] == "coloraxis"
    scale = figure["layout"]["coloraxis"]
    assert scale["cmin"] == -scale["cmax"] < 0
    titles = [note["text"] for note in figure["layout"]["annotations"]]
    assert titles == ["minuend", "λ · subtrahend", "difference"]


def test_the_block_slider_and_the_head_box_choose_what_is_drawn(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("attention", ids=IDS)
    app.slider(key="block").set_value(2).run()
    app.selectbox(key="heads").select("3").run()
    assert np.array_equal(drawn(app)["data"][0]["z"], expected(model, block=2, heads=[3])["minuend"][0, 0])
    assert "Block 2: hidden attention, head 3" in drawn(app)["layout"]["title"]["text"]
    app.selectbox(key="heads").select("abs_mean").run()
    picture = expected(model, block=2, reduce="abs_mean")["minuend"][0]
    assert np.array_equal(drawn(app)["data"][0]["z"], picture)


def test_a_plain_block_shows_its_weights(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("attention", ids=IDS, block="1")
    (trace,) = drawn(app)["data"]
    assert np.array_equal(trace["z"], expected(model, block=1, reduce="mean")["weights"][0])
    assert any("is plain" in caption for caption in captions(app))


@pytest.mark.parametrize(("heads", "words"), [("3", "H1 − λ H2"), ("mean", "mean(H1) − λ mean(H2)")])
def test_the_caption_says_which_difference_is_shown(open_app: OpenApp, heads: str, words: str) -> None:
    app = open_app("attention", ids=IDS, block="2", heads=heads)
    assert any(words in caption for caption in captions(app))


@pytest.mark.parametrize(("ids", "words"), [("5 6 tree", "token 2 is 'tree'"), ("7" * 1_000_000, "at most 200,000")])
def test_a_prompt_that_is_none_is_an_error_box_and_the_app_lives_on(open_app: OpenApp, ids: str, words: str) -> None:
    app = open_app("attention")
    app.text_area(key="ids").set_value(ids).run()
    assert words in complaint(app)
    app.text_area(key="ids").set_value(IDS).run()
    assert len(drawn(app)["data"]) == 3


def test_one_token_is_enough(open_app: OpenApp) -> None:
    assert drawn(open_app("attention", ids="5"))["data"][0]["z"].shape == (1, 1)


def test_a_picture_beyond_the_memory_limit_is_refused_with_advice(open_app: OpenApp) -> None:
    app = open_app("attention", ids="5 " * 16_000)
    assert "a page takes at most 512 MiB" in complaint(app)
    assert any("Zoom in" in text for text in texts(app.info))


def test_contributions_along_a_token_and_their_norms_can_be_shown(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("attention", ids=IDS, block="2", kind="contribution")
    app.text_input(key="token").set_value("42").run()
    tokens = torch.tensor([TOKENS])
    picture = extract_attention(model, tokens, block=2, kind="contribution", direction=42).to_numpy()
    assert np.array_equal(drawn(app)["data"][2]["z"], picture["difference"][0])
    assert any("exact" in caption for caption in captions(app))
    app.selectbox(key="kind").select("contribution_norm").run()
    norms = extract_attention(model, tokens, block=2, kind="contribution_norm").to_numpy()
    assert np.array_equal(drawn(app)["data"][0]["z"], norms["minuend"][0])


@pytest.mark.parametrize(("token", "words"), [("5 6", "2 tokens"), ("", "empty"), ("97", "vocabulary is 0 to 96")])
def test_a_direction_that_is_no_token_is_an_error_box(open_app: OpenApp, token: str, words: str) -> None:
    app = open_app("attention", ids=IDS, kind="contribution")
    app.text_input(key="token").set_value(token).run()
    assert words in complaint(app)


def test_a_row_is_drawn_over_the_text_that_it_reads(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("attention", ids=IDS, block="2", row="4")
    bodies = [html.proto.body for html in app.get("html") if "<span" in html.proto.body]
    arrays = expected(model, block=2, reduce="mean")
    for body, name in zip(bodies, ("minuend", "lambda_subtrahend", "difference"), strict=True):
        values = [float(part.split(": ")[1]) for part in re.findall(r'title="([^"]*)"', body)]
        assert values == pytest.approx(arrays[name][0, 4, :5].tolist(), rel=1e-3)


def test_of_a_long_row_the_end_is_drawn_and_the_share_of_the_rest_is_told(open_app: OpenApp) -> None:
    app = open_app("attention", ids=" ".join(str(place % 90) for place in range(300)))
    body = next(html.proto.body for html in app.get("html") if "<span" in html.proto.body)
    places = [int(part.split(":")[0]) for part in re.findall(r'title="([^"]*)"', body)]
    assert places == list(range(180, 300))
    assert any("falls on the others" in caption for caption in captions(app))
    assert "pooled" in drawn(app)["layout"]["title"]["text"]


def test_the_row_follows_the_end_of_the_prompt_until_one_is_chosen(open_app: OpenApp) -> None:
    app = open_app("attention", ids="1 2 3")
    assert app.slider(key="row").value == 2
    app.text_area(key="ids").set_value("1 2 3 4 5").run()
    assert app.slider(key="row").value == 4
    app.slider(key="row").set_value(1).run()
    app.text_area(key="ids").set_value("1 2 3 4").run()
    assert app.slider(key="row").value == 1
    assert not app.warning


@pytest.mark.parametrize(
    "address",
    [
        {"block": "2", "heads": "5"},
        {"block": "1", "heads": "max_abs"},
        {"block": "0", "kind": "contribution", "token": "8"},
        {"block": "2", "kind": "contribution_norm"},
    ],
)
def test_copy_as_python_gives_the_same_numbers(open_app: OpenApp, address: dict[str, str]) -> None:
    app = open_app("attention", ids=IDS, **address)
    made = run_code(app)
    for trace, figure_trace in zip(drawn(app)["data"], made["figure"].data, strict=True):
        assert np.array_equal(trace["z"], figure_trace.z)
    assert made["figure"].layout.title.text == drawn(app)["layout"]["title"]["text"]
