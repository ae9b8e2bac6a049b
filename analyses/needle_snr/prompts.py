"""The prompts of a recipe in a file: made once, on CPUs, and read by every model."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from diffmamba_interp.analysis.prompts import PromptRecipe, cells, data_of, each_once
from diffmamba_interp.analysis.results import provenance
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import TASKS, NeedleSample
from diffmamba_interp.needle.records import load_samples, save_samples


def save_prompts(path: Path, recipe: PromptRecipe, data: Path, jobs: int) -> None:
    """The prompts of all tasks and lengths, with the recipe and the sha256 of the data. jobs: processes."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(partial(task_prompts, recipe, data), TASKS))
    prompts = [sample for part in parts for sample in part]
    sha256 = provenance("", recipe, device="cpu", data=data_of(recipe, data), models=()).get("data", {})
    save_samples(path, prompts, {"recipe": plain(recipe), "data": sha256})
    print(f"{len(prompts)} prompts of {sum(sample.n_tokens for sample in prompts):,} tokens", flush=True)


def load_prompts(path: Path, recipe: PromptRecipe) -> tuple[list[NeedleSample], dict[str, str]]:
    """The prompts and the sha256 of the data. Raises ValueError if they were made for another recipe."""
    samples, about = load_samples(path, load_demo_tokenizer())
    if about["recipe"] != plain(recipe):
        raise ValueError(f"{path} was made for {about['recipe']}, not for {plain(recipe)}: prepare it again.")
    return samples, about["data"]


def task_prompts(recipe: PromptRecipe, data: Path, task: str) -> list[NeedleSample]:
    """The prompts of one task, each once."""
    return each_once(sample for _, _, prompts in cells(recipe, data, [task]) for sample in prompts)


def plain(recipe: PromptRecipe) -> dict[str, Any]:
    """As JSON gives it back, with lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}
