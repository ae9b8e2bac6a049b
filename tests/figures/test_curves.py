"""Curves side by side: each name with its own points and look, on one scale."""

import pytest

from diffmamba_interp.drawing.colours import MODELS, SPANS, Style
from diffmamba_interp.drawing.panels import Level, Line
from diffmamba_interp.figures.curves import Curves, curves_drawing

LOSSES = {"mamba2": [(1.0, 0.9, 1.1), (2.0, 1.9, 2.1)], "diff-mamba2": [(3.0, 2.9, 3.1), (4.0, 3.9, 4.1)]}


def drawn(*panels: dict, **more):
    made = [Curves(title=str(number), ticks=["0k", "1k"], points=points) for number, points in enumerate(panels)]
    return curves_drawing(made, title="t", x_axis="length", y_axis="loss", **more)


def test_every_curve_has_its_points_under_its_name_in_its_colour() -> None:
    drawing = drawn(LOSSES)
    for name, line in drawing.legend.items():
        assert list(zip(line.y, line.low, line.high, strict=True)) == LOSSES[name]
        assert line.style == MODELS[name]
        assert line.x == ["0k", "1k"]
    assert list(drawing.legend) == ["mamba2", "diff-mamba2"]


def test_a_name_has_one_look_in_all_panels_whatever_their_order() -> None:
    drawing = drawn(LOSSES, dict(reversed(LOSSES.items())), {"x": LOSSES["mamba2"], "needle": LOSSES["mamba2"]})
    looks = {(line.name, line.style.colour) for line in drawing.marks(Line)}
    assert len(looks) == len({name for name, _ in looks}) == len({colour for _, colour in looks}) == 4
    assert ("needle", SPANS["needle"].colour) in looks
    assert [panel.title for panel in drawing.panels] == ["0", "1", "2"]


def test_names_are_those_that_readers_know() -> None:
    assert list(drawn({"lambda_subtrahend": LOSSES["mamba2"]}).legend) == ["λ · subtrahend"]


def test_zero_is_marked_where_something_lies_below_it() -> None:
    assert not list(drawn(LOSSES).marks(Level))
    (level,) = drawn({"a": [(0.1, -0.1, 0.3), (1.0, 0.9, 1.1)]}).marks(Level)
    assert (level.at, level.axis) == (0.0, "y")


def test_limits_axes_and_looks_of_ones_own_are_taken() -> None:
    own = Style(colour="#123456")
    drawing = drawn({"x": LOSSES["mamba2"]}, y_limits=(0.0, 1.0), styles={"x": own})
    assert (drawing.y.limits, drawing.x.title, drawing.y.title) == ((0.0, 1.0), "length", "loss")
    assert drawing.legend["x"].style == own


def test_a_curve_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 points, but there are 2 places"):
        drawn({"a": [(0.0, 0.0, 0.0)]})
