"""Attention page: spans marked, collapsed by span, cut to a window, every head at a glance."""

import numpy as np
import pytest

from app.attention_pictures import collapsed, thumbnails_figure
from app.prompt_spans import segments
from diffmamba_interp import DifferentialConfig
from diffmamba_interp.implicit_attention import extract_attention
from diffmamba_interp.implicit_attention.spans import Spans
from tests.app.conftest import IDS, OpenApp, complaint, drawn, run_code, texts
from tests.models.tiny import random_tokens, tiny_model

BUNDLED = "bundled:diff-mamba2"
SPANS = Spans(needle=((2, 4),), question=((6, 8),))


def test_a_collapsed_cell_is_the_sum_over_sources_and_the_mean_over_destinations() -> None:
    picture = np.tril(np.arange(64, dtype=np.float32).reshape(8, 8))
    cut = segments(SPANS, 0, 7)
    assert cut == [("", 0, 2), ("needle", 2, 4), ("", 4, 6), ("question", 6, 8)]
    cells = collapsed(picture, np.arange(8), cut)
    for row, (_, top, bottom) in enumerate(cut):
        for column, (_, left, right) in enumerate(cut):
            assert cells[row, column] == pytest.approx(picture[top:bottom, left:right].sum() / (bottom - top))


def test_a_collapsed_row_adds_up_to_what_its_destinations_read() -> None:
    picture = np.tril(np.random.default_rng(0).normal(size=(8, 8)))
    cells = collapsed(picture, np.arange(8), segments(SPANS, 0, 7))
    assert cells[1].sum() == pytest.approx(picture[2:4].sum(axis=1).mean())


def test_a_segment_whose_rows_are_not_there_is_left_empty() -> None:
    cells = collapsed(np.ones((2, 8)), np.array([6, 7]), segments(SPANS, 0, 7))
    assert np.isnan(cells[:3]).all()
    assert np.isfinite(cells[3]).all()


def test_every_head_has_its_thumbnail_and_a_point_to_click() -> None:
    record = extract_attention(tiny_model(DifferentialConfig(placement=(0,))), random_tokens(1, 6), 0)
    canvas, points = thumbnails_figure(record, title="").data
    assert {int(head) for head, _ in points.customdata} == set(record.heads)
    assert len(points.x) == 3 * len(record.heads)
    for x, y, (head, name) in zip(points.x, points.y, points.customdata, strict=True):
        tile = canvas.z[int(y) - 5 : int(y) + 1, int(x) - 5 : int(x) + 1]
        assert np.allclose(tile, record.pictures[name][0, int(head)].numpy()), (head, name)


def test_the_ready_prompt_has_its_needle_question_and_distractors_framed(open_app: OpenApp) -> None:
    figure = drawn(open_app("attention", model=BUNDLED))
    assert {"needle", "question", "distractors"} <= {trace.get("name") for trace in figure["data"]}
    assert len(figure["layout"]["shapes"]) == 3 * 6


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
    cells = run_code(app)["collapsed"]
    for trace, name in zip(drawn(app)["data"], ("minuend", "subtrahend", "difference"), strict=True):
        assert np.allclose(trace["z"], cells[name], atol=1e-6)
    words = " ".join(texts(app.caption))
    assert "of the row's magnitude falls on the others" in words
    app.selectbox(key="view").select("positions").run()
    assert "pooled" in drawn(app)["layout"]["title"]["text"]


def test_a_window_shows_its_cells_unpooled_and_keeps_their_positions(open_app: OpenApp) -> None:
    ids = " ".join(str(place % 90) for place in range(300))
    app = open_app("attention", ids=ids, block="2", zoom="100-149")
    trace = drawn(app)["data"][0]
    assert trace["z"].shape == (50, 50)
    assert trace["x0"] == 100
    whole = run_code(app)["figure"].data[0].z
    assert np.array_equal(trace["z"], whole[:, 100:150])
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
    assert np.allclose(canvas["z"][:11, :11], made["figures"][0].data[0].z, atol=1e-6)


def test_norms_are_of_whole_vectors_so_no_heads_are_offered(open_app: OpenApp) -> None:
    app = open_app("attention", ids=IDS, kind="contribution_norm")
    assert app.selectbox(key="view").options == ["by position", "collapsed by span"]
