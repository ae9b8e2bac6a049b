"""Curves as SVG: every point and band is there, on one scale, and gaps stay gaps."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from diffmamba_interp.figures.curves_svg import Curve, Panel, curves_svg

NAN = float("nan")
SVG = "{http://www.w3.org/2000/svg}"


def drawn(panels: list[Panel], **options: tuple[float, float]) -> ElementTree.Element:
    return ElementTree.fromstring(curves_svg(panels, title="T <&>", x_axis="x", y_axis="y", **options))


def panel(*curves: Curve, title: str = "one", n: int = 3) -> Panel:
    return Panel(title=title, ticks=[str(i) for i in range(n)], curves=curves)


def curve(*values: float, name: str = "a", half: float = 0.1) -> Curve:
    return Curve(name=name, points=[(value, value - half, value + half) for value in values])


def dots(figure: ElementTree.Element) -> list[tuple[str, float]]:
    """Colour and height of every dot: a line of no length with round ends."""
    found = []
    for group in figure.iter(f"{SVG}g"):
        for line in group.iter(f"{SVG}path"):
            if line.get("stroke-linecap") == "round":
                starts = line.get("d").removesuffix("h0").split("h0")
                found += [(group.get("stroke"), float(start.split(",")[1])) for start in starts]
    return found


def test_every_point_has_a_dot_at_its_height() -> None:
    heights = [height for _, height in dots(drawn([panel(curve(0.0, 1.0, 2.0))]))]
    assert len(heights) == 3
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert heights[0] > heights[2]


def test_a_missing_value_splits_the_curve() -> None:
    figure = drawn([panel(curve(0.0, NAN, 2.0, 3.0), n=4)])
    lines = [line.get("points").split() for line in figure.iter(f"{SVG}polyline")]
    assert [len(line) for line in lines] == [1, 2]
    assert "nan" not in ElementTree.tostring(figure, encoding="unicode")


def test_panels_share_a_scale_and_names_keep_their_colour() -> None:
    figure = drawn([panel(curve(1.0, 1.0, 1.0), curve(2.0, 2.0, 2.0, name="b")), panel(curve(2.0, 2.0, 2.0, name="b"))])
    found = dots(figure)
    assert len(found) == 9
    assert found[3:6] == found[6:9]
    assert found[0] != found[3]


def test_many_panels_take_several_rows() -> None:
    one, four = (drawn([panel(curve(0.0, 1.0, 2.0))] * n).get("viewBox").split() for n in (3, 4))
    assert one[2] == four[2]
    assert int(four[3]) > int(one[3])


def test_every_name_of_the_legend_lies_inside_the_figure() -> None:
    figure = drawn([panel(*(curve(0.0, 1.0, 2.0, name=f"name {i}") for i in range(5)))])
    width = float(figure.get("viewBox").split()[2])
    places = {
        text.text: float(text.get("x")) for text in figure.iter(f"{SVG}text") if (text.text or "").startswith("name")
    }
    assert len(places) == 5
    assert max(places.values()) < width - 60


def test_titles_are_text_and_never_markup() -> None:
    texts = [text.text for text in drawn([panel(curve(0.0, 1.0, 2.0), title="<b>")]).iter(f"{SVG}text")]
    assert {"T <&>", "<b>"} <= set(texts)


@pytest.mark.parametrize("values", [(0.3, 0.3, 0.3), (-5.0, 5.0, 0.0), (1e-4, 2e-4, 3e-4), (1e4, 3e4, 2e4)])
def test_the_scale_holds_every_interval_with_a_few_round_levels(values: tuple[float, ...]) -> None:
    figure = drawn([panel(curve(*values, half=abs(values[0]) / 10))])
    levels = [float(text.text) for text in figure.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    assert 2 <= len(levels) <= 9
    assert levels[0] <= min(values)
    assert levels[-1] >= max(values)
    assert all(math.isfinite(level) for level in levels)


def test_nothing_to_draw_and_curves_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="no points"):
        drawn([panel(curve(NAN, NAN, NAN))])
    with pytest.raises(ValueError, match="3 ticks"):
        drawn([panel(curve(0.0, 1.0))])
