"""Which of the demo pair finds facts in long text, by task and context length? (Fig. 4 of arXiv 2507.06204, small.)

    python analyses/retrieval/run.py --recipe builtin      generated stories in generated text
    python analyses/retrieval/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

The bundled pair is training seed 0. Other seeds are given by path, as many of one model as of the other: run folders of
train_lm, checkpoint folders, or bare .safetensors files.

    ... --recipe paper --device cuda --mamba2 RUN1 RUN2 --diff-mamba2 RUN1 RUN2

Making the prompts takes a CPU a minute, which a machine lent with its GPU need not spend:

    ... --recipe paper --data FOLDER --prepare-to FILE        ... --recipe paper --material FILE --device cuda

Writes records.csv.xz, results.json and figures into a folder named after the recipe, then README.md and the cards.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from analyses.retrieval import cards, report, seeds, text
from analyses.retrieval.weights import Weights, pairs_of
from diffmamba_interp.analysis.prompts import (
    PromptOptions,
    PromptRecipe,
    about_prompts,
    data_of,
    prompt_question,
    prompts_of,
    write_prompts,
)
from diffmamba_interp.analysis.question import Asked, Options, Parts, Unit
from diffmamba_interp.analysis.results import data_sha256
from diffmamba_interp.models.demo import DemoName, load_demo_tokenizer
from diffmamba_interp.needle.accuracy_grid import PromptRow, prompt_rows, write_rows
from diffmamba_interp.needle.scoring import score_labels

N_GENERATED = 3
BATCH_TOKENS = {"cpu": 8_192, "cuda": 262_144}
TEXT_BATCH_TOKENS = {"cpu": 8_192, "cuda": 65_536}
PILE = "pile_test"
TEXT = ("text", 0)
"""In place of a cell: the held-out text."""


@dataclass(frozen=True, kw_only=True)
class Recipe(PromptRecipe):
    """keep_log_probs: whether the records hold every label's log-probability, or only which label is most probable.

    text_chars: characters of each held-out text to measure bits per byte on; None takes it whole.
    """

    keep_log_probs: bool = False
    text_chars: int | None = None


@dataclass(frozen=True, kw_only=True)
class SeedOptions(PromptOptions):
    """Of this question."""

    mamba2: tuple[Path, ...] = ()
    """Weights of other training seeds."""
    diff_mamba2: tuple[Path, ...] = ()
    """Their partners, in the same order."""

    @property
    def pairs(self) -> list[dict[DemoName, Weights]]:
        """The bundled pair, then those of other seeds."""
        return pairs_of(self.mamba2, self.diff_mamba2)


def prepare(recipe: Recipe, options: Options, path: Path) -> None:
    """The prompts, and the held-out text that is measured beside real ones."""
    more = {}
    if recipe.stories == "babi":
        streams = text.held_out_streams(options.data, load_demo_tokenizer(), recipe.text_chars, recipe.seed)
        data = {**data_of(recipe, options.data), PILE: options.data / PILE}
        more = {"text": text.to_json(streams), "data": data_sha256(data)}
    write_prompts(recipe, options, path, repeats=True, more=more)


def units(asked: Asked, models: Sequence[DemoName]) -> list[Unit]:
    """Model, place of the seed, task and length; and each one's held-out text."""
    texts = [TEXT] if asked.recipe.stories == "babi" else []
    return [
        (model, place, task, length)
        for model in models
        for place in range(len(asked.options.pairs))
        for task, length in [*asked.recipe.wanted, *texts]
    ]


def measure(asked: Asked, name: DemoName, place: int, task: str, length: int) -> dict[str, dict[str, list[str]]]:
    """Rows of one cell, or bits per byte of the held-out text, as JSON."""
    weights = asked.options.pairs[place][name]
    model, called = weights.load(asked.options.device), seeds.name_of(name, weights.seed)
    if (task, length) == TEXT:
        streams = text.from_json(about_prompts(asked)["text"])
        bits = text.measure(model, streams, asked.by_device(TEXT_BATCH_TOKENS))
        return {"records": {"row": []}, "text": {"name": [called], "bits": [json.dumps(bits)]}}
    samples = prompts_of(asked, task, length)
    scores = score_labels(model, samples, batch_tokens=asked.by_device(BATCH_TOKENS), n_generated=N_GENERATED)
    keep_log_probs = asked.recipe.keep_log_probs
    rows = prompt_rows(called, samples, scores, load_demo_tokenizer(), keep_log_probs=keep_log_probs)
    return {"records": {"row": [json.dumps(asdict(row)) for row in rows]}}


def rows_of(parts: Parts) -> list[PromptRow]:
    lines = [json.loads(line) for part in parts.values() for line in part["records"]["row"].tolist()]
    return [PromptRow(**{**one, "labels": tuple(one["labels"]), "log_probs": tuple(one["log_probs"])}) for one in lines]


def keep(folder: Path, recipe: Recipe, parts: Parts) -> None:
    write_rows(folder / report.ROWS, rows_of(parts))


def text_bits(parts: Parts) -> dict[str, Any]:
    measured = [part["text"] for part in parts.values() if "text" in part]
    return {"text": {one["name"].item(): json.loads(one["bits"].item()) for one in measured}}


def other_seeds(asked: Asked) -> dict[str, Any]:
    """Of each further pair: its seed, tokens, and the sha256 of its weights by model."""
    return {
        "other_seeds": [
            {
                "seed": pair["mamba2"].seed,
                "tokens": pair["mamba2"].tokens,
                "sha256": {name: weights.sha256 for name, weights in pair.items()},
            }
            for pair in asked.options.pairs[1:]
        ]
    }


QUESTION = prompt_question(
    recipe=Recipe,
    options=SeedOptions,
    prepare=prepare,
    units=units,
    measure=measure,
    about=other_seeds,
    aside=text_bits,
    keep=keep,
    page=replace(report.PAGE, after=cards.write_shipped),
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
