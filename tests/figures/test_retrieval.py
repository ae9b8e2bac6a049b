"""Figures of retrieval accuracy show every cell, its interval and chance, as Plotly figures and as SVG."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from diffmamba_interp.figures.retrieval import FAINT, accuracy_by_length, ratio_heat_map, ratio_of
from diffmamba_interp.figures.retrieval_svg import accuracy_svg, ratio_svg
from diffmamba_interp.figures.styles import length_name
from diffmamba_interp.needle.accuracy_grid import Cell, ModelAccuracy
from diffmamba_interp.needle.scoring import wilson_interval
from diffmamba_interp.statistics import paired_difference

N = 20


def cell(task: str, length: int, first: int, second: int) -> Cell:
    models = []
    for name, right in (("one <b>", first), ("other", second)):
        low, high = wilson_interval(right, N)
        models.append(
            ModelAccuracy(model=name, n_right=right, accuracy=right / N, low=low, high=high, generated=right / N)
        )
    answers = ([index < right for index in range(N)] for right in (first, second))
    difference = paired_difference(*answers)
    return Cell(
        task=task,
        length=length,
        n=N,
        chance=0.25,
        chance_mentioned=0.5,
        models=tuple(models),
        difference=difference,
    )


@pytest.fixture
def cells() -> list[Cell]:
    return [cell("qa1", 1024, 10, 19), cell("qa1", 0, 20, 20), cell("qa2", 0, 12, 3), cell("qa2", 1024, 0, 5)]


def test_curves_hold_accuracy_and_interval_of_every_cell_by_rising_length(cells: list[Cell]) -> None:
    figure = accuracy_by_length(cells)
    curve = next(trace for trace in figure.data if trace.name == "other")
    assert list(curve.x) == ["0k", "1k"]
    assert list(curve.y) == [1.0, 0.95]
    low, high = wilson_interval(19, N)
    assert curve.error_y.array[1] == pytest.approx(high - 0.95)
    assert curve.error_y.arrayminus[1] == pytest.approx(0.95 - low)
    chance = [trace for trace in figure.data if trace.name == "chance"]
    assert [list(trace.y) for trace in chance] == [[0.25, 0.25]] * 2


def test_the_ratio_is_that_of_the_second_model_to_the_first(cells: list[Cell]) -> None:
    (heat,) = ratio_heat_map(cells).data
    assert [list(row) for row in heat.text] == [["1.00", "1.90*"], ["0.25*", ""]]
    assert ratio_of(cells[2]) == 0.25
    assert ratio_of(cells[3]) is None


def test_svgs_are_whole_xml_and_show_the_cells(cells: list[Cell]) -> None:
    curves, grid = accuracy_svg(cells, title="a < b"), ratio_svg(cells, title="a < b")
    for text in (curves, grid):
        words = [element.text for element in ElementTree.fromstring(text).iter() if element.text]
        assert "a < b" in words
        assert {"qa1", "qa2", "0k", "1k"} <= set(words)
    assert curves.count("<circle") == 8
    assert {"1.90*", "0.25*", "–"} <= {e.text for e in ElementTree.fromstring(grid).iter()}


def test_other_training_seeds_are_faint_curves_of_the_same_models(cells: list[Cell]) -> None:
    others = [[cell("qa1", 0, 5, 10), cell("qa1", 1024, 4, 9), cell("qa2", 0, 1, 2), cell("qa2", 1024, 0, 0)]]
    plain, figure = accuracy_by_length(cells), accuracy_by_length(cells, others=others)
    assert len(figure.data) == len(plain.data) + 4
    faint = [trace for trace in figure.data if trace.opacity == FAINT]
    assert [list(trace.y) for trace in faint] == [[0.25, 0.2], [0.5, 0.45], [0.05, 0.0], [0.1, 0.0]]
    assert not any(trace.showlegend for trace in faint)
    drawn = ElementTree.fromstring(accuracy_svg(cells, title="", others=others))
    assert sum(element.get("opacity") == str(FAINT) for element in drawn.iter()) == 4
    assert "opacity" not in accuracy_svg(cells, title="")


def test_a_higher_accuracy_is_drawn_higher(cells: list[Cell]) -> None:
    def heights(right: int) -> set[str]:
        root = ElementTree.fromstring(accuracy_svg([cell("qa1", 0, right, right)], title=""))
        return {e.attrib["cy"] for e in root.iter() if e.tag.endswith("circle")}

    (low,), (high,) = heights(2), heights(18)
    assert float(high) < float(low)


def test_names_of_models_and_titles_are_shown_as_text(cells: list[Cell]) -> None:
    figure = accuracy_by_length(cells, title="<i>x</i>")
    assert "<i>" not in figure.layout.title.text
    assert all("<b>" not in trace.name for trace in figure.data)
    assert "<b>" not in accuracy_svg(cells, title="")


def test_lengths_are_named_as_in_the_paper() -> None:
    assert [length_name(length) for length in (0, 1024, 8192, 300)] == ["0k", "1k", "8k", "300"]


def test_no_cells_or_one_model_are_refused(cells: list[Cell]) -> None:
    with pytest.raises(ValueError, match="no cells"):
        accuracy_by_length([])
    with pytest.raises(ValueError, match="two models"):
        ratio_heat_map([replace(cells[0], models=cells[0].models[:1], difference=None)])
