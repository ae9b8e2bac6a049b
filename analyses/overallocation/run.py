"""Does a Mamba spend its reading on irrelevant context, and does the subtraction spare it that? (arXiv 2507.06204)

    python analyses/overallocation/run.py --recipe builtin      generated stories in generated text
    python analyses/overallocation/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

For every prompt and model: the share of |contribution to the answer's logit|, at the last position and over all
blocks, that falls on needle, question, distractors and filler. Writes records.parquet, blocks.parquet, results.json and
figures into a folder named after the recipe, then README.md.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from analyses.overallocation import report, summary
from diffmamba_interp.analysis.prompts import PromptRecipe, cells, data_of
from diffmamba_interp.analysis.results import provenance, read_recipe, write_records, write_results
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, PICTURES, Allocation, allocate_prompts
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, load_demo
from diffmamba_interp.needle import TASKS, NeedleSample

HERE = Path(__file__).parent
BATCH_TOKENS = {"cpu": 8_192, "cuda": 32_768}
BLOCK_PROMPTS = 100  # of each cell, in blocks.parquet
ANSWER, CONTRAST = (DIRECTIONS.index(name) for name in ("answer", "contrast"))
NEEDLE = CLASSES.index("needle")
NOISE = [CLASSES.index(name) for name in summary.NOISE]
NAMES = {"mamba2": {"net": "plain"}, "diff-mamba2": dict(zip(PICTURES, summary.PICTURES[1:], strict=True))}

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
    """Measure both models on the same prompts, then write records, results, figures and README.

    data: holds babi_tasks_v1-2.tar.gz and novels/ (recipe "paper" alone reads them).
    n: prompts per cell instead of the recipe's, one number for each length, or one for all.
    batch_tokens: per forward pass; None chooses by device. jobs: tasks at a time.
    """
    settings = read_recipe(HERE / "recipe.toml", recipe, PromptRecipe).with_n(n)
    work = [(name, task) for name in DEMO_NAMES for task in TASKS]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(measure, name, task, settings, data, device, batch_tokens) for name, task in work]
        parts = [one.result() for one in running]
    records, blocks = (together([part[number] for part in parts]) for number in range(2))
    folder = out / recipe
    # A test compares the small recipe's to 0.001; the other's are many.
    write_records(folder / "records.parquet", records, decimals=5 if settings.stories == "generated" else 3)
    # A sample of them, and without the branches: every number would be ten times the size.
    kept = np.isin(blocks["picture"], summary.WRITTEN) & (blocks["index"] < BLOCK_PROMPTS)
    kept_blocks = {name: column[kept] for name, column in blocks.items()}
    write_records(folder / "blocks.parquet", kept_blocks, decimals=1 if settings.stories == "generated" else 0)
    write_results(
        folder / "results.json",
        provenance(recipe, settings, device=device, data=data_of(settings, data)),
        {
            "cells": summary.summarise(summary.read(folder / "records.parquet")),
            "blocks": summary.by_block(blocks),
        },
    )
    report.write(out)


def measure(
    name: DemoName, task: str, recipe: PromptRecipe, data: Path, device: str, batch_tokens: int | None
) -> list[Columns]:
    """One model's records and blocks of one task."""
    if device == "cpu":
        torch.set_num_threads(1)
    model, _ = load_demo(name, device=device)
    size = batch_tokens or BATCH_TOKENS[torch.device(device).type]
    records: Columns = defaultdict(list)
    blocks: Columns = defaultdict(list)
    for _, length, samples in cells(recipe, data, [task]):
        found = allocate_prompts(model, samples, batch_tokens=size)
        add_records(records, name, samples, found)
        add_blocks(blocks, name, samples, found)
        print(f"{name} {task} at {length}: {len(samples)} prompts", flush=True)
    return [records, blocks]


def together(parts: list[Columns]) -> dict[str, np.ndarray]:
    """The lines of all models, those of one prompt beside each other, which packs well."""
    columns = {name: np.array([value for part in parts for value in part[name]]) for name in parts[0]}
    order = np.lexsort((columns["story"], columns["length"], columns["task"]))
    return {name: column[order] for name, column in columns.items()}


def add_records(columns: Columns, model: str, samples: list[NeedleSample], found: Allocation) -> None:
    """One line per prompt and picture: shares over all blocks, for the answer's logit and in part for the contrast."""
    mass = found.mass.nan_to_num(0.0).sum(dim=2)  # prompt direction picture span_class
    share = (mass / mass.sum(dim=-1, keepdim=True)).numpy()
    for index, sample in enumerate(samples):
        for number, picture in enumerate(PICTURES):
            if picture not in NAMES[model]:
                continue
            own, contrast = share[index, ANSWER, number], share[index, CONTRAST, number]
            line = {
                "model": model,
                "picture": NAMES[model][picture],
                "task": sample.task,
                "length": sample.length,
                "story": sample.story_hash[:16],
                "n_tokens": sample.n_tokens,
                "n_needle": int(found.n_sources[index, NEEDLE]),
                **{name: float(own[place]) for place, name in enumerate(CLASSES) if name != "other"},
                "contrast_needle": float(contrast[NEEDLE]),
                "contrast_noise": float(contrast[NOISE].sum()),
            }
            for name, value in line.items():
                columns[name].append(value)


def add_blocks(columns: Columns, model: str, samples: list[NeedleSample], found: Allocation) -> None:
    """One line per prompt and picture: each block's noise share (%) and its needle's signal-to-noise ratio (dB)."""
    mass = found.mass[:, ANSWER].numpy()  # prompt block picture span_class
    noise = 100 * mass[..., NOISE].sum(axis=-1) / mass.sum(axis=-1)
    snr = found.snr_db[:, ANSWER].numpy().clip(-99, 99)
    for index, sample in enumerate(samples):
        for number, picture in enumerate(PICTURES):
            if picture not in NAMES[model]:
                continue
            line: dict[str, Any] = {"model": model, "picture": NAMES[model][picture], "task": sample.task}
            line |= {"length": sample.length, "story": sample.story_hash[:16], "index": index}
            for block in range(mass.shape[1]):
                line[f"noise_{block}"] = noise[index, block, number]
                line[f"snr_db_{block}"] = snr[index, block, number]
            for name, value in line.items():
                columns[name].append(value)


if __name__ == "__main__":
    tyro.cli(main)
