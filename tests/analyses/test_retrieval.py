"""The shipped answers of the retrieval analysis are of the shipped weights, and come out again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.retrieval import cards, material, prompts, report, run, seeds
from analyses.retrieval.weights import Weights, pairs_of
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, demo_folder, load_demo, load_demo_tokenizer
from diffmamba_interp.needle import TASKS, Filler, Haystack
from diffmamba_interp.needle.accuracy_grid import (
    PromptRow,
    hide_stories,
    prompt_rows,
    read_rows,
    summarise,
    write_rows,
)
from diffmamba_interp.needle.scoring import score_labels
from diffmamba_interp.runs.provenance import weights_sha256
from diffmamba_interp.text import TokenStream

RECIPES = ("builtin", "paper")
MAX_FILE_BYTES = 400_000
# Prompts of each model that are scored again: two of every task, the second one in filler for qa1 and qa4.
IN_FILLER = ("qa1", "qa4")


def shipped_rows(recipe: str) -> list[PromptRow]:
    return read_rows(run.HERE / recipe / "records.csv.xz")


def shipped_results(recipe: str) -> dict:
    return json.loads((run.HERE / recipe / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_ten_prompts_of_each_model_score_as_shipped(name: DemoName) -> None:
    recipe = prompts.Recipe.read("builtin")
    tokenizer = load_demo_tokenizer()
    haystack = Haystack(tokenizer, Filler.from_texts(tokenizer, prompts.filler_texts(recipe, Path())))
    samples = []
    for task in TASKS:
        stories = prompts.stories_of(task, recipe, Path(), n=2)
        in_filler = 1 if task in IN_FILLER else 0
        samples += hide_stories(haystack, stories, n=2 - in_filler, length=0, seed=recipe.seed)
        samples += hide_stories(haystack, stories, n=in_filler, length=1024, seed=recipe.seed)
    model, _ = load_demo(name)
    scores = score_labels(model, samples, batch_tokens=4096, n_generated=run.N_GENERATED)
    shipped = {(row.task, row.length, row.story): row for row in shipped_rows("builtin") if row.model == name}
    again = prompt_rows(name, samples, scores, tokenizer)
    assert len(again) == 10
    for row in again:
        kept = shipped[row.task, row.length, row.story]
        assert (row.labels, row.answer, row.n_tokens, row.n_mentioned) == (
            kept.labels,
            kept.answer,
            kept.n_tokens,
            kept.n_mentioned,
        )
        assert row.log_probs == pytest.approx(kept.log_probs, abs=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_results_are_those_of_the_shipped_weights_and_of_the_recipe_s_seed(recipe: str) -> None:
    made = shipped_results(recipe)["provenance"]
    assert made["models"] == {name: weights_sha256(demo_folder(name)) for name in DEMO_NAMES}
    stated = prompts.Recipe.read(recipe)
    assert made["recipe"]["name"] == recipe
    assert (made["seed"], tuple(made["recipe"]["lengths"])) == (stated.seed, stated.lengths)
    assert made["versions"]["torch"]
    assert (recipe == "paper") == bool(made.get("data"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_cells_of_every_seed_follow_from_the_records(recipe: str) -> None:
    results, grids = report.read_results(run.HERE / recipe)
    rows = shipped_rows(recipe)
    trained = [0, *(one["seed"] for one in results["provenance"]["other_seeds"])]
    for seed, cells in zip(trained, grids, strict=True):
        again = summarise(rows, seeds.pair_of(seed))
        assert [(c.task, c.length, c.n, c.models) for c in cells] == [(c.task, c.length, c.n, c.models) for c in again]
        differences = [c.difference.value for c in cells if c.difference]
        assert differences == [c.difference.value for c in again if c.difference]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_shipped_files_are_small(recipe: str) -> None:
    sizes = {file.name: file.stat().st_size for file in (run.HERE / recipe).iterdir()}
    assert "records.csv.xz" in sizes
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}


def test_the_page_and_the_figures_are_those_that_the_results_give(tmp_path: Path) -> None:
    for recipe in RECIPES:
        (tmp_path / recipe).mkdir()
        for name in ("results.json", "records.csv.xz"):
            (tmp_path / recipe / name).write_bytes((run.HERE / recipe / name).read_bytes())
    report.write(tmp_path)
    for name in ("README.md", *(f"{recipe}/{figure}.svg" for recipe in RECIPES for figure in ("accuracy", "ratio"))):
        assert (tmp_path / name).read_text() == (run.HERE / name).read_text(), name


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_the_cards_are_those_that_training_and_results_give(name: DemoName) -> None:
    assert (demo_folder(name) / "CARD.md").read_text(encoding="utf-8") == cards.card(name, run.HERE)


def test_results_of_other_weights_make_no_card(tmp_path: Path) -> None:
    results = shipped_results("builtin")
    results["provenance"]["models"]["mamba2"] = "0" * 64
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="run it again"):
        cards.read_results(tmp_path / "results.json", "mamba2")


def with_other_seeds(folder: Path) -> None:
    """Results of the paper recipe as if two more seeds had been trained, both better in the differential model."""
    rows = shipped_rows("paper")
    for seed in (1, 2):
        for row in [one for one in rows if one.model in (seeds.FIRST, seeds.SECOND)]:
            is_right = row.model == seeds.SECOND or row.index % (seed + 1) > 0
            predicted = row.answer if is_right else next(label for label in row.labels if label != row.answer)
            rows.append(replace(row, model=seeds.name_of(row.model, seed), predicted=predicted))
    results = shipped_results("paper")
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
    report.write(tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "With 3 training seeds of each model" in page
    assert "| seed 1 (5M tokens) | seed 2 (5M tokens) | mean (95 %) |" in page
    assert "mamba2 seed 2 `mamba2-2`" in page
    assert "not all trained on as many tokens" in page
    assert "One training seed" not in page
    assert "opacity" in (tmp_path / "paper" / "accuracy.svg").read_text(encoding="utf-8")


def test_the_card_of_several_seeds_lists_them(tmp_path: Path) -> None:
    with_other_seeds(tmp_path)
    (tmp_path / "builtin").symlink_to(run.HERE / "builtin")
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


@pytest.fixture
def small_material() -> material.Material:
    recipe, tokenizer = prompts.Recipe.read("builtin"), load_demo_tokenizer()
    haystack = Haystack(tokenizer, Filler.from_texts(tokenizer, prompts.filler_texts(recipe, Path())[:20]))
    stories = {task: prompts.stories_of(task, recipe, Path(), n=2) for task in ("qa1", "qa2")}
    stream = TokenStream(
        tokens=np.array([5, 6, 0], dtype=np.uint16), ends=np.array([3]), n_bytes=np.array([7], dtype=np.int64)
    )
    return material.Material(
        recipe=recipe,
        cells=tuple(tuple(hide_stories(haystack, own, n=2, length=256, seed=7)) for own in stories.values()),
        text={"novels": stream},
        data_sha256={"novels": "0" * 64},
    )


def test_material_comes_back_from_its_file_as_it_was(small_material: material.Material, tmp_path: Path) -> None:
    small_material.save(tmp_path / "file")
    again = material.Material.load(tmp_path / "file", small_material.recipe)
    assert [[sample.to_record() for sample in cell] for cell in again.cells] == [
        [sample.to_record() for sample in cell] for cell in small_material.cells
    ]
    assert (again.recipe, again.data_sha256) == (small_material.recipe, small_material.data_sha256)
    assert again.text["novels"].tokens.tolist() == [5, 6, 0]
    bare = material.Material.load(tmp_path / "file", with_prompts=False)
    assert bare.cells[0][0].prompt == ""
    assert bare.cells[0][0].tokens.tolist() == small_material.cells[0][0].tokens.tolist()


def test_material_of_another_recipe_is_refused(small_material: material.Material, tmp_path: Path) -> None:
    small_material.save(tmp_path / "file")
    with pytest.raises(ValueError, match="make it again"):
        material.Material.load(tmp_path / "file", prompts.Recipe.read("builtin", n=(5,)))


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


def test_several_gpus_share_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert run.devices_of("cuda", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert run.devices_of("cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert run.devices_of("cpu", 2) == ["cpu", "cpu"]


def test_one_number_of_prompts_serves_every_length() -> None:
    assert prompts.Recipe.read("paper", n=(9,)).n == (9,) * len(prompts.Recipe.read("paper").lengths)


def test_an_unknown_recipe_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="builtin, paper"):
        prompts.Recipe.read("long")


def test_n_needs_one_number_for_each_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one for each of the lengths"):
        run.main(recipe="builtin", out=tmp_path, n=(1, 2))
