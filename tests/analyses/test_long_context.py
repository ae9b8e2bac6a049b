"""The shipped answers of the long-context analysis are of the shipped weights, and come out again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses.long_context import report, run, summary
from diffmamba_interp.analysis.results import read_recipe, read_results, write_results
from diffmamba_interp.lm_training.position_loss import position_bins
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder
from diffmamba_interp.runs.provenance import weights_sha256

RECIPES = tuple(name for name in ("builtin", "paper") if (run.HERE / name / "results.json").is_file())
MAX_FILE_BYTES = 300_000
BEGINNING = 2048


def shipped(recipe: str) -> dict:
    return read_results(run.HERE / recipe / "results.json")


def records(recipe: str) -> summary.Records:
    return summary.read(run.HERE / recipe / "records.parquet")


# Seconds on a core of one's own, minutes on a busy machine.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_beginnings_of_two_pieces_are_measured_as_shipped() -> None:
    recipe = replace(read_recipe(run.HERE / "recipe.toml", "builtin", run.Recipe), n=2)
    sources, tokens = run.pieces(recipe, Path())
    kept = records("builtin")
    for name in DEMO_NAMES:
        # A loss depends on nothing that comes later, so the beginning of a piece is enough.
        found = run.measure(name, replace(recipe, length=BEGINNING), tokens[:, : BEGINNING + 1], "cpu")
        for number, source in enumerate(sources):
            (row,) = np.flatnonzero((kept["model"] == name) & (kept["source"] == source))
            for kind, losses in found.items():
                expected = [kept[f"{kind}_{end}"][row] for end in position_bins(BEGINNING)[1:]]
                assert losses[number].tolist() == pytest.approx(expected, abs=1e-3)


def test_the_analysis_was_run() -> None:
    assert RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_results_are_those_of_the_shipped_weights_and_of_the_recipe(name: str) -> None:
    made, stated = shipped(name)["provenance"], read_recipe(run.HERE / "recipe.toml", name, run.Recipe)
    assert made["models"] == {model: weights_sha256(demo_folder(model)) for model in DEMO_NAMES}
    assert (made["recipe"]["name"], made["seed"], made["recipe"]["window"]) == (name, stated.seed, stated.window)
    assert (made["recipe"]["length"], made["recipe"]["n"]) == (stated.length, stated.n)
    assert (name == "paper") == ("data" in made)


@pytest.mark.parametrize("name", RECIPES)
def test_it_reads_sixteen_thousand_tokens_and_beyond(name: str) -> None:
    assert shipped(name)["bounds"][-1] >= 16_384


@pytest.mark.parametrize("name", RECIPES)
def test_the_curves_follow_from_the_records(name: str, tmp_path: Path) -> None:
    write_results(tmp_path / "again.json", {}, {"curves": summary.summarise(records(name))})
    assert json.loads((tmp_path / "again.json").read_text())["curves"] == shipped(name)["curves"]


def test_the_page_and_the_figures_are_those_that_the_results_give(tmp_path: Path) -> None:
    for name in RECIPES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes((run.HERE / name / "results.json").read_bytes())
    report.write(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.suffix in (".md", ".svg"))
    assert len(written) == 1 + 3 * len(RECIPES)
    for path in written:
        assert (tmp_path / path).read_text() == (run.HERE / path).read_text(), path


@pytest.mark.parametrize("name", RECIPES)
def test_the_shipped_files_are_small(name: str) -> None:
    sizes = {file.name: file.stat().st_size for file in (run.HERE / name).iterdir()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}


def test_pieces_do_not_overlap_and_novels_take_turns(tmp_path: Path) -> None:
    (tmp_path / "novels").mkdir()
    for number in range(40):
        text = f"Novel {number}. " + "The wind was cold and the road was long. " * 60
        (tmp_path / "novels" / f"{number:02}.txt").write_text(text)
    recipe = run.Recipe(text="novels", splits=("lm_train",), length=128, n=0, window=64, seed=0)
    sources, tokens = run.pieces(recipe, tmp_path)
    n_novels = len(set(sources))
    assert len(sources) > n_novels > 1
    assert len(set(sources[:n_novels])) == n_novels
    first, second = [number for number, source in enumerate(sources) if source == sources[0]][:2]
    # The last token of a piece is predicted there and read first in the next.
    assert tokens[first, -1] == tokens[second, 0]
    few, _ = run.pieces(replace(recipe, n=3), tmp_path)
    assert few == sources[:3]


def test_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "novels").mkdir()
    for number in range(40):
        (tmp_path / "novels" / f"{number:02}.txt").write_text(f"Short {number}.")
    recipe = run.Recipe(text="novels", splits=("lm_train",), length=128, n=0, window=64, seed=0)
    with pytest.raises(ValueError, match="smaller --length"):
        run.pieces(recipe, tmp_path)


def test_intervals_are_drawn_over_sources_and_not_over_pieces() -> None:
    # Ten pieces of one novel are alike: with two novels the interval must reach from one's mean to the other's.
    values, sources = np.array([[0.0]] * 10 + [[1.0]] * 10), np.array(["a"] * 10 + ["b"] * 10)
    (found,) = summary.estimates(values, sources)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ((-1, -1), "`diff-mamba2` has the lower"),
        ((1, 1), "`mamba2` has the lower"),
        ((0, 0), "undecided"),
        ((1, 0), "mixed"),
    ],
)
def test_the_verdict_follows_the_signs(signs: tuple[int, ...], words: str) -> None:
    assert words in report.verdict(signs)
