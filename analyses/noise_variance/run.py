"""Does the subtraction cancel the noise that filler writes, as it varies from filler to filler?

    python analyses/noise_variance/run.py --recipe builtin      generated stories in generated texts
    python analyses/noise_variance/run.py --recipe unseen       held-out bAbI stories in 20 unseen novels, from --data

Every story is hidden in several fillers. For every prompt, block and head: what all filler tokens together, and all
needle tokens, add to the answer's logit less the other labels' mean, by the minuend and by λ · subtrahend, with sign.
Writes records.parquet (blocks), heads.parquet, results.json and figures into a folder named after the recipe, then
README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from analyses.noise_variance import report
from diffmamba_interp.analysis.crossed_prompts import CrossedRecipe, crossed_prompts_of, crossed_question
from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.question import Asked, Parts, joined
from diffmamba_interp.analysis.results import write_records
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, allocate_prompts
from diffmamba_interp.models.demo import DemoName

CONTRAST = DIRECTIONS.index("contrast")


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, dict[str, Any]]:
    """One line per prompt: of every block what filler and needle write, and of every head what filler does; logits."""
    samples, fillers = crossed_prompts_of(asked, task, length)
    allocation = allocate_prompts(asked.load(name), samples, per_head=True, batch_tokens=asked.options.size)
    assert allocation.head_sum is not None
    sums = allocation.head_sum[:, CONTRAST].double().numpy()  # prompt block head branch span_class
    about = {
        "model": [name] * len(samples),
        "task": [sample.task for sample in samples],
        "length": [sample.length for sample in samples],
        "story": [sample.story_key for sample in samples],
        "filler": fillers,
    }
    by_block = sums.sum(axis=2)
    blocks = {
        f"{source}_{branch}_{block}": by_block[:, block, place, CLASSES.index(source)]
        for source in report.SOURCES
        for place, branch in enumerate(report.BRANCHES)
        for block in range(by_block.shape[1])
    }
    # A line per head: a column for each would take more bytes than what it holds.
    of_filler = sums[..., CLASSES.index("filler")]  # prompt block head branch
    n_blocks, n_heads = of_filler.shape[1:3]
    heads = {name: np.repeat(column, n_blocks * n_heads) for name, column in about.items()}
    heads["block"] = np.tile(np.repeat(np.arange(n_blocks), n_heads), len(samples))
    heads["head"] = np.tile(np.arange(n_heads), len(samples) * n_blocks)
    heads |= {branch: of_filler[..., place].ravel() for place, branch in enumerate(report.BRANCHES)}
    return {"records": about | blocks, "heads": heads}


def keep(folder: Path, recipe: CrossedRecipe, parts: Parts) -> None:
    """Blocks of both models; heads of the differential one, for they differ in number."""
    decimals = 3 if recipe.is_large else 4
    write_records(folder / RECORDS, joined(parts), decimals=decimals)
    heads = {unit: part for unit, part in parts.items() if unit[0] == report.MODEL}
    write_records(folder / report.HEADS, joined(heads, table="heads"), decimals=decimals)


QUESTION = crossed_question(measure=measure, keep=keep, page=report.PAGE)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
