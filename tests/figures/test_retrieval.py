"""Figures of retrieval accuracy show every cell, its interval and chance, and who is better in which colour."""

from dataclasses import replace

import numpy as np
import pytest

from diffmamba_interp.drawing.colours import GREY, MODELS, colour_at
from diffmamba_interp.drawing.panels import HeatMap, Line
from diffmamba_interp.figures.retrieval import (
    FAINT,
    accuracy_by_length,
    accuracy_drawing,
    ratio_drawing,
    ratio_heat_map,
    ratio_of,
)
from diffmamba_interp.needle.accuracy_grid import Cell, ModelAccuracy
from diffmamba_interp.needle.scoring import wilson_interval
from diffmamba_interp.statistics import paired_difference

N = 20


def cell(task: str, length: int, first: int, second: int) -> Cell:
    models = []
    for name, right in (("mamba2", first), ("bundled:diff-mamba2", second)):
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


def test_every_model_has_its_own_accuracies_and_intervals_in_its_own_colour(cells: list[Cell]) -> None:
    drawing = accuracy_drawing(cells)
    assert [panel.title for panel in drawing.panels] == ["qa1", "qa2"]
    right = {"mamba2": [[20, 10], [12, 0]], "diff-mamba2": [[20, 19], [3, 5]]}
    for name, by_task in right.items():
        lines = [mark for mark in drawing.marks(Line) if mark.name == name]
        assert [line.y for line in lines] == [[n / N for n in counts] for counts in by_task]
        ends = [[wilson_interval(n, N) for n in counts] for counts in by_task]
        assert [list(zip(line.low, line.high, strict=True)) for line in lines] == ends
        assert {line.style for line in lines} == {MODELS[name]}
        assert all(line.x == ["0k", "1k"] for line in lines)


def test_the_legend_names_the_models_in_order_and_then_chance(cells: list[Cell]) -> None:
    legend = accuracy_drawing(cells).legend
    looks = [(name, mark.style.colour) for name, mark in legend.items()]
    assert looks == [("mamba2", "#0072B2"), ("diff-mamba2", "#D55E00"), ("chance", GREY)]
    assert legend["chance"].y == [0.25, 0.25]
    assert legend["chance"].low is None


def test_other_training_seeds_are_faint_curves_of_the_same_models(cells: list[Cell]) -> None:
    others = [[cell("qa1", 0, 5, 10), cell("qa1", 1024, 4, 9), cell("qa2", 0, 1, 2), cell("qa2", 1024, 0, 0)]]
    faint = [line for line in accuracy_drawing(cells, others=others).marks(Line) if line.opacity == FAINT]
    assert [(line.name, line.y) for line in faint] == [
        ("mamba2", [0.25, 0.2]), ("diff-mamba2", [0.5, 0.45]), ("mamba2", [0.05, 0.0]), ("diff-mamba2", [0.1, 0.0]),
    ]  # fmt: skip
    assert all(line.style == MODELS[line.name] and not line.markers for line in faint)
    assert not any(line.opacity == FAINT for line in accuracy_drawing(cells).marks(Line))
    assert accuracy_drawing(cells, others=others).legend == accuracy_drawing(cells).legend


def test_the_ratio_is_that_of_the_second_model_to_the_first(cells: list[Cell]) -> None:
    drawing = ratio_drawing(cells)
    (heat,) = drawing.marks(HeatMap)
    assert heat.text == [["1.00", "1.90*"], ["0.25*", "–"]]
    assert np.allclose(heat.values, [[0.0, np.log2(1.9)], [-2.0, np.nan]], equal_nan=True)
    assert (heat.y, heat.x, drawing.y.backwards) == (["qa1", "qa2"], ["0k", "1k"], True)
    assert drawing.scale.title == "diff-mamba2 /\nmamba2"
    assert drawing.scale.ticks == {-1.0: "½", 0.0: "1", 1.0: "2"}
    assert ratio_of(cells[2]) == 0.25
    assert ratio_of(cells[3]) is None


def test_a_cell_is_red_where_the_second_model_is_better_and_blue_where_the_first_is(cells: list[Cell]) -> None:
    drawing = ratio_drawing(cells)
    (heat,) = drawing.marks(HeatMap)
    tie, better, worse = (
        int(colour_at(drawing.scale.colours, drawing.scale.share(value))[1:], 16)
        for value in (heat.values[0, 0], heat.values[0, 1], heat.values[1, 0])
    )
    assert better >> 16 > better & 255
    assert worse >> 16 < worse & 255
    assert tie >> 16 == tie & 255


def test_the_figures_are_the_drawings(cells: list[Cell]) -> None:
    curve = next(trace for trace in accuracy_by_length(cells).data if trace.name == "diff-mamba2")
    assert (list(curve.x), list(curve.y)) == (["0k", "1k"], [1.0, 0.95])
    heat, *words = ratio_heat_map(cells).data
    assert [list(row) for row in heat.text] == [["1.00", "1.90*"], ["0.25*", "–"]]
    assert {word for ink in words for word in ink.text} == {"1.00", "1.90*", "0.25*", "–"}


def test_no_cells_or_one_model_are_refused(cells: list[Cell]) -> None:
    with pytest.raises(ValueError, match="no cells"):
        accuracy_by_length([])
    with pytest.raises(ValueError, match="two models"):
        ratio_heat_map([replace(cells[0], models=cells[0].models[:1], difference=None)])
