"""What does the subtrahend of the bundled Diff-Mamba-2 take away: noise, the needle, or nothing?

    python analyses/cancellation/run.py --recipe builtin      generated stories in generated text
    python analyses/cancellation/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

For every prompt, block and head: the size of what minuend, λ · subtrahend and their difference write from needle and
noise to the answer's logit. Writes records.parquet, results.json and figures into a folder named after the recipe, then
README.md.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from analyses.cancellation import report
from diffmamba_interp import inspect_checkpoint
from diffmamba_interp.analysis.prompts import AllocationOptions, PromptRecipe, keep_lines, prompt_question, prompts_of
from diffmamba_interp.analysis.question import Asked, Parts, joined
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, PICTURES, Allocation, allocate_prompts
from diffmamba_interp.models.demo import DemoName, demo_folder
from diffmamba_interp.needle import NeedleSample

MODEL: DemoName = "diff-mamba2"


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, dict[str, Any]]:
    """Records of one cell, and what blocks and heads do."""
    samples = prompts_of(asked, task, length)
    allocation = allocate_prompts(asked.load(name), samples, per_head=True, batch_tokens=asked.options.size)
    return {"records": lines_of(samples, allocation), "arrays": arrays_of(allocation)}


def lines_of(samples: Sequence[NeedleSample], allocation: Allocation) -> dict[str, list[Any]]:
    """One line per prompt and direction: sizes on needle and noise in logits, over all blocks."""
    sizes = torch.cat([allocation.mass, allocation.smaller.unsqueeze(3)], dim=3).nan_to_num(0.0).sum(dim=2)
    needle = sizes[..., CLASSES.index("needle")]
    noise = sizes[..., [CLASSES.index(name) for name in report.NOISE]].sum(dim=-1)
    columns = defaultdict(list)
    for index, sample in enumerate(samples):
        for number, direction in enumerate(DIRECTIONS):
            columns["direction"].append(direction)
            columns["task"].append(sample.task)
            columns["length"].append(sample.length)
            columns["story"].append(sample.story_key)
            columns["cosine"].append(float(allocation.cosine[index, number].nanmean()))
            for name, of_source in (("needle", needle), ("noise", noise)):
                for place, picture in enumerate((*PICTURES, "smaller")):
                    columns[f"{picture}_{name}"].append(float(of_source[index, number, place]))
    return columns


def arrays_of(allocation: Allocation) -> dict[str, np.ndarray]:
    """What blocks and heads are summarised from, along the answer's logit.

    sizes: [prompt, picture, source, block]. snr_db_gained, cosine: [prompt, block].
    heads: [prompt, block, head, picture, source].
    """
    assert allocation.head_mass is not None
    mass = np.concatenate([allocation.mass[:, 0].numpy(), allocation.smaller[:, 0, :, None].numpy()], axis=2)
    snr = allocation.snr_db[:, 0].numpy().clip(-99, 99)
    return {
        "sizes": np.moveaxis(by_source(mass), 1, -1),
        "snr_db_gained": snr[..., PICTURES.index("net")] - snr[..., PICTURES.index("minuend")],
        "cosine": allocation.cosine[:, 0].numpy(),
        "heads": by_source(allocation.head_mass[:, 0].numpy()),
    }


def by_source(mass: np.ndarray) -> np.ndarray:
    """The last axis' classes as needle and noise."""
    noise = [CLASSES.index(name) for name in report.NOISE]
    return np.stack([mass[..., CLASSES.index("needle")], mass[..., noise].sum(axis=-1)], axis=-1)


def blocks_and_heads(parts: Parts) -> dict[str, Any]:
    """Of every length over all tasks, and lambda of each block: no record holds these."""
    lengths = sorted({length for _, _, length in parts})
    arrays = [
        (length, joined({unit: part for unit, part in parts.items() if unit[2] == length}, table="arrays"))
        for length in lengths
    ]
    return {
        "lambda": [block.lambda_ for block in inspect_checkpoint(demo_folder(MODEL)).blocks],
        "blocks": [report.by_block(length, of_length) for length, of_length in arrays],
        "heads": [report.by_head(length, of_length) for length, of_length in arrays],
    }


QUESTION = prompt_question(
    recipe=PromptRecipe,
    options=AllocationOptions,
    models=(MODEL,),
    repeats=True,
    measure=measure,
    aside=blocks_and_heads,
    keep=partial(keep_lines, decimals=(4, 2)),
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
