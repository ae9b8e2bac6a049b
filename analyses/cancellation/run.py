"""What does the subtrahend of the bundled Diff-Mamba-2 take away: noise, the needle, or nothing?

    python analyses/cancellation/run.py --recipe builtin      generated stories in generated text
    python analyses/cancellation/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

For every prompt, block and head: the size of what minuend, λ · subtrahend and their difference write from needle and
noise to the answer's logit. Writes records.parquet, results.json and figures into a folder named after the recipe, then
README.md.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from analyses.cancellation import report, summary
from diffmamba_interp import inspect_checkpoint
from diffmamba_interp.analysis.prompts import PromptRecipe, cells, data_of
from diffmamba_interp.analysis.results import provenance, read_recipe, write_records, write_results
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, PICTURES, Allocation, allocate_prompts
from diffmamba_interp.models.demo import DemoName, demo_folder, load_demo
from diffmamba_interp.needle import TASKS, NeedleSample

HERE = Path(__file__).parent
MODEL: DemoName = "diff-mamba2"
BATCH_TOKENS = {"cpu": 8_192, "cuda": 32_768}

Columns = dict[str, list[Any]]


def main(
    recipe: str = "builtin",
    data: Path = Path("../shared/data"),
    out: Path = HERE,
    n: tuple[int, ...] | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    batch_tokens: int | None = None,
    jobs: int = 2,
) -> None:
    """Measure the differential model, then write records, results, figures and README.

    data: holds babi_tasks_v1-2.tar.gz and novels/ (recipe "paper" alone reads them).
    n: prompts per cell instead of the recipe's, one number for each length, or one for all.
    batch_tokens: per forward pass; None chooses by device. jobs: tasks at a time.
    """
    settings = read_recipe(HERE / "recipe.toml", recipe, PromptRecipe).with_n(n)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(measure, task, settings, data, device, batch_tokens) for task in TASKS]
        parts = [one.result() for one in running]
    records = {name: [value for part, _ in parts for value in part[name]] for name in parts[0][0]}
    found = {length: joined([part[length] for _, part in parts]) for length in settings.lengths}
    folder = out / recipe
    write_records(folder / "records.parquet", records, decimals=4 if settings.stories == "generated" else 2)
    write_results(
        folder / "results.json",
        provenance(recipe, settings, device=device, data=data_of(settings, data), models=(MODEL,)),
        {
            "lambda": [block.lambda_ for block in inspect_checkpoint(demo_folder(MODEL)).blocks],
            "cells": summary.summarise(summary.read(folder / "records.parquet")),
            "blocks": [summary.by_block(length, arrays) for length, arrays in found.items()],
            "heads": [summary.by_head(length, arrays) for length, arrays in found.items()],
        },
    )
    report.write(out)


def measure(
    task: str, recipe: PromptRecipe, data: Path, device: str, batch_tokens: int | None
) -> tuple[Columns, dict[int, summary.Arrays]]:
    """Records of one task, and per length what blocks and heads do."""
    if device == "cpu":
        torch.set_num_threads(1)
    model, _ = load_demo(MODEL, device=device)
    size = batch_tokens or BATCH_TOKENS[torch.device(device).type]
    records: Columns = defaultdict(list)
    found = {}
    for _, length, samples in cells(recipe, data, [task]):
        made = allocate_prompts(model, samples, per_head=True, batch_tokens=size)
        add_records(records, samples, made)
        found[length] = summary.arrays_of(made)
        print(f"{task} at {length}: {len(samples)} prompts", flush=True)
    return records, found


def joined(parts: Sequence[summary.Arrays]) -> summary.Arrays:
    """The prompts of all tasks."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def add_records(columns: Columns, samples: list[NeedleSample], found: Allocation) -> None:
    """One line per prompt and direction: sizes on needle and noise in logits, over all blocks."""
    pictures = torch.cat([found.mass, found.smaller.unsqueeze(3)], dim=3).nan_to_num(0.0).sum(dim=2)
    needle = pictures[..., CLASSES.index("needle")]
    noise = pictures[..., [CLASSES.index(name) for name in summary.NOISE]].sum(dim=-1)
    for index, sample in enumerate(samples):
        for number, direction in enumerate(DIRECTIONS):
            line = {
                "direction": direction,
                "task": sample.task,
                "length": sample.length,
                "story": sample.story_hash[:16],
                "cosine": float(found.cosine[index, number].nanmean()),
            }
            for name, sizes in (("needle", needle), ("noise", noise)):
                for place, picture in enumerate((*PICTURES, "smaller")):
                    line[f"{picture}_{name}"] = float(sizes[index, number, place])
            for name, value in line.items():
                columns[name].append(value)


if __name__ == "__main__":
    tyro.cli(main)
