"""The retrieval analysis: what is scored, of which seeds, and what page and cards say of it."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.retrieval import cards, report, run, seeds, text
from analyses.retrieval.weights import Weights, pairs_of
from diffmamba_interp.analysis.page import RESULTS
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, demo_folder, load_demo
from diffmamba_interp.needle.accuracy_grid import read_rows, summarise, write_rows
from diffmamba_interp.runs.provenance import weights_sha256
from diffmamba_interp.text import TokenStream

HERE = run.QUESTION.folder
# Of which tasks a prompt in filler is scored again.
IN_FILLER = ("qa1", "qa4")


# Seconds on a core of one's own, minutes on a busy machine.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_seven_prompts_of_each_model_score_as_shipped(tmp_path: Path) -> None:
    options = run.SeedOptions(device="cpu", jobs=1)
    recipe = replace(run.QUESTION.recipe_of(options), lengths=(0, 1024), n=(1, 1))
    asked = Asked(recipe=recipe, options=options, material=tmp_path / "prompts")
    run.prepare(recipe, options, tmp_path / "prompts")
    chosen = [unit for unit in run.QUESTION.units_of(asked) if unit[3] == 0 or unit[2] in IN_FILLER]
    rows = run.rows_of({unit: run.QUESTION.measure_unit(asked, unit) for unit in chosen})
    assert len(rows) == 2 * 7
    shipped = {(row.model, row.task, row.length, row.story): row for row in read_rows(HERE / "builtin" / report.ROWS)}
    for row in rows:
        kept = shipped[row.model, row.task, row.length, row.story]
        assert row.log_probs == pytest.approx(kept.log_probs, abs=1e-3)
        assert asdict(replace(row, log_probs=(), index=kept.index)) == asdict(replace(kept, log_probs=()))


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_the_cards_are_those_that_training_and_results_give(name: DemoName) -> None:
    assert (demo_folder(name) / "CARD.md").read_text(encoding="utf-8") == cards.card(name, HERE)


def test_results_of_other_weights_make_no_card(tmp_path: Path) -> None:
    results = read_json_object(HERE / "builtin" / RESULTS)
    results["provenance"]["models"]["mamba2"] = "0" * 64
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="run it again"):
        cards.read_results(tmp_path / "results.json", "mamba2")


def with_other_seeds(folder: Path) -> None:
    """Results of the paper recipe as if two more seeds had been trained, both better in the differential model."""
    rows = [row for row in read_rows(HERE / "paper" / report.ROWS) if row.index < 30]
    results = read_json_object(HERE / "paper" / RESULTS)
    results["cells"] = [cell.to_dict() for cell in summarise(rows, seeds.pair_of(0))]
    for seed in (1, 2):
        for row in [one for one in rows if one.model in (seeds.FIRST, seeds.SECOND)]:
            is_right = row.model == seeds.SECOND or row.index % (seed + 1) > 0
            predicted = row.answer if is_right else next(label for label in row.labels if label != row.answer)
            rows.append(replace(row, model=seeds.name_of(row.model, seed), predicted=predicted))
    results["seeds"] = [[cell.to_dict() for cell in summarise(rows, seeds.pair_of(seed))] for seed in (1, 2)]
    results["provenance"]["other_seeds"] = [
        {"seed": seed, "tokens": 5_000_000, "sha256": {name: f"{name}-{seed}" for name in DEMO_NAMES}}
        for seed in (1, 2)
    ]
    results["text"] |= {seeds.name_of(name, seed): results["text"][name] for name in DEMO_NAMES for seed in (1, 2)}
    (folder / "paper").mkdir()
    (folder / "paper" / "results.json").write_text(json.dumps(results))
    write_rows(folder / "paper" / "records.csv.xz", rows)


def test_the_page_of_several_seeds_says_how_many_and_shows_each(tmp_path: Path) -> None:
    with_other_seeds(tmp_path)
    report.PAGE.write(tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "With 3 training seeds of each model" in page
    assert "| seed 1 (5M tokens) | seed 2 (5M tokens) | mean (95 %) |" in page
    assert "mamba2 seed 2 `mamba2-2`" in page
    assert "not all trained on as many tokens" in page
    assert "One training seed" not in page
    assert "opacity" in (tmp_path / "paper" / "accuracy.svg").read_text(encoding="utf-8")


def test_the_card_of_several_seeds_lists_them(tmp_path: Path) -> None:
    with_other_seeds(tmp_path)
    (tmp_path / "builtin").symlink_to(HERE / "builtin")
    text = cards.card("mamba2", tmp_path)
    assert "## Other training seeds" in text
    assert "| `mamba2-2` |" in text
    assert "(3 seeds of each model)" in text


def test_a_model_wins_over_seeds_only_if_it_is_ahead_with_each() -> None:
    spread = seeds.Spread.of([0.1, 0.2, 0.3])
    assert (spread.mean, spread.winner) == (pytest.approx(0.2), seeds.SECOND)
    assert (spread.low, spread.high) == (pytest.approx(0.2 - 0.24843, abs=1e-4), pytest.approx(0.44843, abs=1e-4))
    assert seeds.Spread.of([-0.1, -0.2]).winner == seeds.FIRST
    assert seeds.Spread.of([0.1, 0.0]).winner == ""
    with pytest.raises(ValueError, match="at least two"):
        seeds.Spread.of([0.1])


def test_held_out_text_goes_through_the_file_of_prompts_as_it_is() -> None:
    arrays = {"tokens": np.array([5, 6, 0], np.uint16), "ends": np.array([3]), "n_bytes": np.array([7])}
    again = text.from_json(json.loads(json.dumps(text.to_json({"novels": TokenStream(**arrays)}))))
    for part, values in arrays.items():
        np.testing.assert_array_equal(getattr(again["novels"], part), values)
        assert getattr(again["novels"], part).dtype == values.dtype


def test_weights_of_another_seed_load_from_a_bare_file_a_folder_or_a_run(tmp_path: Path) -> None:
    folder = demo_folder("mamba2")
    (tmp_path / "model").symlink_to(folder)
    (tmp_path / "results.json").write_text(json.dumps({"seed": 4, "tokens": 99}))
    shipped, _ = load_demo("mamba2")
    for path, seed, tokens in ((folder, 1, None), (folder / "model.safetensors", 1, None), (tmp_path, 4, 99)):
        weights = Weights.at("mamba2", path, 1)
        assert (weights.seed, weights.tokens, weights.sha256) == (seed, tokens, weights_sha256(folder))
        loaded = weights.load("cpu").state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in shipped.state_dict().items())


def run_folder(folder: Path, **results: int) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").touch()
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_a_pair_has_one_seed_of_its_own_and_one_training(tmp_path: Path) -> None:
    one = run_folder(tmp_path / "one", seed=1, tokens=10)
    other, longer = (
        run_folder(tmp_path / "other", seed=2, tokens=10),
        run_folder(tmp_path / "longer", seed=1, tokens=20),
    )
    assert [pair["mamba2"].seed for pair in pairs_of((one, other), (one, other))] == [0, 1, 2]
    with pytest.raises(ValueError, match="as many of both"):
        pairs_of((one,), ())
    for unlike in (other, longer):
        with pytest.raises(ValueError, match="trained on the same rows"):
            pairs_of((one,), (unlike,))
    with pytest.raises(ValueError, match="each must occur once"):
        pairs_of((one, one), (one, one))


def test_every_seed_of_a_model_is_measured_in_every_cell_and_on_held_out_text_beside_real_stories(
    tmp_path: Path,
) -> None:
    other = run_folder(tmp_path / "other", seed=3, tokens=10)
    options = run.SeedOptions(device="cpu", mamba2=(other,), diff_mamba2=(other,))
    for name, n_texts in (("builtin", 0), ("paper", 1)):
        recipe = run.QUESTION.recipe_of(replace(options, recipe=name))
        units = run.QUESTION.units_of(Asked(recipe=recipe, options=options))
        assert len(set(units)) == len(units) == 2 * 2 * (len(recipe.wanted) + n_texts)


def test_the_page_of_training_seeds_is_what_its_files_give() -> None:
    assert (HERE / "SEEDS.md").read_text(encoding="utf-8") == seeds.page()
