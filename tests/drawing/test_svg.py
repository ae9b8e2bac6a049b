"""Drawings as SVG: every mark where its numbers say, in the drawing's colours, and the same bytes every time."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from diffmamba_interp.drawing.coordinates import x_coordinates, y_coordinates
from diffmamba_interp.drawing.panels import Axis, Bars, Drawing, Frame, Level, Line, Panel
from diffmamba_interp.drawing.svg import BAND_OPACITY, to_svg
from tests.drawing.drawings import BLUE, NAN, RED, curves, everything, heat_map, line

SVG = "{http://www.w3.org/2000/svg}"


def drawn(drawing: Drawing) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(drawing))


def points_of(path: str) -> list[tuple[float, float]]:
    """Of a path that leads from point to point, each told from the one before."""
    assert re.fullmatch(r"M[^A-Za-z]+(l[^A-Za-z]+)?", path)
    numbers = list(map(float, re.findall(r"-?(?:\d+\.?\d*|\.\d+)", path)))
    return list(zip(itertools.accumulate(numbers[::2]), itertools.accumulate(numbers[1::2]), strict=True))


def lines(figure: ElementTree.Element) -> list[ElementTree.Element]:
    """The curves, without frames and markers."""
    return [e for e in figure.iter(f"{SVG}path") if e.get("fill") == "none" and not e.get("d").endswith("z")]


def bands(figure: ElementTree.Element) -> list[ElementTree.Element]:
    return [e for e in figure.iter(f"{SVG}path") if e.get("opacity") == f"{BAND_OPACITY}"]


def polylines(figure: ElementTree.Element) -> list[tuple[str, list[tuple[float, float]]]]:
    """Colour and points of every line."""
    return [(element.get("stroke"), points_of(element.get("d"))) for element in lines(figure)]


def texts(figure: ElementTree.Element) -> dict[str, tuple[float, float]]:
    return {e.text: (float(e.get("x")), float(e.get("y"))) for e in figure.iter(f"{SVG}text") if e.get("x") and e.text}


def cells(figure: ElementTree.Element) -> list[tuple[str, tuple[float, ...]]]:
    """Colour, and left, top, right and bottom of every filled path, without those of the colour bar."""
    paths = [e for e in figure.iter(f"{SVG}path") if e.get("fill") not in (None, "none") and "H" in e.get("d")]
    return [(e.get("fill"), tuple(map(float, re.findall(r"-?[\d.]+", e.get("d"))[:4]))) for e in paths]


def test_higher_values_stand_higher_and_later_places_further_right() -> None:
    (_, points), *_ = polylines(drawn(curves([line(0.0, 1.0, 2.0)])))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 > y1 > y2
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)


def test_a_line_its_band_its_markers_and_its_legend_have_one_colour() -> None:
    figure = drawn(curves([line(1.0, 2.0, name="first"), line(3.0, 4.0, name="second", style=RED)]))
    assert [colour for colour, _ in polylines(figure)] == [BLUE.colour, RED.colour]
    assert [e.get("fill") for e in bands(figure)] == [BLUE.colour, RED.colour]
    marks = [e.get("stroke") for e in figure.iter(f"{SVG}path") if e.get("stroke-linecap")]
    assert marks == [BLUE.colour, RED.colour] * 2
    swatches = [e for e in figure.iter(f"{SVG}path") if e.get("d").endswith("h26")]
    assert [e.get("stroke") for e in swatches] == [BLUE.colour, RED.colour]
    assert texts(figure)["first"][0] < texts(figure)["second"][0]
    for drawn_as in (swatches, lines(figure)):
        assert [e.get("stroke-dasharray") for e in drawn_as] == [None, "6 4"]


def test_a_line_its_band_and_its_dots_lead_through_the_same_places() -> None:
    # So many that the steps are of ten pixels and a tenth, among others.
    values = (0.0, 0.1, 0.02, 100.0, 100.0, *range(23))
    figure = drawn(curves([line(*values, half=1.0)]))
    (_, points), (band,) = polylines(figure)[0], bands(figure)
    outline = points_of(band.get("d"))
    high, low = outline[:28], outline[:27:-1]
    assert [b - a for (a, _), (b, _) in itertools.pairwise(points)] == pytest.approx([10.07] * 27, abs=0.1)
    for side in (high, low):
        assert [x for x, _ in side] == pytest.approx([x for x, _ in points])
    assert all(a < b < c for (_, a), (_, b), (_, c) in zip(high, points, low, strict=True))
    (_, dots) = [e.get("d") for e in figure.iter(f"{SVG}path") if e.get("stroke-linecap")]
    assert dots.count("h0") == len(values)
    assert points_of(dots.removesuffix("h0").replace("h0m", "l", 1).replace("h0m", " ")) == points
    levels = texts(figure)
    assert points[0][1] - points[3][1] == pytest.approx(levels["0"][1] - levels["100"][1], abs=0.15)


def test_a_missing_value_splits_the_line() -> None:
    figure = drawn(curves([line(0.0, NAN, 2.0, 3.0)]))
    assert [len(points) for _, points in polylines(figure)] == [1, 2]
    assert "nan" not in ElementTree.tostring(figure, encoding="unicode")


def test_panels_share_a_scale_and_take_several_rows() -> None:
    figure = drawn(curves([line(1.0), line(2.0)], *[[line(2.0)]] * 3))
    heights = [points[0][1] for _, points in polylines(figure)]
    assert heights[1] == heights[2] == heights[3] < heights[0]
    assert heights[4] > heights[3]
    own = drawn(curves([line(1.0), line(2.0)], [line(200.0)], shared_y=False))
    assert "200" in texts(own)


def test_categories_of_a_panel_stand_at_equal_distances() -> None:
    marks = [Line(name="a", x=["0k", "8k", "64k"], y=[1.0, 2.0, 3.0], style=BLUE)]
    (_, points), places = polylines(drawn(curves(marks)))[0], texts(drawn(curves(marks)))
    assert [places[name][0] for name in ("0k", "8k", "64k")] == pytest.approx([x for x, _ in points], abs=0.2)


def test_a_logarithmic_axis_has_decades_and_no_place_for_zero() -> None:
    figure = drawn(curves([line(1e-3, 0.0, 1e-1, half=0.0)], y=Axis(kind="log")))
    (_, [(_, low)]), (_, [(_, high)]) = polylines(figure)
    assert low > high
    levels = texts(figure)
    assert levels["0.001"][1] - levels["0.01"][1] == pytest.approx(levels["0.01"][1] - levels["0.1"][1], abs=0.2)


def test_what_lies_beyond_the_limits_is_drawn_at_them() -> None:
    figure = drawn(curves([line(-9.0, 0.0, 9.0)], y=Axis(limits=(-1.0, 1.0))))
    (_, points) = polylines(figure)[0]
    levels = texts(figure)
    assert [y for _, y in points] == pytest.approx(
        [levels["-1"][1] - 4, levels["0"][1] - 4, levels["1"][1] - 4], abs=0.2
    )


@pytest.mark.parametrize("values", [(0.3, 0.3, 0.3), (-5.0, 5.0, 0.0), (1e-4, 2e-4, 3e-4), (1e4, 3e4, 2e4)])
def test_the_scale_holds_every_interval_with_a_few_round_levels(values: tuple[float, ...]) -> None:
    figure = drawn(curves([line(*values, half=abs(values[0]) / 10)]))
    levels = [float(text.text) for text in figure.findall(f"{SVG}g[@text-anchor='end']/{SVG}text")]
    assert 2 <= len(levels) <= 9
    assert levels[0] <= min(values)
    assert levels[-1] >= max(values)
    assert all(math.isfinite(level) for level in levels)


def test_every_name_of_the_legend_lies_inside_the_figure() -> None:
    figure = drawn(curves([line(0.0, 1.0, name=f"a rather long name {i}") for i in range(5)]))
    width = float(figure.get("viewBox").split()[2])
    places = [place for text, place in texts(figure).items() if text.startswith("a rather")]
    assert len(places) == 5
    assert max(x for x, _ in places) < width - 100


def test_cells_have_the_colours_of_their_values_and_the_first_row_stands_on_top() -> None:
    figure = drawn(heat_map())
    found, places = cells(figure), texts(figure)
    assert [colour for colour, _ in found] == ["#053061", "#F7F7F7", "#67001F", "#E58268", "#67001F"]
    assert places["up"][1] < places["down"][1]
    assert places["minus"][0] < places["zero"][0] < places["plus"][0]
    for text, (_, (left, top, right, bottom)) in zip(("minus", "zero", "plus", "half", "one"), found, strict=True):
        x, y = places[text]
        assert left < x < right
        assert top < y < bottom
    assert places["what"][1] < places["it is"][1]


def test_the_colour_bar_runs_from_the_low_end_below_to_the_high_end_above() -> None:
    figure = drawn(heat_map())
    bar = [(e.get("fill"), e.get("d")) for e in figure.iter(f"{SVG}path") if e.get("d").endswith("h-12")]
    heights = [float(re.findall(r"-?[\d.]+", path)[1]) for _, path in bar]
    assert heights == sorted(heights, reverse=True)
    assert (bar[0][0], bar[-1][0]) == ("#053061", "#67001F")
    low, middle, high = (texts(figure)[label][1] for label in ("-1", "0", "1"))
    assert low > middle > high


def test_the_middle_of_a_cell_is_its_place() -> None:
    figure = drawn(heat_map())
    at = texts(figure)
    first = cells(figure)[0][1]
    left, top, right, bottom = first
    assert (left + right) / 2 == pytest.approx(at["l"][0], abs=0.2)
    # A label's base line lies a little below its middle.
    assert (top + bottom) / 2 == pytest.approx(at["up"][1] - 4, abs=0.2)


def test_neighbouring_cells_of_one_colour_are_one_path() -> None:
    figure = drawn(replace(everything(), panels=everything().panels[:1]))
    assert len(cells(figure)) == 7


def test_bars_stand_on_their_bases_in_their_colours_with_their_notes() -> None:
    lower = Bars(name="low", x=["a"], y=[0.25], colours=["#111111"], text=["25"], notes=["a: low"])
    upper = Bars(name="high", x=["a"], y=[0.75], base=[0.25], colours=["#E69F00"], text=["75"])
    figure = drawn(curves([lower, upper], y=Axis(limits=(0.0, 1.0))))
    boxes = [
        e for e in figure.iter(f"{SVG}rect") if e.get("fill") in ("#111111", "#E69F00") and e.get("height") != "11"
    ]
    (bottom, top) = boxes
    assert float(top.get("height")) == pytest.approx(3 * float(bottom.get("height")), abs=0.2)
    assert float(top.get("y")) + float(top.get("height")) == pytest.approx(float(bottom.get("y")), abs=0.2)
    assert bottom.find(f"{SVG}title").text == "a: low"
    assert {"25", "75", "low", "high"} <= set(texts(figure))


def test_every_kind_of_mark_is_drawn() -> None:
    figure = drawn(everything())
    frames = [e for e in figure.iter(f"{SVG}path") if e.get("fill") == "none"]
    assert [(e.get("stroke"), e.get("stroke-width")) for e in frames] == [("#CC79A7", "2"), ("#E69F00", "3")]
    assert sum(e.get("stroke") == "#666666" for e in figure.iter(f"{SVG}path")) == 2
    assert {"T <&>", "below", "a note", "one", "two", "frame", "bar", "value"} <= set(texts(figure))


def test_hollow_markers_are_white_inside() -> None:
    figure = drawn(curves([line(1.0, 2.0, hollow=[True, False])], has_legend=False))
    hollow = [e for e in figure.iter(f"{SVG}path") if e.get("fill") == "white"]
    assert [e.get("stroke") for e in hollow] == [BLUE.colour]


def test_text_is_text_and_never_markup() -> None:
    figure = drawn(curves([line(1.0, name="<b>\x00")], title="T <&>"))
    assert {"T <&>", "<b> "} <= set(texts(figure))


def test_the_same_drawing_gives_the_same_bytes() -> None:
    assert to_svg(everything()) == to_svg(everything())
    assert to_svg(curves([line(1.0)])).isascii()


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="no points"):
        to_svg(curves([line(NAN, NAN)]))
    with pytest.raises(ValueError, match="no points"):
        to_svg(curves([Level(at=NAN, colour="#666666")]))


def test_a_frame_around_every_cell_makes_the_panel_no_larger() -> None:
    cells_of = heat_map()
    (map_,) = cells_of.panels[0].marks[:1]
    columns, rows = len(map_.x), len(map_.y)
    frame = Frame(name="all", x=(-0.5, columns - 0.5), y=(-0.5, rows - 0.5), colour=RED.colour)
    places = replace(map_, x=list(range(columns)), y=list(range(rows)))
    framed = replace(cells_of, panels=[Panel(marks=[places, frame])])
    assert (x_coordinates(framed, framed.panels[0]).low, x_coordinates(framed, framed.panels[0]).high) == frame.x
    assert (y_coordinates(framed)[0].low, y_coordinates(framed)[0].high) == frame.y
