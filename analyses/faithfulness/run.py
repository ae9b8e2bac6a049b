"""Which account of what the bundled pair reads holds when the tokens are taken out?

    python analyses/faithfulness/run.py --recipe builtin      generated stories, on a CPU
    python analyses/faithfulness/run.py --recipe paper        held-out bAbI stories, from --data

The context's tokens are ranked by hidden attention, contribution, its norm, Jacobian and gradient of the write, and
knocked out in that order, or put back in it, beside random order and recency. Writes records.parquet, results.json and
figures into a folder named after the recipe, then README.md.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from analyses.faithfulness import report
from diffmamba_interp.analysis.prompts import TaskRecipe, keep_lines, prompt_question, prompts_of
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.implicit_attention import source_scores
from diffmamba_interp.interventions import FaithfulnessRecord, faithfulness
from diffmamba_interp.models.demo import DemoName
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle import NeedleSample

ROWS = {"cpu": 32, "cuda": 256}


@dataclass(frozen=True, kw_only=True)
class Recipe(TaskRecipe):
    """fractions: share of the context's tokens that is taken."""

    fractions: tuple[float, ...]


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, list[Any]]:
    """A line for each prompt and ranking of one model and cell."""
    model = asked.load(name).requires_grad_(False)
    columns: dict[str, list[Any]] = defaultdict(list)
    for number, sample in enumerate(prompts_of(asked, task, length)):
        if len({label[0] for label in sample.label_tokens}) < len(sample.labels):
            continue
        record = read(model, sample, asked.recipe.fractions, seed=number, rows=asked.by_device(ROWS))
        for place, ranking in enumerate(record.rankings):
            same = {"model": name, "task": task, "length": length, "story": sample.story_key, "where": ranking}
            for key, value in same.items():
                columns[key].append(value)
            for kind, curves in (("deletion", record.deletion), ("insertion", record.insertion)):
                for at, value in enumerate(curves[0, place]):
                    columns[f"{kind}_{at}"].append(float(value))
    return columns


def read(
    model: HookedMamba, sample: NeedleSample, fractions: tuple[float, ...], *, seed: int, rows: int
) -> FaithfulnessRecord:
    """The curves of one prompt. Scores are of the answer's logit, the reading its share of the labels' probability."""
    tokens = torch.tensor(sample.tokens, dtype=torch.long, device=model.embed.weight.device)[None]
    answer = sample.answer_tokens[0]
    context = sample.context_span
    return faithfulness(
        model,
        tokens,
        {str(name): values for name, values in source_scores(model, tokens, answer).items()},
        answers=[answer],
        labels=[label[0] for label in sample.label_tokens],
        reading="label_probability",
        sources=range(context.token_start, context.token_end),
        fractions=fractions,
        seed=seed,
        rows=rows,
    )


QUESTION = prompt_question(
    recipe=Recipe,
    measure=measure,
    keep=partial(keep_lines, order=("model", "where", "task", "length", "story"), decimals=(4, 3)),
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
