"""Figures of faithfulness hold the record's means and areas, in its order, baselines in grey."""

import numpy as np
import pytest

from diffmamba_interp.drawing.colours import GREY, MODELS
from diffmamba_interp.drawing.panels import Level, Line
from diffmamba_interp.figures.faithfulness import (
    areas_drawing,
    areas_figure,
    faithfulness_drawing,
    faithfulness_figure,
)
from diffmamba_interp.interventions import FaithfulnessRecord
from diffmamba_interp.statistics import bootstrap

RANKINGS = ("hidden", "mine", "random", "recency")


def record_of(n: int = 6) -> FaithfulnessRecord:
    generator = np.random.default_rng(0)
    falling = np.linspace(1.0, 0.0, 3) + 0.1 * generator.normal(size=(n, 4, 3))
    return FaithfulnessRecord(
        reading="label_probability",
        unit="probability",
        rankings=RANKINGS,
        fractions=(0.0, 0.25, 1.0),
        level="write",
        n_sources=(8,) * n,
        deletion=falling,
        insertion=falling[..., ::-1] + np.array([0.5, 0.0, 0.0, -0.5])[:, None],
    )


def test_curves_are_means_over_prompts_in_two_panels_of_one_legend() -> None:
    record = record_of()
    drawing = faithfulness_drawing(record)
    for panel, curves in zip(drawing.panels, (record.deletion, record.insertion), strict=True):
        lines = [mark for mark in panel.marks if isinstance(mark, Line)]
        assert [line.name for line in lines] == ["hidden attention", "mine", "random", "recency"]
        for row, line in enumerate(lines):
            assert np.allclose(line.y, curves[:, row].mean(axis=0))
            assert np.all(np.array(line.low) <= line.y)
            assert list(line.x) == [0.0, 0.25, 1.0]
    assert drawing.panels[0].title == "taken out, the highest first"
    assert list(drawing.legend) == ["hidden attention", "mine", "random", "recency"]
    assert [line.style.colour for line in drawing.panels[0].marks[2:]] == [GREY, GREY]
    assert GREY not in [line.style.colour for line in drawing.panels[0].marks[:2]]
    assert (drawing.y.title, drawing.subtitle[:5]) == ("label probability", "n = 6")
    assert len(faithfulness_figure(record_of(1)).data) == 8


def test_areas_are_set_against_random_with_one_colour_per_model() -> None:
    record = record_of(12)
    areas = record.areas(n_resamples=200)
    drawing = areas_drawing({"mamba2": areas, "diff-mamba2": areas}, unit="probability")
    plain, differential = drawing.marks(Line)
    assert plain.x == ["hidden attention", "mine", "recency"]
    over = record.gap - record.gap[:, [2]]
    expected = bootstrap(over, n_resamples=200)
    assert np.allclose(plain.y, expected.value[[0, 1, 3]])
    assert np.allclose(plain.low, expected.low[[0, 1, 3]])
    assert plain.y[0] > 0.2 > plain.y[1] > -0.2 > plain.y[2]
    assert (plain.style, differential.style) == (MODELS["mamba2"], MODELS["diff-mamba2"])
    assert not plain.joined
    (level,) = drawing.marks(Level)
    assert (level.at, level.axis) == (0.0, "y")
    assert areas_figure({"mamba2": areas}).layout.yaxis.title.text == "gap over that of a random order"
    with pytest.raises(ValueError, match="no areas to draw"):
        areas_drawing({})
