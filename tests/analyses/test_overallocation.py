"""The shipped answers of the over-allocation analysis are of the shipped weights, and come out again."""

import json
from pathlib import Path

import numpy as np
import pytest

from analyses.overallocation import report, run, summary
from diffmamba_interp.analysis.prompts import PromptRecipe
from diffmamba_interp.analysis.results import read_recipe, read_results, write_records, write_results
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder
from diffmamba_interp.runs.provenance import weights_sha256

RECIPES = tuple(name for name in ("builtin", "paper") if (run.HERE / name / "results.json").is_file())
MAX_FILE_BYTES = 1_000_000
# Prompts that are measured again for each model: two of every task in facts alone and one in filler of two tasks.
AGAIN = (("qa1", (2, 1)), ("qa2", (2, 0)), ("qa3", (2, 0)), ("qa4", (2, 1)), ("qa5", (2, 0)))


def shipped(recipe: str) -> dict:
    return read_results(run.HERE / recipe / "results.json")


# Seconds on a core of one's own, minutes on a busy machine.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twelve_prompts_of_each_model_are_allocated_as_shipped(tmp_path: Path) -> None:
    parts = []
    for name in DEMO_NAMES:
        for task, n in AGAIN:
            kept = [(length, number) for length, number in zip((0, 1024), n, strict=True) if number]
            lengths, numbers = zip(*kept, strict=True)
            recipe = PromptRecipe(stories="generated", lengths=lengths, n=numbers, seed=7)
            parts.append(run.measure(name, task, recipe, Path(), "cpu", None)[0])
    write_records(tmp_path / "again.parquet", run.together(parts), decimals=5)
    again, kept = summary.read(tmp_path / "again.parquet"), summary.read(run.HERE / "builtin" / "records.parquet")
    assert len(again["needle"]) == 12 * 4
    rows = {key_of(kept, index): index for index in range(len(kept["task"]))}
    for index in range(len(again["task"])):
        row = rows[key_of(again, index)]
        for name in again:
            if name not in summary.TEXT:
                assert again[name][index] == pytest.approx(kept[name][row], abs=1e-3), (name, key_of(again, index))


def key_of(records: summary.Records, index: int) -> tuple:
    return tuple(records[name][index] for name in ("picture", "task", "length", "story"))


def test_the_recipe_that_needs_no_data_was_run() -> None:
    assert "builtin" in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_results_are_those_of_the_shipped_weights_and_of_the_recipe(name: str) -> None:
    made, stated = shipped(name)["provenance"], read_recipe(run.HERE / "recipe.toml", name, PromptRecipe)
    assert made["models"] == {model: weights_sha256(demo_folder(model)) for model in DEMO_NAMES}
    assert (made["recipe"]["name"], made["seed"]) == (name, stated.seed)
    assert (tuple(made["recipe"]["lengths"]), tuple(made["recipe"]["n"])) == (stated.lengths, stated.n)
    assert (name == "paper") == ("data" in made)


@pytest.mark.parametrize("name", RECIPES)
def test_the_cells_follow_from_the_records(name: str, tmp_path: Path) -> None:
    records, cells = summary.read(run.HERE / name / "records.parquet"), shipped(name)["cells"]
    for kept in (cells[1], cells[-1]):
        write_results(tmp_path / "cell.json", {}, summary.cell(records, kept["task"], kept["length"]))
        again = json.loads((tmp_path / "cell.json").read_text())
        assert {key: again[key] for key in kept} == kept


@pytest.mark.parametrize("name", RECIPES)
def test_pictures_are_of_the_same_prompts_and_shares_are_shares(name: str) -> None:
    records = summary.read(run.HERE / name / "records.parquet")
    stories = [records["story"][records["picture"] == picture].tolist() for picture in summary.PICTURES]
    assert all(own == stories[0] for own in stories)
    total = sum(records[column] for column in ("needle", "question", "distractors", "filler"))
    assert np.all((total >= 0) & (total <= 1.003))
    assert np.all(records["filler"][records["length"] == 0] == 0)


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


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ((-1, -1), "hypothesis holds**"),
        ((1, 1), "opposite holds**"),
        ((0, 0), "undecided"),
        ((-1, 0), "hypothesis holds where"),
        ((1, 0), "opposite holds where"),
        ((-1, 1), "mixed"),
    ],
)
def test_the_verdict_follows_the_signs(signs: tuple[int, ...], words: str) -> None:
    cells = [{"n": 50, "differences": {"difference - plain": {"noise": BY_SIGN[sign]}}} for sign in signs]
    assert words in report.verdict(cells)


BY_SIGN = {-1: [-0.2, -0.3, -0.1], 0: [0.0, -0.1, 0.1], 1: [0.2, 0.1, 0.3]}
