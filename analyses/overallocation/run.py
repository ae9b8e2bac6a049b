"""Does a Mamba spend its reading on irrelevant context, and does the subtraction spare it that? (arXiv 2507.06204)

    python analyses/overallocation/run.py --recipe builtin      generated stories in generated text
    python analyses/overallocation/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

For every prompt and model: the share of |contribution to the answer's logit|, at the last position and over all
blocks, that falls on needle, question, distractors and filler. Writes records.parquet, blocks.parquet, results.json and
figures into a folder named after the recipe, then README.md.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyses.overallocation import report
from diffmamba_interp.analysis.prompts import AllocationOptions, PromptRecipe, keep_lines, prompt_question, prompts_of
from diffmamba_interp.analysis.question import Asked, Parts, joined
from diffmamba_interp.analysis.results import write_records
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, PICTURES, Allocation, allocate_prompts
from diffmamba_interp.models.demo import DemoName
from diffmamba_interp.needle import NeedleSample

BLOCK_PROMPTS = 100  # of each cell, in blocks.parquet
ANSWER, CONTRAST = (DIRECTIONS.index(name) for name in ("answer", "contrast"))
NEEDLE = CLASSES.index("needle")
NOISE = [CLASSES.index(name) for name in report.NOISE]
NAMES = {"mamba2": {"net": "plain"}, "diff-mamba2": dict(zip(PICTURES, report.PICTURES[1:], strict=True))}
"""What records call the pictures of each model."""
ORDER = ("task", "length", "story")
"""The lines of one prompt stand beside each other, which packs well."""


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, dict[str, list[Any]]]:
    """One model's records and blocks of one cell, a line per prompt and picture."""
    samples = prompts_of(asked, task, length)
    allocation = allocate_prompts(asked.load(name), samples, batch_tokens=asked.options.size)
    return {"records": shares_of(name, samples, allocation), "blocks": blocks_of(name, samples, allocation)}


def shares_of(model: str, samples: Sequence[NeedleSample], allocation: Allocation) -> dict[str, list[Any]]:
    """Shares over all blocks, for the answer's logit and in part for the contrast."""
    mass = allocation.mass.nan_to_num(0.0).sum(dim=2)  # prompt direction picture span_class
    share = (mass / mass.sum(dim=-1, keepdim=True)).numpy()
    columns: dict[str, list[Any]] = defaultdict(list)
    for index, number, line in lines_of(model, samples):
        answer, contrast = share[index, ANSWER, number], share[index, CONTRAST, number]
        line |= {"n_tokens": samples[index].n_tokens, "n_needle": int(allocation.n_sources[index, NEEDLE])}
        line |= {name: float(answer[place]) for place, name in enumerate(CLASSES) if name != "other"}
        line |= {"contrast_needle": float(contrast[NEEDLE]), "contrast_noise": float(contrast[NOISE].sum())}
        for name, value in line.items():
            columns[name].append(value)
    return columns


def blocks_of(model: str, samples: Sequence[NeedleSample], allocation: Allocation) -> dict[str, list[Any]]:
    """Each block's noise share (%) and its needle's signal-to-noise ratio (dB)."""
    mass = allocation.mass[:, ANSWER].numpy()  # prompt block picture span_class
    noise = 100 * mass[..., NOISE].sum(axis=-1) / mass.sum(axis=-1)
    snr = allocation.snr_db[:, ANSWER].numpy().clip(-99, 99)
    columns: dict[str, list[Any]] = defaultdict(list)
    for index, number, line in lines_of(model, samples):
        line["index"] = index
        for block in range(mass.shape[1]):
            line |= {f"noise_{block}": noise[index, block, number], f"snr_db_{block}": snr[index, block, number]}
        for name, value in line.items():
            columns[name].append(value)
    return columns


def lines_of(model: str, samples: Sequence[NeedleSample]) -> list[tuple[int, int, dict[str, Any]]]:
    """Place of the prompt, place of the picture, and what tells their line from others."""
    return [
        (
            index,
            number,
            {
                "model": model,
                "picture": NAMES[model][picture],
                "task": sample.task,
                "length": sample.length,
                "story": sample.story_key,
            },
        )
        for index, sample in enumerate(samples)
        for number, picture in enumerate(PICTURES)
        if picture in NAMES[model]
    ]


def keep(folder: Path, recipe: PromptRecipe, parts: Parts) -> None:
    keep_lines(folder, recipe, parts, order=ORDER, decimals=(5, 3))
    # A sample of them, and without the branches: every number would be ten times the size.
    blocks = joined(parts, table="blocks", order=ORDER)
    kept = np.isin(blocks["picture"], report.WRITTEN) & (blocks["index"] < BLOCK_PROMPTS)
    kept_blocks = {name: column[kept] for name, column in blocks.items()}
    write_records(folder / "blocks.parquet", kept_blocks, decimals=0 if recipe.is_large else 1)


def all_blocks(parts: Parts) -> dict[str, Any]:
    """From the blocks of all prompts."""
    return {"blocks": report.by_block(joined(parts, table="blocks", order=ORDER))}


QUESTION = prompt_question(
    recipe=PromptRecipe,
    options=AllocationOptions,
    repeats=True,
    measure=measure,
    aside=all_blocks,
    keep=keep,
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
