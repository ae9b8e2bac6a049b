"""The shipped answers of the lambda analysis are of the shipped weights, and come out again."""

import json
from pathlib import Path

import numpy as np
import pytest

from analyses.lambda_causality import prompts, report, run, summary
from diffmamba_interp.analysis_conditions import CLEAN, Key, Readings, read_prompts, together
from diffmamba_interp.analysis_results import read_recipe, read_results, write_records, write_results
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.lens.folders import demo_lens_folder
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder
from diffmamba_interp.runs.provenance import weights_sha256

SHIPPED = [name for name in report.TITLES if (run.HERE / name / "results.json").is_file()]
MAX_FILE_BYTES = 1_200_000
N_FIGURES = 6
# Factors of every lambda, and of block 0's, that 20 prompts are read under again.
AGAIN = (0.0, 1.5)


def shipped(recipe: str) -> dict:
    return read_results(run.HERE / recipe / "results.json")


def test_the_recipe_that_needs_no_data_was_run() -> None:
    assert "builtin" in SHIPPED


def test_twenty_prompts_of_the_scaled_model_are_read_as_shipped(tmp_path: Path) -> None:
    recipe = read_recipe(run.HERE / "recipe.toml", "builtin", run.Recipe)
    short = run.Recipe(**{**vars(recipe), "lengths": (0,), "n": (10,)})
    prompts.prepare(short, Path(), tmp_path / "prompts")
    model, lens = prompts.load(run.DIFFERENTIAL, "cpu", shipped("builtin")["provenance"]["lens"])
    conditions = [
        one
        for one in run.conditions(short, model.cfg.n_layers)
        if one.kind == CLEAN or (one.where == "all" and one.dose in AGAIN) or (one.where, one.dose) == ("0", 0.0)
    ]
    assert len(conditions) == 4
    cells = [prompts.cell_of(tmp_path / "prompts", short, *cell) for cell in short.wanted]
    parts = [
        read_prompts(model, lens, cell, condition, name=run.DIFFERENTIAL) for cell in cells for condition in conditions
    ]
    write_records(tmp_path / "again.parquet", together(parts, decimals=4), decimals=5)
    again, kept = Readings.read(tmp_path / "again.parquet"), Readings.read(run.HERE / "builtin" / "records.parquet")
    assert len(again.records["story"]) == 20 * 4
    for key in again.keys(0):
        measures = (
            ("right", "snr_db") if key.where != "all" else (*summary.measures_of(again)["lens"], *report.MEASURES)
        )
        own = dict(zip(kept.stories(key, "all", 0), kept.of(key, "all", 0, measures), strict=True))
        values = again.of(key, "all", 0, measures)
        for story, line in zip(again.stories(key, "all", 0), values, strict=True):
            assert line == pytest.approx(own[story], abs=1e-3, rel=1e-3), (key, story)


@pytest.mark.parametrize("name", SHIPPED)
def test_results_are_those_of_the_shipped_weights_lenses_and_recipe(name: str) -> None:
    made, stated = shipped(name)["provenance"], read_recipe(run.HERE / "recipe.toml", name, run.Recipe)
    assert made["models"] == {model: weights_sha256(demo_folder(model)) for model in DEMO_NAMES}
    assert made["lens"] == "tuned"
    assert made["lenses"] == {model: lens_sha256(demo_lens_folder(model)) for model in DEMO_NAMES}
    assert (made["recipe"]["name"], made["seed"]) == (name, stated.seed)
    assert tuple(made["recipe"]["factors"]) == stated.factors
    assert (name == "paper") == ("data" in made)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_cell_follows_from_the_records(name: str, tmp_path: Path) -> None:
    kept = shipped(name)["cells"][-1]
    readings = Readings.read(run.HERE / name / "records.parquet")
    write_results(tmp_path / "cell.json", {}, summary.cell(readings, kept["task"], kept["length"]))
    again = json.loads((tmp_path / "cell.json").read_text())
    assert {key: again[key] for key in kept} == kept


@pytest.mark.parametrize("name", SHIPPED)
def test_every_condition_is_measured_on_the_same_prompts(name: str) -> None:
    readings = Readings.read(run.HERE / name / "records.parquet")
    for task, length in readings.cells:
        own = [readings.stories(key, task, length) for key in readings.keys(length)]
        assert all(stories == own[0] for stories in own)
        assert len(set(own[0])) == len(own[0])


def test_the_page_and_the_figures_are_those_that_the_results_give(tmp_path: Path) -> None:
    for name in SHIPPED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes((run.HERE / name / "results.json").read_bytes())
    report.write(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.suffix in (".md", ".svg"))
    assert len(written) == 1 + N_FIGURES * len(SHIPPED)
    for path in written:
        assert (tmp_path / path).read_text() == (run.HERE / path).read_text(), path


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_files_are_small(name: str) -> None:
    sizes = {file.name: file.stat().st_size for file in (run.HERE / name).iterdir()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}


def test_changes_are_paired_by_prompt_and_the_control_is_set_against_removal(tmp_path: Path) -> None:
    # SNR as trained 10, 20, ...; without the subtrahend 5 lower; with twice as much 1 lower.
    lines = [
        (model, kind, "all", dose, "qa1", 0, f"{prompt:016x}", 6, int(shift > -5), -1.0, 10.0 * prompt + shift)
        for prompt in range(12)
        for model, kind, dose, shift in (
            ("diff-mamba2", CLEAN, float("nan"), 0.0),
            ("mamba2", CLEAN, float("nan"), -2.0),
            ("diff-mamba2", "scale", 0.0, -5.0),
            ("diff-mamba2", "scale", 2.0, -1.0),
        )
    ]
    names = ("model", "kind", "where", "dose", "task", "length", "story", "n_labels", "right", "log_prob", "snr_db")
    write_records(tmp_path / "records.parquet", dict(zip(names, zip(*lines, strict=True), strict=True)))
    found = summary.cell(Readings.read(tmp_path / "records.parquet"), "qa1", 0)
    removed, doubled = found["all"]
    assert (removed["factor"], doubled["factor"]) == (0.0, 2.0)
    assert removed["change"]["snr_db"].value == removed["change"]["snr_db"].low == pytest.approx(-5.0)
    assert removed["change"]["right"].value == -1.0
    assert found["doubled_less_removed"]["snr_db"].value == pytest.approx(4.0)
    assert found["less_plain"]["snr_db"].value == pytest.approx(2.0)


UP, NONE, DOWN = [0.2, 0.1, 0.3], [0.0, -0.1, 0.1], [-0.2, -0.3, -0.1]


@pytest.mark.parametrize(
    ("accuracy", "snr", "words"),
    [
        (DOWN, DOWN, "lowers both"),
        (NONE, UP, "not seen to do harm"),
        (NONE, DOWN, "harm in part**: accuracy undecided at 1k; SNR lowered at 1k"),
    ],
)
def test_the_verdict_follows_the_changes(accuracy: list[float], snr: list[float], words: str) -> None:
    dose = {"factor": 0.0, "change": {"right": accuracy, "snr_db": snr}}
    cell = {"n": 50, "length": 1024, "all": [dose], "doubled_less_removed": {"right": UP, "snr_db": DOWN}}
    said = report.verdict([cell])
    assert words in said
    assert "to accuracy less harm at 1k; to SNR more harm at 1k" in said


def test_the_share_among_the_labels_follows_from_the_ratio() -> None:
    lines = {"model": ["m"], "kind": [CLEAN], "where": ["all"], "dose": [np.nan], "task": ["qa1"], "length": [0]}
    lines |= {"story": ["s"], "n_labels": [5], "right": [1], "log_prob": [np.log(0.4)], "snr_db": [10 * np.log10(4)]}
    # p(answer) = 0.4, four distractors of 0.1 each.
    readings = Readings({name: np.array(column) for name, column in lines.items()})
    assert readings.of(Key("m", CLEAN), "qa1", 0, ("share",))[0, 0] == pytest.approx(0.5)
