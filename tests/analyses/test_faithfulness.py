"""What the faithfulness analysis computes and says, on curves made by hand."""

import numpy as np

from analyses.faithfulness import report

FRACTIONS = (0.0, 0.5, 1.0)
BEST, CHANCE = ([1.0, 0.0, 0.0], [0.0, 1.0, 1.0]), ([1.0, 0.5, 0.0], [0.0, 0.5, 1.0])


def records_of(n: int = 12, *, unanswered: int = 2) -> dict[str, np.ndarray]:
    """Contributions find what decides at once, everything else is chance; some answers are not given."""
    lines = []
    for number in range(n):
        for ranking in report.RANKINGS:
            deletion, insertion = BEST if ranking == "contribution" else CHANCE
            weight = 0.4 if number < unanswered else 1.0
            lines.append(
                ("qa1", f"story {number}", ranking, *(weight * np.array(deletion)), *(weight * np.array(insertion)))
            )
    names = ("task", "story", "where", *(f"{kind}_{at}" for kind in ("deletion", "insertion") for at in range(3)))
    return {name: np.array(column) for name, column in zip(names, zip(*lines, strict=True), strict=True)}


def test_areas_are_of_the_prompts_whose_answer_is_given() -> None:
    cell = report.of_cell(records_of(), FRACTIONS)
    assert (cell["n"], cell["n_asked"]) == (10, 12)
    assert cell["areas"]["contribution"]["gap"].value == 0.5
    assert cell["areas"]["contribution"]["over_random"].value == 0.5
    assert cell["areas"]["hidden"]["gap"].value == 0.0
    assert cell["contribution_less_hidden"].value == 0.5
    assert [one.value for one in cell["curves"]["deletion"]["contribution"]] == [1.0, 0.0, 0.0]


def test_the_page_says_which_ranking_holds_and_which_is_not_better_than_chance() -> None:
    cell = report.of_cell(records_of(), FRACTIONS)
    as_lists = {
        ranking: {name: [one.value, one.low, one.high] for name, one in areas.items()}
        for ranking, areas in cell["areas"].items()
    }
    difference = list(vars(cell["contribution_less_hidden"]).values())
    results = {
        "cells": [
            {
                **cell,
                "contribution_less_hidden": difference,
                "areas": as_lists,
                "model": "mamba2",
                "task": "all",
                "length": 0,
            }
        ]
    }
    (line,) = [line for line in report.finding(results, "Here") if line.startswith("- ")]
    assert "`mamba2` (n = 10 of 12), gap over that of a random order: contribution +0.50 [+0.50, +0.50]," in line
    assert line.endswith(
        "Not better than random: hidden attention, contribution norm, Jacobian, gradient × write, recency. "
        "Contribution less hidden attention: +0.50 [+0.50, +0.50]."
    )
    assert report.of_cell(records_of(4, unanswered=4), FRACTIONS) == {"n": 0, "n_asked": 4}
