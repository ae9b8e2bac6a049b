"""A figure as data: legends, differences, scales and ticks, before anything is drawn."""

import numpy as np
import pytest

from diffmamba_interp.drawing.colours import Style
from diffmamba_interp.drawing.labels import length_name, short_stage, token_label
from diffmamba_interp.drawing.panels import (
    LEAST_END,
    Bars,
    Drawing,
    Frame,
    Line,
    Panel,
    minus,
    runs,
    scale_end,
    symmetric,
    ticks_at,
)

NAN = float("nan")


def line(name: str, colour: str = "#0072B2") -> Line:
    return Line(name=name, x=[0.0, 1.0], y=[0.0, 1.0], style=Style(colour=colour))


def test_every_name_stands_in_the_legend_once_in_the_order_in_which_it_is_met() -> None:
    bars = Bars(name="bars", x=["a"], y=[1.0], colours=["#222222"])
    frame = Frame(name="frame", x=(0.0, 1.0), y=(0.0, 1.0), colour="#E69F00")
    first, second = line("one"), line("two", "#D55E00")
    drawing = Drawing(panels=[Panel(marks=[first, line("")]), Panel(marks=[second, line("one"), bars, frame])])
    assert drawing.legend == {"one": first, "two": second, "bars": bars, "frame": frame}
    assert list(Drawing(panels=drawing.panels, has_legend=False).legend) == []


def test_a_difference_is_called_model_minus_baseline() -> None:
    assert minus("diff-mamba2", "mamba2") == "diff-mamba2 − mamba2"


def test_a_line_has_one_value_for_every_place() -> None:
    with pytest.raises(ValueError, match="a has 1 points, but there are 2 places"):
        Line(name="a", x=["0", "1"], y=[1.0], style=Style(colour="#222222"))


def test_points_become_values_and_their_intervals() -> None:
    made = Line.of_points("a", ["0", "1"], [(1.0, 0.5, 2.0), (3.0, 2.5, 4.0)], Style(colour="#222222"))
    assert (made.y, made.low, made.high) == ([1.0, 3.0], [0.5, 2.5], [2.0, 4.0])


def test_a_scale_ends_at_a_quantile_of_what_is_not_zero_and_a_signed_one_is_symmetric() -> None:
    values = [np.array([0.0, 0.0, -1.0, np.nan]), np.array([2.0, 3.0])]
    assert scale_end(values) == 3.0
    assert scale_end(values, 0.5) == 2.0
    assert scale_end([np.zeros(3)]) == 1.0
    scale = symmetric("x", values)
    assert (scale.low, scale.high) == (-3.0, 3.0)
    assert symmetric("x", [np.array([0.001, -0.002])], least=LEAST_END).high == LEAST_END
    assert symmetric("x", [np.array([0.001, -2.0])], least=LEAST_END).high == 2.0
    assert (scale.share(-3.0), scale.share(0.0), scale.share(3.0)) == (0.0, 0.5, 1.0)
    rooted = symmetric("x", values, rooted=True)
    assert [rooted.share(value) for value in (-3.0, -0.75, 0.0, 3.0)] == pytest.approx([0.0, 0.25, 0.5, 1.0])
    for one in (scale, rooted):
        assert [one.share(one.value_at(share)) for share in (0.0, 0.3, 1.0)] == pytest.approx([0.0, 0.3, 1.0])


@pytest.mark.parametrize(("n", "step"), [(5, 1), (17, 2), (80, 5), (512, 50)])
def test_ticks_stand_at_round_distances(n: int, step: int) -> None:
    ticks = ticks_at([str(place) for place in range(n)], at_most=16, first=100)
    assert list(ticks.items())[:2] == [(100.0, "0"), (100.0 + step, str(step))]
    assert len(ticks) <= 16


def test_stretches_end_where_a_value_is_missing() -> None:
    assert runs([NAN, 1.0, 2.0, NAN, NAN, 3.0]) == [[1, 2], [5]]


def test_tokens_are_shown_as_they_are_with_what_cannot_be_seen_made_visible() -> None:
    assert token_label(" the\n") == "␣the⏎"
    assert token_label("a\x00b\u202ec") == "a\\u0000b\\u202ec"
    assert token_label('<b> & "x"') == '<b>␣&␣"x"'
    assert len(token_label("x" * 99)) == 24
    assert token_label("abcdef", at_most=4) == "abc…"


def test_lengths_are_named_as_in_the_paper_and_stages_shortly() -> None:
    assert [length_name(length) for length in (0, 1024, 8192, 300)] == ["0k", "1k", "8k", "300"]
    assert [short_stage(stage) for stage in ("embedding", "after block 3", "output")] == ["emb.", "3", "out"]
