"""Attention page: spans marked, collapsed by span, cut to a window, every head at a glance."""

import numpy as np
import pytest

from app.pages_.attention.row import left_out
from diffmamba_interp import HookedMamba
from tests.app.conftest import IDS, OpenApp, complaint, drawn, run_code, texts

BUNDLED = "bundled:diff-mamba2"


def test_the_ready_prompt_has_its_needle_question_and_distractors_framed(open_app: OpenApp) -> None:
    figure = drawn(open_app("attention", model=BUNDLED))
    assert {"needle", "question", "distractors"} <= {trace.get("name") for trace in figure["data"]}
    assert len(figure["layout"]["shapes"]) == 3 * 6


def test_a_generated_prompt_is_marked_as_the_analyses_mark_it(open_app: OpenApp) -> None:
    from transformers import PreTrainedTokenizerFast

    from app.shell import loading
    from diffmamba_interp.needle import make_needle_samples
    from diffmamba_interp.spans import prompt_spans

    app = open_app("attention", model=BUNDLED, source="needle", length="256", view="positions")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=loading.tokenizer(loading.model_key(BUNDLED, "float32")))
    spans = prompt_spans(make_needle_samples(wrapped, task="qa1", n=1, length=256)[0])
    framed = {(shape["x0"] + 0.5, shape["x1"] + 0.5) for shape in drawn(app)["layout"]["shapes"]}
    assert framed == {*spans.needle, *spans.question, *spans.distractors}


def test_another_block_of_the_same_prompt_runs_one_block_only(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_app("attention", model=BUNDLED, block="9")
    monkeypatch.setattr(HookedMamba, "forward", lambda *_, **__: pytest.fail("the model was run again"))
    for block, kind in ((10, "hidden"), (3, "contribution")):
        app.slider(key="block").set_value(block).run()
        app.selectbox(key="kind").select(kind).run()
        assert f"Block {block}" in drawn(app)["layout"]["title"]["text"]


def test_the_needles_share_of_the_row_is_counted(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED, block="4")
    table = next(table.value for table in app.dataframe if "needle, %" in table.value)
    assert list(table["picture"]) == ["minuend", "λ · subtrahend", "difference"]
    made = run_code(app)
    row = made["record"].to_numpy()["minuend"][0, -1]
    needle = slice(21, 28)
    assert table["needle, %"][0] == pytest.approx(100 * np.abs(row[needle]).sum() / np.abs(row).sum(), rel=1e-4)


def test_a_text_that_does_not_occur_cannot_be_marked_and_the_page_says_so(open_app: OpenApp) -> None:
    assert "does not occur" in complaint(open_app("attention", model=BUNDLED, needle="elephant"))


def test_a_long_needle_prompt_comes_collapsed_and_its_code_gives_the_cells(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED, source="needle", length="512", block="3")
    assert app.selectbox(key="view").value == "spans"
    made = run_code(app)
    cells, figure = made["collapsed"].values, drawn(app)
    for trace, name in zip(figure["data"], ("minuend", "subtrahend", "difference"), strict=True):
        assert np.array_equal(trace["z"], cells[name].numpy(), equal_nan=True)
    assert made["figure"].layout.title.text == figure["layout"]["title"]["text"]
    words = " ".join(texts(app.caption))
    assert "of the row's magnitude falls on the others" in words
    app.selectbox(key="view").select("positions").run()
    assert "pooled 4 × 4 to the largest magnitude" in drawn(app)["layout"]["title"]["text"]
    assert any("4 × 4 positions" in caption and "hold every value" in caption for caption in texts(app.caption))
    picture = run_code(app)["record"].to_numpy()["minuend"][0]
    cell = picture[200:204, 100:104].ravel()
    assert drawn(app)["data"][0]["z"][50, 25] == cell[np.abs(cell).argmax()]


def test_a_window_shows_its_cells_unpooled_and_keeps_their_positions(open_app: OpenApp) -> None:
    ids = " ".join(str(place % 90) for place in range(300))
    app = open_app("attention", ids=ids, block="2", zoom="100-149")
    trace = drawn(app)["data"][0]
    assert trace["z"].shape == (50, 50)
    assert trace["x0"] == 100
    made = run_code(app)
    assert np.array_equal(trace["z"], made["figure"].data[0].z)
    assert np.array_equal(trace["z"], made["record"].to_numpy()["minuend"][0][:, 100:150])
    assert not any("hold every value" in caption for caption in texts(app.caption))
    assert app.slider(key="row").value == 149


@pytest.mark.parametrize("zoom", ["5-2", "0-9999", "a-b", "7"])
def test_a_window_that_cannot_be_is_said_and_replaced(open_app: OpenApp, zoom: str) -> None:
    app = open_app("attention", ids=IDS, zoom=zoom)
    assert app.slider(key="zoom").value == (0, 10)
    assert any("There is no zoom" in text for text in texts(app.warning))


@pytest.mark.parametrize("kind", ["hidden", "contribution"])
def test_every_head_can_be_seen_at_once(open_app: OpenApp, kind: str) -> None:
    app = open_app("attention", ids=IDS, block="2", view="heads", kind=kind)
    made = run_code(app)
    canvas, points = drawn(app)["data"]
    heads = sorted({int(head) for head, _ in points["customdata"]})
    assert heads == list(made["record"].heads)
    assert np.array_equal(canvas["z"], made["figure"].data[0].z, equal_nan=True)
    assert np.array_equal(canvas["z"][:11, :11], made["record"].to_numpy()["minuend"][0, 0])


def test_norms_are_of_whole_vectors_so_no_heads_are_offered(open_app: OpenApp) -> None:
    app = open_app("attention", ids=IDS, kind="contribution_norm")
    assert app.selectbox(key="view").options == ["by position", "collapsed by span"]


def test_what_has_no_room_is_counted_by_its_magnitude() -> None:
    picture = np.array([1.0, -2.0, 0.5, -0.5])
    assert left_out(picture, [(0, 4)]) == ""
    assert left_out(picture, [(0, 1), (3, 4)]) == ": 2 of 4 tokens; 62.5% of the row's magnitude falls on the others"
