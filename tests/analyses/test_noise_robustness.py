"""The shipped answers of the noise analysis are of the shipped weights, and come out again."""

import json
from pathlib import Path

import pytest

from analyses.lambda_causality import prompts
from analyses.noise_robustness import report, run, summary
from diffmamba_interp.analysis_conditions import CLEAN, Readings, together
from diffmamba_interp.analysis_prompts import PromptRecipe, cells
from diffmamba_interp.analysis_results import read_recipe, read_results, write_records, write_results
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.lens.folders import demo_lens_folder
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder
from diffmamba_interp.runs.provenance import weights_sha256

SHIPPED = [name for name in report.TITLES if (run.HERE / name / "results.json").is_file()]
MAX_FILE_BYTES = 1_200_000
N_FIGURES = 8


def shipped(recipe: str) -> dict:
    return read_results(run.HERE / recipe / "results.json")


def test_the_recipe_that_needs_no_data_was_run() -> None:
    assert "builtin" in SHIPPED


def test_twenty_prompts_are_read_as_shipped_by_both_models(tmp_path: Path) -> None:
    recipe = read_recipe(run.HERE / "recipe.toml", "builtin", run.Recipe)
    changed = {"lengths": (0,), "n": (10,), "snr_db": (10.0,)}
    short = run.Recipe(**{**vars(recipe), **changed})
    prompts.prepare(short, Path(), tmp_path / "prompts")
    lens = shipped("builtin")["provenance"]["lens"]
    parts = [
        run.measure(name, *cell, short, tmp_path / "prompts", "cpu", lens)
        for name in DEMO_NAMES
        for cell in short.wanted
    ]
    write_records(tmp_path / "again.parquet", together(parts, decimals=4), decimals=5)
    again, kept = Readings.read(tmp_path / "again.parquet"), Readings.read(run.HERE / "builtin" / "records.parquet")
    assert len(again.records["story"]) == 20 * 2 * 2
    for key in again.keys(0):
        own = dict(zip(kept.stories(key, "all", 0), kept.of(key, "all", 0, summary.measures_of(again)), strict=True))
        values = again.of(key, "all", 0, summary.measures_of(again))
        for story, line in zip(again.stories(key, "all", 0), values, strict=True):
            assert line == pytest.approx(own[story], abs=1e-3, rel=1e-3), (key, story)


@pytest.mark.parametrize("name", SHIPPED)
def test_results_are_those_of_the_shipped_weights_lenses_and_recipe(name: str) -> None:
    made, stated = shipped(name)["provenance"], read_recipe(run.HERE / "recipe.toml", name, run.Recipe)
    assert made["models"] == {model: weights_sha256(demo_folder(model)) for model in DEMO_NAMES}
    assert made["lens"] == "tuned"
    assert made["lenses"] == {model: lens_sha256(demo_lens_folder(model)) for model in DEMO_NAMES}
    assert (made["recipe"]["name"], made["seed"]) == (name, stated.seed)
    assert tuple(made["recipe"]["snr_db"]) == stated.snr_db
    assert (name == "paper") == ("data" in made)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_cell_follows_from_the_records(name: str, tmp_path: Path) -> None:
    kept = shipped(name)["cells"][-1]
    readings = Readings.read(run.HERE / name / "records.parquet")
    write_results(tmp_path / "cell.json", {}, summary.cell(readings, kept["task"], kept["length"]))
    again = json.loads((tmp_path / "cell.json").read_text())
    assert {key: again[key] for key in kept} == kept


@pytest.mark.parametrize("name", SHIPPED)
def test_both_models_answer_the_same_prompts_at_every_level(name: str) -> None:
    readings = Readings.read(run.HERE / name / "records.parquet")
    for task, length in readings.cells:
        own = [readings.stories(key, task, length) for key in readings.keys(length)]
        assert all(stories == own[0] for stories in own)
        assert {key.kind for key in readings.keys(length)} == {CLEAN, "gaussian", *(["tokens"] if length else [])}


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


def test_random_tokens_stand_among_the_filler_alone_and_are_no_labels() -> None:
    recipe = PromptRecipe(stories="generated", lengths=(256,), n=(2,), seed=7)
    ((_, _, samples),) = cells(recipe, Path(), ["qa1"])
    for before, after in zip(samples, run.with_random_filler(samples, 1.0, 4096, seed=7), strict=True):
        filler = {i for span in before.filler_spans for i in range(span.token_start, span.token_end)}
        changed = {i for i in range(before.n_tokens) if before.tokens[i] != after.tokens[i]}
        assert changed == filler
        labels = {token for tokens in before.label_tokens for token in tokens}
        assert not labels & {int(after.tokens[i]) for i in changed}


def test_losses_are_from_each_models_own_clean_answers(tmp_path: Path) -> None:
    # Clean 10 and 20 dB; under noise both lose, mamba2 6 dB and diff-mamba2 2 dB.
    lines = [
        (model, kind, "all", dose, "qa1", 0, f"{prompt:016x}", 6, 1, -1.0, snr + prompt)
        for prompt in range(12)
        for model, kind, dose, snr in (
            ("mamba2", CLEAN, float("nan"), 10.0),
            ("mamba2", "gaussian", 10.0, 4.0),
            ("diff-mamba2", CLEAN, float("nan"), 20.0),
            ("diff-mamba2", "gaussian", 10.0, 18.0),
        )
    ]
    names = ("model", "kind", "where", "dose", "task", "length", "story", "n_labels", "right", "log_prob", "snr_db")
    write_records(tmp_path / "records.parquet", dict(zip(names, zip(*lines, strict=True), strict=True)))
    (level,) = summary.cell(Readings.read(tmp_path / "records.parquet"), "qa1", 0)["gaussian"]
    assert level["loss"]["mamba2"]["snr_db"].value == pytest.approx(-6.0)
    assert level["loss"]["diff-mamba2"]["snr_db"].value == pytest.approx(-2.0)
    assert level["less_loss"]["snr_db"].value == pytest.approx(4.0)
    assert level["difference"]["snr_db"].value == pytest.approx(14.0)


UP, NONE, DOWN = [0.2, 0.1, 0.3], [0.0, -0.1, 0.1], [-0.2, -0.3, -0.1]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((UP, UP), "**`diff-mamba2` loses less** accuracy"),
        ((DOWN, NONE), "**`mamba2` loses less** accuracy (at 1 of 2 levels, undecided at the others)"),
        ((UP, DOWN), "**mixed**"),
        ((NONE, NONE), "**undecided**"),
    ],
)
def test_the_verdict_follows_the_losses(found: tuple[list[float], list[float]], words: str) -> None:
    levels = [{"less_loss": {"right": one, "snr_db": NONE}} for one in found]
    said = report.verdict([{"n": 50, "gaussian": levels, "tokens": []}])
    assert words in said
    assert "random tokens" not in said
