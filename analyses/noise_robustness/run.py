"""Which of the demo pair bears noise better: in its residual stream, and among the filler of its prompts?

    python analyses/noise_robustness/run.py --recipe builtin      generated stories in generated text
    python analyses/noise_robustness/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

Writes records.parquet, results.json and figures into a folder named after the recipe, then README.md. In steps, for a
machine that is lent with its GPU and need not have SciPy:

    ... --prepare-to FILE    ... --material FILE --records-only --out DIR       ... --from-records DIR/paper
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from analyses.noise_robustness import report
from diffmamba_interp.analysis.conditions import CLEAN, Condition, condition_question, read_conditions
from diffmamba_interp.analysis.prompts import TaskRecipe, prompts_of
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.interventions import AddNoise, randomise_tokens
from diffmamba_interp.models.demo import DemoName
from diffmamba_interp.needle import NeedleSample


@dataclass(frozen=True, kw_only=True)
class Recipe(TaskRecipe):
    """snr_db: power of the residual stream over that of the noise, at every block's entrance. token_shares: of the
    filler's tokens, replaced by random ones."""

    snr_db: tuple[float, ...]
    token_shares: tuple[float, ...]


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, list[Any]]:
    """One model's records of one cell, without noise and at every level of it."""
    recipe, model, samples = asked.recipe, asked.load(name), prompts_of(asked, task, length)
    noisy: list[tuple[Condition, Sequence[NeedleSample]]] = [(Condition(kind=CLEAN), samples)]
    noisy += [
        (Condition(kind="gaussian", dose=dose, interventions=(AddNoise(snr_db=dose, seed=recipe.seed),)), samples)
        for dose in recipe.snr_db
    ]
    if length:
        noisy += [
            (Condition(kind="tokens", dose=share), with_random_filler(samples, share, model.cfg.d_vocab, recipe.seed))
            for share in recipe.token_shares
        ]
    return read_conditions(asked, name, model, noisy)


def with_random_filler(
    samples: Sequence[NeedleSample], share: float, d_vocab: int, seed: int
) -> tuple[NeedleSample, ...]:
    """The prompts with a share of their filler's tokens replaced; no label is drawn, the facts stay as they are."""
    return tuple(
        replace(
            sample,
            tokens=randomise_tokens(
                sample.tokens,
                [(one.token_start, one.token_end) for one in sample.filler_spans if one.token_end > one.token_start],
                share=share,
                d_vocab=d_vocab,
                seed=seed,
                exclude={token for tokens in sample.label_tokens for token in tokens},
            ),
        )
        for sample in samples
    )


QUESTION = condition_question(
    recipe=Recipe,
    measure=measure,
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
