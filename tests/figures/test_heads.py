"""Maps of heads: a panel for each branch, rows of blocks in their order, the right scale; and the largest first."""

import numpy as np
import pytest

from diffmamba_interp.drawing.colours import BRANCHES, MAGNITUDE, SIGNED, faded
from diffmamba_interp.drawing.panels import Bars, HeatMap, Level
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.heads import (
    FADED,
    NAMES,
    RankedHead,
    head_ranking_drawing,
    head_scores_csv,
    head_scores_drawing,
    head_scores_figure,
    ranked_heads,
)
from diffmamba_interp.implicit_attention import DEFINITIONS, HeadScores

NAN = np.nan


@pytest.fixture
def scores() -> HeadScores:
    """Two samples; block 1 is plain and has three heads."""
    first = [[0.2, 0.4, NAN], [0.1, 0.0, NAN], [0.3, NAN, 0.9], [0.6, 0.5, NAN]]
    second = [[0.4, 0.4, NAN], [0.1, 0.0, NAN], [0.5, NAN, 0.7], [0.6, NAN, NAN]]
    values = np.array([first, second])
    return HeadScores(
        rows=((0, "minuend"), (0, "subtrahend"), (1, None), (2, "minuend")),
        n_heads=(2, 2, 3, 2),
        values={"sink_share": values, "redundancy": values - 0.5},
        uniform={"sink_share": np.array([0.1, 0.3])},
    )


def test_plain_blocks_and_each_branch_have_a_panel_with_their_blocks_from_above(scores: HeadScores) -> None:
    drawing = head_scores_drawing(scores, "sink_share")
    assert [panel.title for panel in drawing.panels] == ["plain blocks", "minuend", "subtrahend (without λ)"]
    maps = list(drawing.marks(HeatMap))
    assert [list(heat.y) for heat in maps] == [["1"], ["0", "2"], ["0"]]
    np.testing.assert_allclose(maps[0].values, [[0.4, NAN, 0.8]])
    np.testing.assert_allclose(maps[1].values, [[0.3, 0.4], [0.6, 0.5]])
    assert maps[1].notes is not None
    assert maps[1].notes[1][0] == "block 2, minuend, head 0: 0.6"
    assert drawing.y.backwards
    assert not drawing.shared_y
    assert drawing.note == DEFINITIONS["sink_share"]


def test_a_cosine_has_the_signed_scale_and_a_share_begins_at_zero(scores: HeadScores) -> None:
    share, cosine = (head_scores_drawing(scores, measure).scale for measure in ("sink_share", "redundancy"))
    assert share is not None
    assert cosine is not None
    assert (share.low, share.high, share.colours, share.title) == (0.0, pytest.approx(0.8), MAGNITUDE, "sink share")
    assert (cosine.low, cosine.high, cosine.colours) == (pytest.approx(-0.5), pytest.approx(0.5), SIGNED)


def test_the_figure_and_the_picture_hold_the_same_numbers(scores: HeadScores) -> None:
    figure = head_scores_figure(scores, "sink_share", title="T")
    np.testing.assert_allclose(figure.data[1].z, [[0.3, 0.4], [0.6, 0.5]])
    assert figure.layout.title.text == "T"
    assert "plain blocks" in to_svg(head_scores_drawing(scores, "sink_share"))
    with pytest.raises(KeyError, match="no measure 'gather'"):
        head_scores_drawing(scores, "gather")


def test_heads_are_ranked_by_their_means_and_those_without_one_left_out(scores: HeadScores) -> None:
    ranked = ranked_heads(scores, "sink_share", 3)
    assert [(head.block, head.branch, head.head) for head in ranked] == [
        (1, None, 2),
        (2, "minuend", 0),
        (2, "minuend", 1),
    ]
    assert ranked[1] == RankedHead(block=2, branch="minuend", head=0, value=0.6)
    assert len(ranked_heads(scores, "sink_share", 99)) == 8


def test_every_head_has_a_line_of_the_table(scores: HeadScores) -> None:
    lines = head_scores_csv(scores).splitlines()
    assert lines[0] == "block,branch,head,sink_share,redundancy"
    assert len(lines) == 1 + 9
    assert lines[5].startswith("1,,0,0.4")


def test_every_measure_has_a_name_and_a_definition() -> None:
    assert set(NAMES) == set(DEFINITIONS)


def test_the_ranking_has_the_largest_first_in_its_branchs_colour_and_fades_what_is_not_shown(
    scores: HeadScores,
) -> None:
    drawing = head_ranking_drawing(scores, "sink_share", n=5, shown=(2, 0))
    bars = {bar.name: bar for bar in drawing.marks(Bars)}
    assert list(drawing.x.ticks.values()) == ["1·2", "2·0", "2·1", "0·1", "1·0"]
    assert bars["plain blocks"].x == [0, 4]
    assert bars["minuend"].x == [1, 2, 3]
    assert bars["minuend"].y == pytest.approx([0.6, 0.5, 0.4])
    assert bars["minuend"].colours == [BRANCHES["minuend"].colour, *[faded(BRANCHES["minuend"].colour, FADED)] * 2]
    assert bars["minuend"].notes[0] == "block 2, minuend, head 0"
    (level,) = drawing.marks(Level)
    assert level.at == pytest.approx(0.2)
    assert to_svg(drawing).startswith("<svg")
