"""The shipped answers of the signal-to-noise analysis are of the shipped weights and lenses, and come out again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses.needle_snr import prompts, relation, report, run, summary
from diffmamba_interp.analysis.prompts import PromptRecipe
from diffmamba_interp.analysis.results import RESULT_DIGITS, read_recipe, read_results, write_records
from diffmamba_interp.files.json_files import results_json
from diffmamba_interp.lens import demo_lens_folder
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder, load_demo
from diffmamba_interp.needle.findings import Verdict
from diffmamba_interp.runs.provenance import weights_sha256

RECIPES = tuple(name for name in ("builtin", "paper") if (run.HERE / name / "results.json").is_file())
MAX_FILE_BYTES = 1_500_000
AGAIN = PromptRecipe(stories="generated", lengths=(0,), n=(4,), seed=7)


def shipped(recipe: str) -> dict:
    return read_results(run.HERE / recipe / "results.json")


# Seconds on a core of one's own, minutes on a busy machine.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_prompts_of_each_model_are_read_as_shipped(tmp_path: Path) -> None:
    samples = [sample for task in prompts.TASKS for sample in prompts.task_prompts(AGAIN, Path(), task)]
    parts = [run.read(name, load_demo(name)[0], samples) for name in DEMO_NAMES]
    write_records(tmp_path / "again.parquet", run.together(parts, snr_decimals=4))
    again, kept = summary.read(tmp_path / "again.parquet"), summary.read(run.HERE / "builtin" / "records.parquet")
    assert len(again["task"]) == 20 * 2 * 2
    keys = (*summary.TEXT, "length")
    rows = {tuple(kept[key][i] for key in keys): i for i in range(len(kept["task"]))}
    order = [rows[tuple(again[key][i] for key in keys)] for i in range(len(again["task"]))]
    for name in set(again) - set(keys):
        np.testing.assert_allclose(again[name], kept[name][order], rtol=1e-3, atol=1e-3, err_msg=name)


def test_the_recipe_that_needs_no_data_was_run() -> None:
    assert "builtin" in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_results_are_those_of_the_shipped_weights_and_lenses_and_of_the_recipe(name: str) -> None:
    made, stated = shipped(name)["provenance"], read_recipe(run.HERE / "recipe.toml", name, PromptRecipe)
    assert made["models"] == {model: weights_sha256(demo_folder(model)) for model in DEMO_NAMES}
    assert made["lenses"] == {model: lens_sha256(demo_lens_folder(model)) for model in DEMO_NAMES}
    assert (made["recipe"]["name"], made["seed"]) == (name, stated.seed)
    assert tuple(made["recipe"]["lengths"]) == stated.lengths
    assert (name == "paper") == ("data" in made)
    assert made == json.loads((run.HERE / name / "made.json").read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_the_results_follow_from_the_records(name: str) -> None:
    records, results = summary.read(run.HERE / name / "records.parquet"), shipped(name)
    group = (("task", "qa1"), ("length", "0"))
    again = json.loads(results_json(summary.of_group(records, group), digits=RESULT_DIGITS))
    for kind, found in again.items():
        assert [one for one in results[kind] if one["group"] == dict(group)] == found


def test_the_page_and_the_figures_are_those_that_the_results_give(tmp_path: Path) -> None:
    for name in RECIPES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes((run.HERE / name / "results.json").read_bytes())
    report.write(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.suffix in (".md", ".svg"))
    assert len(written) >= 1 + 6 * len(RECIPES)
    for path in written:
        assert (tmp_path / path).read_text() == (run.HERE / path).read_text(), path


@pytest.mark.parametrize("name", RECIPES)
def test_the_shipped_files_are_small(name: str) -> None:
    sizes = {file.name: file.stat().st_size for file in (run.HERE / name).iterdir()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}


def made_up_records(folder: Path, n: int = 12) -> Path:
    """Records of `n` prompts in which Diff-Mamba is 3 dB above Mamba-2 at each stage, and what they were made with."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(n, 4))
    lines: dict[str, list] = {name: [] for name in (*summary.TEXT, "length")}
    stages: dict[str, list] = {f"{name}_{i}": [] for i in range(4) for name in ("snr_db", "log_p")}
    for model in DEMO_NAMES:
        for lens in summary.LENSES:
            for k in range(n):
                for key, value in zip(lines, (model, lens, f"qa{1 + k % 2}", f"story{k}", 0), strict=True):
                    lines[key].append(value)
                for i in range(4):
                    stages[f"snr_db_{i}"].append(base[k, i] + 3 * (model == summary.MODEL))
                    stages[f"log_p_{i}"].append(-1.0 - i)
    write_records(folder / "records.parquet", lines | stages)
    made = {
        "models": dict.fromkeys(DEMO_NAMES, "none"),
        "lenses": dict.fromkeys(DEMO_NAMES, "none"),
        "tokenizer": "none",
        "recipe": {"name": "builtin"},
        "seed": 7,
        "device": "a GPU",
        "versions": {"torch": "2"},
    }
    (folder / "made.json").write_text(json.dumps(made))
    return folder


def test_records_from_another_machine_give_results_figures_and_page_here(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    run.main(out=tmp_path / "here", from_records=made_up_records(tmp_path / "there"))
    results = read_results(tmp_path / "here" / "builtin" / "results.json")
    assert results["provenance"]["device"] == "a GPU"
    assert results["attention"] == []  # these weights were not measured by the other analysis
    gains = {verdict["difference_db"] for verdict in results["verdicts"]}
    assert gains == {3.0}
    # Twelve prompts decide, the six of one task do not.
    assert {(v["n"], v["winner"]) for v in results["verdicts"]} == {(12, "diff-mamba2"), (6, None)}
    probability = next(c for c in results["curves"] if c["measure"] == "probability")
    assert probability["value"] == pytest.approx(np.exp([-1.0, -2.0, -3.0, -4.0]), rel=1e-3)
    page = (tmp_path / "here" / "README.md").read_text()
    assert "**the claim holds**" in page
    assert "attention.svg" not in page
    for name in ("probability.svg", "probability_log.svg", "snr_db.svg", "difference.svg"):
        assert (tmp_path / "here" / "builtin" / name).read_text().startswith("<svg")


def test_prompts_are_kept_in_a_file_that_serves_no_other_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "TASKS", ("qa1",))
    recipe = PromptRecipe(stories="generated", lengths=(0,), n=(2,), seed=7)
    prompts.save_prompts(tmp_path / "samples", recipe, Path(), jobs=1)
    kept, sha256 = prompts.load_prompts(tmp_path / "samples", recipe)
    assert [sample.story_hash for sample in kept] == [
        sample.story_hash for sample in prompts.task_prompts(recipe, Path(), "qa1")
    ]
    assert sha256 == {}  # generated text was read from nowhere
    with pytest.raises(ValueError, match="was made for .* prepare it again"):
        prompts.load_prompts(tmp_path / "samples", replace(recipe, n=(3,)))


def test_a_correlation_over_prompts_is_taken_within_tasks() -> None:
    rng = np.random.default_rng(0)
    task = np.array(["qa1", "qa2"] * 40)
    shift = np.where(task == "qa1", 100.0, 0.0)[:, None]
    a, b = rng.normal(size=(2, 80, 1))
    same = np.concatenate([a + shift, a + shift, a + shift], axis=1)
    other = np.concatenate([np.exp(a) + shift, -a + shift, b + shift], axis=1)
    value, low, high = relation.rank_correlation(same, other, task)
    assert value[:2] == pytest.approx([1.0, -1.0])
    assert low[2] < 0 < high[2]
    assert abs(value[2]) < 0.3


def test_attention_and_lens_are_joined_by_task_and_story(tmp_path: Path) -> None:
    records = summary.read(made_up_records(tmp_path) / "records.parquet")
    lens = summary.values_of(records, "mamba2", "tuned", (("length", "0"),))["snr_db"]
    chosen = (records["model"] == "mamba2") & (records["lens"] == "tuned")
    # The other analysis' records of the same prompts, backwards, with the lens' own numbers in them.
    back = {
        name: column[chosen][::-1] for name, column in records.items() if "log_p" not in name and name != "snr_db_3"
    }
    back["picture"] = np.array(["plain"] * chosen.sum())
    back["snr_db_1"] = np.where(back["story"] == "story0", np.nan, back["snr_db_1"])
    read, joined, task = relation.joined(records, back, "mamba2", 0)
    assert len(read) == len(lens) - 1
    np.testing.assert_array_equal(read, joined[:, :3])
    assert sorted(task.tolist()) == ["qa1"] * 5 + ["qa2"] * 6


@pytest.mark.parametrize(
    ("winners", "words"),
    [
        (("diff-mamba2", "diff-mamba2"), "the claim holds**"),
        (("mamba2", "mamba2"), "the opposite holds**"),
        ((None, None), "undecided"),
        (("diff-mamba2", None), "claim holds where"),
        ((None, "mamba2"), "opposite holds where"),
        (("diff-mamba2", "mamba2"), "mixed"),
    ],
)
def test_the_headline_follows_the_verdicts(winners: tuple[str | None, ...], words: str) -> None:
    bounds = {"diff-mamba2": (2.0, 1.0, 3.0), "mamba2": (-2.0, -3.0, -1.0), None: (0.1, -1.0, 1.0)}
    whole = []
    for length, winner in zip(("0", "1024"), winners, strict=True):
        value, low, high = bounds[winner]
        about = {"baseline": "mamba2", "model": "diff-mamba2", "lens": "tuned", "place": "inner stages", "n": 50}
        numbers = {"baseline_db": 0.0, "model_db": value, "difference_db": value, "low": low, "high": high}
        whole.append(Verdict(**about, **numbers, group=(("length", length),), p_value=0.1))
    assert words in report.headline(whole)
