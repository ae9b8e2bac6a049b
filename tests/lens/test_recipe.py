"""Recipes: files and overrides, unknown keys, schedules, and what makes two runs different."""

from dataclasses import replace
from pathlib import Path

import pytest

from diffmamba_interp.lens import LensRecipe, read_recipe, write_recipe
from diffmamba_interp.lens.recipe import first_difference, with_schedule


def test_a_written_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = LensRecipe(model='a "quoted" \\ name', steps=7, lr_scale=0.3, loss="ce", tokenizer="tök")
    write_recipe(recipe, tmp_path / "recipe.toml")
    assert read_recipe(tmp_path / "recipe.toml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepps = 3", r"recipe.toml: unknown keys stepps\. Known: kind, model, tokenizer"),
        ("steps = 'three'", "steps .* whole number"),
        ("steps = true", "steps .* whole number"),
        ("steps = 0", "steps is 0: it must be positive"),
        ("lr_scale = 'fast'", "lr_scale .* a number"),
        ("loss = 'mse'", "loss .* one of kl, ce"),
        ("model = 3", "model .* a string"),
        ("steps = ", "not valid TOML"),
        ("sequence_length = 10\ntokens_per_step = 25", "no multiple of sequence_length 10"),
        ("sequence_length = 1", "sequence_length is 1"),
        ("snapshot_minutes = -1", "cannot be negative"),
        ("lr_scale = 0", "must be positive"),
        ("lr_scale = nan", "lr_scale is nan: it must be a finite number"),
        ("lr_scale = inf", "lr_scale is inf: it must be a finite number"),
        ("snapshot_minutes = nan", "snapshot_minutes is nan: it must be a finite number"),
        ("snapshot_minutes = inf", "snapshot_minutes is inf: it must be a finite number"),
        ("seed = -1", r"seed is -1: it must lie in \[0, 2\^32\)"),
        (f"seed = {10**30}", r"seed is 10+: it must be"),
        (f"steps = {10**30}", r"steps is 10+: it must be"),
        ("branches = true", "branches is True, which says nothing about a tuned lens: leave it out, or give kind"),
        ("kind = 'jacobian'\nsteps = 6", "steps is 6, which says nothing about a jacobian lens"),
        ("kind = 'jacobian'\nprompt_tokens = 17", "prompt_tokens is 17, of which the first 16 and the last"),
        ("kind = 'jacobian'\nskip_first = 200", "prompt_tokens is 128.*give at least 202, or a smaller skip_first"),
        ("kind = 'jacobian'\nskip_first = -1", "skip_first is -1: it cannot be negative"),
        ("kind = 'jacobian'\nprompts = 0", "prompts is 0: it must be positive"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(tmp_path / "recipe.toml")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.toml"):
        read_recipe(tmp_path / "none.toml")


def test_the_full_schedule_is_the_papers_and_given_sizes_stay() -> None:
    full = with_schedule(LensRecipe(), quick=False)
    assert (full.steps, full.tokens_per_step, full.sequence_length) == (250, 2**18, 2048)
    assert full.sequences_per_step == 128
    given = with_schedule(LensRecipe(steps=3, sequence_length=100), quick=True)
    assert (given.steps, given.sequence_length, given.tokens_per_step) == (3, 100, 4000)
    assert with_schedule(LensRecipe(), quick=True).steps != 250


def test_a_jacobian_lens_has_a_schedule_of_its_own() -> None:
    full, quick = (with_schedule(LensRecipe(kind="jacobian"), quick=quick) for quick in (False, True))
    assert (full.prompts, full.prompt_tokens, full.steps, full.tokens_per_step) == (100, 128, None, None)
    assert (quick.prompts, quick.sequence_length, quick.eval_tokens) == (32, 256, 2**14)
    given = with_schedule(LensRecipe(kind="jacobian", prompts=5, prompt_tokens=40), quick=False)
    assert (given.prompts, given.prompt_tokens) == (5, 40)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"lr_scale": 2.0}, "lr_scale"), ({"model": "other"}, "model"), ({"seed": 1, "steps": 9}, "steps")],
)
def test_the_first_field_that_differs_is_named(change: dict, name: str) -> None:
    recipe = LensRecipe()
    difference = first_difference(recipe, replace(recipe, **change))
    assert difference is not None
    assert difference[0] == name


def test_where_and_how_fast_a_run_goes_does_not_make_it_another() -> None:
    recipe = LensRecipe()
    moved = replace(recipe, out="elsewhere", device="cpu", micro_batch=2, snapshot_minutes=1.0, report_to="wandb")
    assert first_difference(recipe, moved) is None


def test_a_run_of_before_there_were_splits_to_choose_goes_on_only_by_hash() -> None:
    older = LensRecipe(data="texts")
    assert first_difference(older, replace(older, split="hash")) is None
    assert first_difference(older, replace(older, split="run")) == ("split", "hash", "run")


def test_where_eval_tokens_decides_what_is_held_out_it_makes_another_run() -> None:
    for split, difference in (("hash", None), ("run", ("eval_tokens", 10, 20))):
        recipe = LensRecipe(split=split, eval_tokens=10)
        assert first_difference(recipe, replace(recipe, eval_tokens=20)) == difference


def test_a_whole_text_can_only_be_measured_on() -> None:
    with pytest.raises(ValueError, match="split is 'whole', which leaves nothing to train on: give it with eval_only"):
        LensRecipe(split="whole")
    assert LensRecipe(split="whole", eval_only="lens").split == "whole"
    with pytest.raises(ValueError, match=r"max_unpacked_gb is 0\.0"):
        LensRecipe(max_unpacked_gb=0.0)
