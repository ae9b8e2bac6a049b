"""The shipped answers of the cancellation analysis are of the shipped weights, and come out again."""

import json
from pathlib import Path

import numpy as np
import pytest

from analyses.cancellation import report, run, summary
from diffmamba_interp.analysis.prompts import PromptRecipe
from diffmamba_interp.analysis.results import read_recipe, read_results, write_records, write_results
from diffmamba_interp.models.demo import demo_folder
from diffmamba_interp.runs.provenance import weights_sha256

RECIPES = tuple(name for name in ("builtin", "paper") if (run.HERE / name / "results.json").is_file())
MAX_FILE_BYTES = 700_000
AGAIN = PromptRecipe(stories="generated", lengths=(0,), n=(4,), seed=7)


def shipped(recipe: str) -> dict:
    return read_results(run.HERE / recipe / "results.json")


# Seconds on a core of one's own, minutes on a busy machine.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_prompts_are_measured_as_shipped(tmp_path: Path) -> None:
    parts = [run.measure(task, AGAIN, Path(), "cpu", None)[0] for task in run.TASKS]
    columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    write_records(tmp_path / "again.parquet", columns)
    again, kept = summary.read(tmp_path / "again.parquet"), summary.read(run.HERE / "builtin" / "records.parquet")
    assert len(again["task"]) == 20 * 2
    rows = {key_of(kept, index): index for index in range(len(kept["task"]))}
    for index in range(len(again["task"])):
        row = rows[key_of(again, index)]
        for name in again:
            if name not in summary.TEXT:
                assert again[name][index] == pytest.approx(kept[name][row], rel=1e-3, abs=1e-3), name


def key_of(records: summary.Records, index: int) -> tuple:
    return tuple(records[name][index] for name in (*summary.TEXT, "length"))


def test_the_recipe_that_needs_no_data_was_run() -> None:
    assert "builtin" in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_results_are_those_of_the_shipped_weights_and_of_the_recipe(name: str) -> None:
    made, stated = shipped(name)["provenance"], read_recipe(run.HERE / "recipe.toml", name, PromptRecipe)
    assert made["models"] == {run.MODEL: weights_sha256(demo_folder(run.MODEL))}
    assert (made["recipe"]["name"], made["seed"]) == (name, stated.seed)
    assert (tuple(made["recipe"]["lengths"]), tuple(made["recipe"]["n"])) == (stated.lengths, stated.n)
    assert (name == "paper") == ("data" in made)


@pytest.mark.parametrize("name", RECIPES)
def test_the_cells_follow_from_the_records(name: str, tmp_path: Path) -> None:
    records = summary.read(run.HERE / name / "records.parquet")
    short = {key: column[records["length"] == 0] for key, column in records.items()}
    write_results(tmp_path / "cells.json", {}, {"cells": summary.summarise(short)})
    again = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert again == [cell for cell in shipped(name)["cells"] if cell["length"] == 0]


def test_the_page_and_the_figures_are_those_that_the_results_give(tmp_path: Path) -> None:
    for name in RECIPES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes((run.HERE / name / "results.json").read_bytes())
    report.write(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.suffix in (".md", ".svg"))
    assert len(written) == 1 + 4 * len(RECIPES)
    for path in written:
        assert (tmp_path / path).read_text() == (run.HERE / path).read_text(), path


@pytest.mark.parametrize("name", RECIPES)
def test_the_shipped_files_are_small(name: str) -> None:
    sizes = {file.name: file.stat().st_size for file in (run.HERE / name).iterdir()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}


def test_measures_are_those_of_a_case_worked_by_hand() -> None:
    # Two prompts; needle: |K1| 4, |lambda K2| 2, nothing cancels. Noise: |K1| 3, |lambda K2| 3, all of it cancels.
    net, minuend, scaled, smaller = [6.0, 0.0], [4.0, 3.0], [2.0, 3.0], [2.0, 3.0]
    found = summary.measures(np.array([[net, minuend, scaled, smaller]] * 2))
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(
        {
            "removed_needle": -0.5,
            "cancelled_needle": 0.0,
            "chance_needle": 1 / 3,
            "part_needle": 1 / 3,
            "removed_noise": 1.0,
            "cancelled_noise": 1.0,
            "chance_noise": 0.5,
            "part_noise": 0.5,
            "removed_noise_less_needle": 1.5,
            "cancelled_less_chance_needle": -1 / 3,
            "cancelled_less_chance_noise": 0.5,
            "cancelled_noise_less_needle": 1.0,
        }
    )


UP, NONE, DOWN = [0.2, 0.1, 0.3], [0.0, -0.1, 0.1], [-0.2, -0.3, -0.1]


@pytest.mark.parametrize(
    ("removed", "selective", "cancels", "words"),
    [
        (UP, UP, DOWN, "the subtraction cancels noise"),
        (DOWN, DOWN, DOWN, "does not cancel noise**: at every length the difference writes more"),
        (NONE, DOWN, DOWN, "is not seen to cancel noise"),
        (UP, DOWN, DOWN, "shrinks noise"),
        (DOWN, DOWN, UP, "mixed"),
    ],
)
def test_the_verdict_follows_the_measures(
    removed: list[float], selective: list[float], cancels: list[float], words: str
) -> None:
    cell = {
        "n": 50,
        "removed_noise": removed,
        "removed_noise_less_needle": selective,
        "cancelled_less_chance_noise": cancels,
    }
    assert words in report.verdict([cell])
