"""The conversion analysis compares like with like, and its page follows from its results."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analyses.conversion import report, run
from diffmamba_interp.lm_training.preparation import make_model
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.models.demo import DEMO_FOLDER, demo_folder
from diffmamba_interp.needle import TASKS
from diffmamba_interp.needle.accuracy_grid import PromptRow, summarise, write_rows
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.runs.provenance import weights_sha256
from diffmamba_interp.runs.settings import read_toml
from diffmamba_interp.text import Document, TokenStream, load_tokenizer, write_tokens
from diffmamba_interp.text.generated_text import generated_documents

SHIPPED = run.HERE / "results.json"
needs_results = pytest.mark.skipif(not SHIPPED.is_file(), reason="the analysis has not been run yet")


@pytest.fixture(scope="module")
def recipes(project_root: Path) -> dict[str, Recipe]:
    return {name: read_toml(Recipe, project_root / "recipes" / f"conversion_{name}.toml") for name in report.NAMES}


@pytest.fixture
def trained() -> dict[str, dict[str, Any]]:
    return {name: {"data_sha256": {"a": "1"}, "step": 300, "tokens": 10} for name in report.NAMES}


def rows_of(right: Callable[[str, int], bool]) -> list[PromptRow]:
    """40 prompts of one task, bare and at 1k; `right(model, index)` says who answers which."""
    names = [report.model_name(name, stage) for stage in (report.BEFORE, report.AFTER) for name in report.NAMES]
    return [
        PromptRow(
            model=name,
            task="qa1",
            length=length,
            index=index,
            story=f"{index:016x}",
            n_tokens=40,
            n_mentioned=2,
            answer="garden",
            labels=("garden", "office"),
            predicted="garden" if right(name, index) else "office",
            generated="garden",
        )
        for name in names
        for length in (0, 1024)
        for index in range(40)
    ]


def results_of(rows: list[PromptRow], recipe: Recipe) -> dict[str, Any]:
    models = list(dict.fromkeys(row.model for row in rows))
    data = {"data": {"length": recipe.data.length}, "optimiser": {"lr": 1e-3, "warmup": 30, "floor": 0.0}}
    return {
        "provenance": {
            "start": {"path": "start", "sha256": "s" * 64},
            "fine_tuned": {name: name * 2 for name in report.NAMES},
            "training": {
                "recipe": {**data, "batch_size": 64, "precision": "bf16"},
                **{"step": 300, "tokens": 19_660_800, "seed": 11, "data_sha256": {"runs/x.npy": "d" * 64}},
                **{"device": "cuda:0", "versions": {"torch": "2"}},
            },
            "is_complete": True,
            **{"n": 40, "seed": 13, "versions": {"torch": "2"}, "device": "cpu"},
        },
        "models": {
            name: {
                "n_parameters": 10,
                "lambda": {} if "plain" in name else {"3": 1.25},
                "bits_per_byte": {"pile_eval": 1.5},
            }
            for name in models
        },
        "cells": [cell.to_dict() for cell in summarise(rows, models)],
    }


def test_the_three_recipes_differ_in_placement_and_alignment_alone(recipes: dict[str, Recipe]) -> None:
    plain = recipes["plain"]
    assert plain.model.placement is None
    for name in ("published", "by_component"):
        assert (recipes[name].model.placement, recipes[name].model.alignment) == ("quarter", name)
        assert replace(recipes[name].model, placement=None, alignment=plain.model.alignment) == plain.model
        assert replace(recipes[name], model=plain.model) == plain


def test_fine_tuning_goes_on_with_the_data_that_the_demo_pair_was_trained_on(
    recipes: dict[str, Recipe], project_root: Path
) -> None:
    demo = read_toml(Recipe, project_root / "recipes" / "demo_mamba2.toml")
    assert (recipes["plain"].data, recipes["plain"].batch_size) == (demo.data, demo.batch_size)
    assert recipes["plain"].seed != demo.seed


def test_the_recipes_start_from_the_demo_mamba2_and_convert_its_last_quarter(
    recipes: dict[str, Recipe], project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project_root)
    assert weights_sha256(str(recipes["plain"].model.init_from)) == weights_sha256(demo_folder("mamba2"))
    for name in report.NAMES:
        model = make_model(recipes[name].model, seed=0)
        converted = () if name == "plain" else (9, 10, 11)
        assert tuple(model.cfg.differential_blocks) == converted


def test_runs_that_differ_in_more_than_the_model_are_not_compared(
    recipes: dict[str, Recipe], trained: dict[str, dict[str, Any]]
) -> None:
    run.require_same_training(recipes, trained)
    with pytest.raises(ValueError, match="published differ in steps"):
        run.require_same_training({**recipes, "published": replace(recipes["published"], steps=7)}, trained)
    other = replace(recipes["by_component"].model, init_from="elsewhere")
    with pytest.raises(ValueError, match=r"by_component differ in model\.init_from"):
        run.require_same_training({**recipes, "by_component": replace(recipes["by_component"], model=other)}, trained)
    stopped = {"data_sha256": {"a": "2"}, "step": 100, "tokens": 10}
    with pytest.raises(ValueError, match="published differ in data_sha256, step"):
        run.require_same_training(recipes, {**trained, "published": stopped})


def test_the_page_says_which_alignment_is_better_and_which_cannot_be_told_apart(
    recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    def right(model: str, index: int) -> bool:
        return index < {"published before": 2, "by_component before": 4, "by_component after": 39}.get(model, 20)

    rows = rows_of(right)
    write_rows(tmp_path / "records.csv.xz", rows)
    (tmp_path / "results.json").write_text(json.dumps(results_of(rows, recipes["plain"])))
    report.write(tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (
        "`published`, against the plain model treated the same: at 0k worse by 0.450 before and not told apart" in page
    )
    assert "at 1k worse by 0.400 before and better by 0.475 after fine-tuning" in page
    assert "| plain after | by component after | 0k | 40 | +0.475" in page
    svg = (tmp_path / "accuracy.svg").read_text(encoding="utf-8")
    assert all(name in svg for name in report.DRAWN)


def test_prompts_are_held_out_stories_bare_and_in_filler(
    recipes: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(DEMO_FOLDER / "tokenizer")
    texts = list(generated_documents(n_chars=20_000, seed=1))
    write_tokens([Document(text, str(i)) for i, text in enumerate(texts)], tokenizer, tmp_path / "filler.npy")
    asked: list[str] = []

    def stories(path: str, task: str) -> list[Any]:
        asked.append(task)
        return measure_stories[task]

    measure_stories = {task: generate_stories(task, n=3, n_facts=(2, 4)) for task in TASKS}
    monkeypatch.setattr(run, "heldout_babi_stories", stories)
    evaluation = recipes["plain"].evaluation
    assert evaluation is not None
    recipe = replace(
        recipes["plain"],
        evaluation=replace(evaluation, filler=str(tmp_path / "filler.npy"), lengths=(0, 200), babi_path="babi"),
    )
    cells = run.prompts(recipe, tokenizer, 2)
    assert asked == list(TASKS)
    assert [(cell[0].task, cell[0].length, len(cell)) for cell in cells[:2]] == [("qa1", 0, 2), ("qa1", 200, 2)]
    assert len(cells) == 10
    assert len(TokenStream.load(tmp_path / "filler.npy").tokens) > 200


@needs_results
def test_the_shipped_results_start_from_the_shipped_mamba2() -> None:
    made = json.loads(SHIPPED.read_text(encoding="utf-8"))["provenance"]
    assert made["start"]["sha256"] == weights_sha256(demo_folder("mamba2"))
    assert made["is_complete"]


@needs_results
def test_the_shipped_page_is_the_one_that_the_results_give(tmp_path: Path) -> None:
    for name in ("results.json", "records.csv.xz"):
        (tmp_path / name).write_bytes((run.HERE / name).read_bytes())
    report.write(tmp_path)
    for name in ("README.md", "accuracy.svg"):
        assert (tmp_path / name).read_text() == (run.HERE / name).read_text(), name
