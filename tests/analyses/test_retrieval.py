"""The shipped answers of the retrieval analysis are of the shipped weights, and come out again."""

import json
from pathlib import Path

import pytest

from analyses.retrieval import cards, prompts, report, run
from diffmamba_interp.lens.card import weights_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, demo_folder, load_demo, load_demo_tokenizer
from diffmamba_interp.needle import TASKS, Filler, Haystack
from diffmamba_interp.needle.accuracy_grid import Cell, PromptRow, hide_stories, prompt_rows, read_rows, summarise
from diffmamba_interp.needle.scoring import score_labels

RECIPES = ("builtin", "paper")
MAX_FILE_BYTES = 300_000
# Prompts of each model that are scored again: two of every task, the second one in filler for qa1 and qa4.
IN_FILLER = ("qa1", "qa4")


def shipped_rows(recipe: str) -> list[PromptRow]:
    return read_rows(run.HERE / recipe / "records.csv.gz")


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
    assert (recipe == "paper") == ("data" in made)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_cells_follow_from_the_records(recipe: str) -> None:
    cells = [Cell.from_dict(values) for values in shipped_results(recipe)["cells"]]
    again = summarise(shipped_rows(recipe), (report.FIRST, report.SECOND))
    assert [(c.task, c.length, c.n, c.models) for c in cells] == [(c.task, c.length, c.n, c.models) for c in again]
    assert [c.difference.value for c in cells if c.difference] == [c.difference.value for c in again if c.difference]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_shipped_files_are_small(recipe: str) -> None:
    sizes = {file.name: file.stat().st_size for file in (run.HERE / recipe).iterdir()}
    assert "records.csv.gz" in sizes
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}


def test_the_page_and_the_figures_are_those_that_the_results_give(tmp_path: Path) -> None:
    for recipe in RECIPES:
        (tmp_path / recipe).mkdir()
        for name in ("results.json", "records.csv.gz"):
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


def test_an_unknown_recipe_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="builtin, paper"):
        prompts.Recipe.read("long")


def test_n_needs_one_number_for_each_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one for each of the lengths"):
        run.main(recipe="builtin", out=tmp_path, n=(1,))
