"""Attention page: spans marked, collapsed by span, cut to a window, every head at a glance."""

from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from app.pages_.attention.row import left_out, readable
from app.shell.prompts import DEFAULT_NEEDLE
from app.shell.wording import signed_text
from diffmamba_interp import HookedMamba
from diffmamba_interp.drawing.colours import SIGNED, colour_at, signed_root
from diffmamba_interp.models.block import Block
from tests.app.conftest import IDS, OpenApp, captions, complaint, figures, run_code, tables, texts

BUNDLED = "bundled:diff-mamba2"
N_TOKENS = 44
"""Of the ready prompt."""


def picture(app: AppTest) -> dict[str, Any]:
    """The attention figure, below the strip of heads if there is one."""
    return figures(app)[-1]


def test_the_ready_prompt_has_its_needle_question_and_distractors_framed(open_app: OpenApp) -> None:
    figure = picture(open_app("attention", model=BUNDLED))
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
    framed = {(shape["x0"] + 0.5, shape["x1"] + 0.5) for shape in picture(app)["layout"]["shapes"]}
    assert framed == {*spans.needle, *spans.question, *spans.distractors}


def test_the_heads_are_ranked_and_the_first_picture_is_drawn_in_one_pass(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, blocks = Block.forward, []

    def count(block: Block, resid: torch.Tensor, *given: Any, **kwargs: Any) -> Any:
        # What a pass takes is measured with other lengths.
        if resid.shape[1] == N_TOKENS:
            blocks.append(block)
        return run(block, resid, *given, **kwargs)

    monkeypatch.setattr(Block, "forward", count)
    app = open_app("attention", model=BUNDLED)
    assert not app.error
    # The one that is shown is run again, for more is read of it.
    assert sorted(map(blocks.count, set(blocks))) == [1] * 11 + [2]


def test_another_block_of_the_same_prompt_runs_one_block_only(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_app("attention", model=BUNDLED, block="9")
    monkeypatch.setattr(HookedMamba, "forward", lambda *_, **__: pytest.fail("the model was run again"))
    for block, kind in ((10, "hidden"), (3, "contribution")):
        app.slider(key="block").set_value(block).run()
        app.selectbox(key="kind").select(kind).run()
        assert f"Block {block}" in picture(app)["layout"]["title"]["text"]


def test_the_needles_share_of_the_row_is_counted(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED, block="4")
    (table,) = tables(app, "needle, %")
    assert list(table["picture"]) == ["minuend", "λ · subtrahend", "difference"]
    made = run_code(app)
    row = made["record"].to_numpy()["minuend"][0, 0, -1]
    needle = slice(21, 28)
    assert table["needle, %"][0] == f"{100 * np.abs(row[needle]).sum() / np.abs(row).sum():.1f}"


def test_a_mark_that_does_not_occur_is_said_and_the_others_stay(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED, needle="elephant")
    assert any("elephant" in text and "does not occur" in text for text in texts(app.warning))
    assert {trace.get("name") for trace in picture(app)["data"]} >= {"question", "distractors"}
    assert any("No needle is marked" in text for text in captions(app))


def test_an_edited_word_drops_its_own_mark_only(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED)
    edited = app.text_area(key="prompt").value.replace("Sandra travelled", "Sandra went")
    app.text_area(key="prompt").set_value(edited).run()
    assert app.text_input(key="needle").value == DEFAULT_NEEDLE
    assert len(picture(app)["layout"]["shapes"]) == 3 * 5
    assert not app.warning


def test_the_page_opens_at_the_head_that_reads_most_of_the_needle_and_says_why(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED)
    assert (app.slider(key="block").value, app.selectbox(key="heads").value) == (3, "1")
    made = run_code(app)
    row = np.abs(made["record"].to_numpy()["minuend"][0, 0, -1])
    share = row[21:28].sum() / row.sum()
    assert made["needle_reading"].by_head("needle_share")[3, "minuend"][1] == pytest.approx(share, rel=1e-4)
    assert max(values.max() for values in made["needle_reading"].by_head("needle_share").values()) == pytest.approx(
        share
    )
    (words,) = [text for text in captions(app) if text.startswith("The head with the largest share on the needle")]
    assert f"block 3, head 1 of the minuend: {share:.0%}" in words
    assert "the most of 288 heads" in words
    strip = figures(app)[0]
    assert strip["layout"]["xaxis"]["ticktext"][0] == "3·1"
    assert strip["data"][0]["y"][0] == pytest.approx(share)


def test_buttons_step_through_blocks_and_heads_and_every_block_opens_at_its_own_head(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED)
    app.button(key="block_next").click().run()
    assert (app.slider(key="block").value, app.selectbox(key="heads").value) == (4, "0")
    assert any(
        "Shown: block 4, head 0, of this block's the one with the largest share" in text for text in captions(app)
    )
    app.button(key="head_next").click().run()
    assert app.selectbox(key="heads").value == "1"
    app.button(key="block_before").click().run()
    assert "Block 3: hidden attention, head 1" in picture(app)["layout"]["title"]["text"]
    app.slider(key="block").set_value(0).run()
    assert app.button(key="block_before").disabled
    app.selectbox(key="heads").select("mean").run()
    assert app.button(key="head_before").disabled


def test_a_source_of_the_row_is_told_with_its_values_and_framed(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED, row="43", source_pos="26")
    minuend = run_code(app)["record"].to_numpy()["minuend"][0, 0]
    said = rf"Position 43, “\:”, reads 26, “hallway”: minuend {signed_text(minuend[43, 26], 4)}, "
    assert any(text.startswith(said) for text in texts(app.markdown))
    bodies = [html.proto.body for html in app.get("html") if "<span" in html.proto.body]
    assert [body.count("outline:") for body in bodies] == [1, 1, 1]
    frame = picture(app)["layout"]["shapes"][-1]
    assert (frame["x0"], frame["y1"]) == (25.5, 43.5)
    end, largest = (
        picture(app)["layout"]["coloraxis"]["cmax"],
        float(np.abs(run_code(app)["record"].to_numpy()["minuend"]).max()),
    )
    # Nothing lies beyond the scale, and its colours tell 68 % of it from 28 %.
    assert end >= largest * (1 - 1e-6)
    assert "tickvals" not in picture(app)["layout"]["coloraxis"]["colorbar"]
    assert any("Colours follow the root" in text for text in captions(app))
    # One scale for the picture and for the row over the text.
    said = f"the scale is that of the picture above, ±{end:.3g}; the largest"
    assert any(said in text for text in captions(app))
    colour = colour_at(SIGNED, 0.5 + 0.5 * signed_root(float(minuend[43, 26]) / end))
    assert any(f"background:{colour}" in body for body in bodies)
    app.slider(key="row").set_value(30).run()
    assert any("of what position 30 reads" in html.proto.body for html in app.get("html"))
    app.slider(key="row").set_value(20).run()
    assert not any(text.startswith("Position") for text in texts(app.markdown))


def test_a_source_that_the_row_cannot_read_is_none() -> None:
    assert readable("26", 43) == 26
    assert [readable(said, 43) for said in ("-3", "44", "x", "", "9" * 50)] == [None] * 5


def test_a_long_needle_prompt_comes_collapsed_and_its_code_gives_the_cells(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED, source="needle", length="512", block="3")
    assert app.selectbox(key="view").value == "spans"
    made = run_code(app)
    cells, figure = made["collapsed"].values, picture(app)
    for trace, name in zip(figure["data"], ("minuend", "lambda_subtrahend", "difference"), strict=True):
        assert np.array_equal(trace["z"], cells[name].numpy(), equal_nan=True)
    assert made["figure"].layout.title.text == figure["layout"]["title"]["text"]
    words = " ".join(captions(app))
    assert "of the row's magnitude falls on the others" in words
    app.selectbox(key="view").select("positions").run()
    assert "pooled 4 × 4 to the largest magnitude" in picture(app)["layout"]["title"]["text"]
    assert any("4 × 4 positions" in caption and "hold every value" in caption for caption in captions(app))
    cell = run_code(app)["record"].to_numpy()["minuend"][0, 0, 200:204, 100:104].ravel()
    assert picture(app)["data"][0]["z"][50, 25] == cell[np.abs(cell).argmax()]


def test_a_window_shows_its_cells_unpooled_and_keeps_their_positions(open_app: OpenApp) -> None:
    ids = " ".join(str(place % 90) for place in range(300))
    app = open_app("attention", ids=ids, block="2", zoom="100-149")
    trace = picture(app)["data"][0]
    assert trace["z"].shape == (50, 50)
    assert trace["x"][0] == 100
    made = run_code(app)
    assert np.array_equal(trace["z"], made["figure"].data[0].z)
    assert np.array_equal(trace["z"], made["record"].to_numpy()["minuend"][0][:, 100:150])
    assert not any("hold every value" in caption for caption in captions(app))
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
    canvas, points = picture(app)["data"]
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


def test_another_model_stands_below_at_its_own_block_and_head(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED, compared_with="model")
    assert (app.slider(key="second_block").value, app.selectbox(key="second_heads").value) == (10, "6")
    made = run_code(app)
    (trace,) = [trace for trace in picture(app)["data"] if trace["type"] == "heatmap"]
    assert np.allclose(trace["z"], made["second_record"].to_numpy()["weights"][0, 0], atol=1e-5)
    assert made["second_record"].block == 10
    assert made["record"].is_differential


def test_another_prompt_stands_below_at_the_same_head(open_app: OpenApp) -> None:
    app = open_app("attention", model=BUNDLED, compared_with="prompt")
    other = app.text_area(key="other_prompt").value
    assert "John went back to the garden." in other
    assert "John moved to the hallway." in other
    made = run_code(app)
    assert (made["second_tokens"] != made["tokens"]).sum() == 2
    assert np.allclose(picture(app)["data"][0]["z"], made["second_record"].to_numpy()["minuend"][0, 0], atol=1e-5)
    app.text_area(key="other_prompt").set_value("John").run()
    assert "compared with the same position" in complaint(app)
