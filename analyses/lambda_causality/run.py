"""Does the subtraction cause the signal-to-noise ratio? Scale lambda, or take it away, and read the same prompts again.

    python analyses/lambda_causality/run.py --recipe builtin      generated stories in generated text
    python analyses/lambda_causality/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

Writes records.parquet, results.json and figures into a folder named after the recipe, then README.md. In steps, for a
machine that is lent with its GPU and need not have SciPy:

    ... --prepare-to FILE    ... --material FILE --records-only --out DIR       ... --from-records DIR/paper
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from analyses.lambda_causality import report
from diffmamba_interp import inspect_checkpoint
from diffmamba_interp.analysis.conditions import CLEAN, Condition, condition_question, read_conditions
from diffmamba_interp.analysis.page import ALL
from diffmamba_interp.analysis.prompts import TaskRecipe, prompts_of
from diffmamba_interp.analysis.question import Asked, Parts
from diffmamba_interp.interventions import ScaleLambda
from diffmamba_interp.models.demo import DemoName, demo_folder

DIFFERENTIAL: DemoName = "diff-mamba2"


@dataclass(frozen=True, kw_only=True)
class Recipe(TaskRecipe):
    """factors: of lambda in all blocks at once; 1, the model as it is, is always measured. block_factors: in one."""

    factors: tuple[float, ...]
    block_factors: tuple[float, ...]


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, list[Any]]:
    """One model's records of one cell; the plain model has no lambda, and is read as it is."""
    model, samples = asked.load(name), prompts_of(asked, task, length)
    scaled = conditions(asked.recipe, model.cfg.n_layers) if name == DIFFERENTIAL else [Condition(kind=CLEAN)]
    return read_conditions(asked, name, model, [(condition, samples) for condition in scaled])


def conditions(recipe: Recipe, n_layers: int) -> list[Condition]:
    """The model as it is, every lambda scaled, and one block's lambda scaled."""
    doses: list[tuple[str, float, int | None]] = [(ALL, factor, None) for factor in recipe.factors]
    doses += [(str(block), factor, block) for factor in recipe.block_factors for block in range(n_layers)]
    scaled = [
        Condition(kind="scale", where=where, dose=factor, interventions=(ScaleLambda(factor=factor, blocks=blocks),))
        for where, factor, blocks in doses
    ]
    return [Condition(kind=CLEAN), *scaled]


def lambdas(parts: Parts) -> dict[str, Any]:
    """Lambda of each block, as trained."""
    return {"lambda": [block.lambda_ for block in inspect_checkpoint(demo_folder(DIFFERENTIAL)).blocks]}


QUESTION = condition_question(
    recipe=Recipe,
    measure=measure,
    aside=lambdas,
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
