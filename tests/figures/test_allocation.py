"""Bars of shares stack to one, class by class."""

import xml.etree.ElementTree as ElementTree

import pytest

from diffmamba_interp.figures.allocation import COLOURS, ShareBar, head_map_svg, share_bars_svg

SVG = "{http://www.w3.org/2000/svg}"
SHARES = {"needle": 0.3, "question": 0.02, "distractors": 0.2, "filler": 0.08, "other": 0.4}


def drawn(bars: list[ShareBar]) -> ElementTree.Element:
    return ElementTree.fromstring(share_bars_svg(bars, title="T", x_axis="length"))


def bars() -> list[ShareBar]:
    return [ShareBar(group=group, name=name, shares=SHARES) for group in ("0k", "1k") for name in ("a", "<b>")]


def boxes(figure: ElementTree.Element) -> list[ElementTree.Element]:
    return [box for box in figure.iter(f"{SVG}rect") if box.find(f"{SVG}title") is not None]


def test_every_class_has_a_box_as_high_as_its_share() -> None:
    own = boxes(drawn(bars()[:1]))
    heights = {box.get("fill"): float(box.get("height")) for box in own}
    whole = sum(heights.values())
    assert {name: heights[COLOURS[name]] / whole for name in SHARES} == pytest.approx(SHARES, abs=2e-3)


def test_what_is_irrelevant_stands_above_what_is_wanted() -> None:
    tops = {box.get("fill"): float(box.get("y")) for box in boxes(drawn(bars()[:1]))}
    order = sorted(SHARES, key=lambda name: -tops[COLOURS[name]])
    assert order == ["needle", "question", "other", "distractors", "filler"]


def test_bars_of_a_group_stand_together() -> None:
    lefts = sorted({float(box.get("x")) for box in boxes(drawn(bars()))})
    assert len(lefts) == 4
    assert lefts[1] - lefts[0] < lefts[2] - lefts[1]


def test_names_are_text_and_never_markup() -> None:
    assert "<b>" in [text.text for text in drawn(bars()).iter(f"{SVG}text")]


def test_no_bars_and_unknown_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        drawn([])
    with pytest.raises(ValueError, match="unknown classes: noise"):
        drawn([ShareBar(group="0k", name="a", shares={"noise": 1.0})])


def test_a_map_has_a_cell_for_every_head_with_its_value() -> None:
    figure = ElementTree.fromstring(head_map_svg([[0.25, -0.5, float("nan")]] * 2, title="T", note="n"))
    cells = [box.get("fill") for box in figure.iter(f"{SVG}path")]
    assert len(cells) == 6
    assert len(set(cells)) == 3
    texts = [text.text for text in figure.iter(f"{SVG}text")]
    assert texts.count("+0.25") == texts.count("-0.50") == texts.count("block 1") + 1 == 2


def test_a_map_without_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="no heads"):
        head_map_svg([], title="T", note="n")
