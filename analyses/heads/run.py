"""Which heads of the bundled pair carry a state sink, gather facts and aggregate the needle, and what hangs on them?

    python analyses/heads/run.py --recipe builtin      generated stories and text
    python analyses/heads/run.py --recipe paper        held-out bAbI stories in novels, texts of The Pile, from --data

Every head is scored on some prompts and texts; the heads of the largest scores are then ablated on others, beside as
many heads matched by scan and output norm. What else differencing may do (negative mass, redundancy of heads) is read
on the texts, of the trained models and of untrained ones. Writes records.parquet, results.json and figures into a
folder named after the recipe, then README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.heads import report
from diffmamba_interp.analysis.conditions import CLEAN, ORDER, Condition, read_prompts
from diffmamba_interp.analysis.prompts import (
    PromptOptions,
    TaskRecipe,
    about_prompts,
    data_of,
    keep_lines,
    model_cells,
    prompt_question,
    prompts_of,
    write_prompts,
)
from diffmamba_interp.analysis.question import Asked, Parts, Unit
from diffmamba_interp.analysis.results import data_sha256
from diffmamba_interp.implicit_attention import HeadRivals, HeadScores, gather_prompts, head_rivals, state_sink
from diffmamba_interp.interventions import (
    AtTokens,
    Head,
    Intervention,
    ablate_heads,
    intervene,
    knock_out_heads,
    largest_heads,
    matched_heads,
)
from diffmamba_interp.lens import LogitLens
from diffmamba_interp.lm_training.preparation import make_model
from diffmamba_interp.lm_training.recipe import ModelRecipe
from diffmamba_interp.models.demo import DemoName, load_demo_tokenizer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle import NeedleSample
from diffmamba_interp.text import TextSource, boundary_tokens, encode_texts
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.sources import GENERATED
from diffmamba_interp.text.stable_random import StableRandom

SCORES = "scores"
"""The unit of a model that is no cell: what no line of the records holds."""

TEXT_BATCH = 4
CHARS_PER_TOKEN = 10
"""More than any text of these has."""
RIVAL_TEXTS = 12


@dataclass(frozen=True, kw_only=True)
class Recipe(TaskRecipe):
    """n_scored: prompts of each task, without filler, that choose the heads; their stories are not measured.

    text: "generated" or a folder of the data. n_texts: of `text_length` tokens; the first `n_scored_texts` choose.
    share: of all heads. n_matched: draws of matched heads. initial_seeds: of untrained models.
    """

    n_scored: int
    text: str
    text_length: int
    n_texts: int
    n_scored_texts: int
    share: float
    n_matched: int
    initial_seeds: tuple[int, ...]


def prepare(recipe: Recipe, options: PromptOptions, path: Path) -> None:
    """Prompts and texts in one file."""
    data = dict(data_of(recipe, options.data))
    if recipe.text != GENERATED:
        data[recipe.text] = options.data / recipe.text
    more = {"texts": texts(recipe, options.data), "data": data_sha256(data)}
    write_prompts(recipe, options, path, repeats=False, more=more)


def texts(recipe: Recipe, data: Path) -> list[list[int]]:
    """The beginnings of different documents, `text_length` tokens each, in an order that the seed decides."""
    if recipe.text == GENERATED:
        n_chars = CHARS_PER_TOKEN * recipe.text_length
        every = ["\n\n".join(generated_documents(n_chars=n_chars, seed=s)) for s in range(recipe.n_texts)]
    else:
        every = [document.text for document in TextSource(location=str(data / recipe.text)).documents()]
    shuffled = StableRandom("heads", recipe.seed).shuffled(every)
    kept: list[list[int]] = []
    for document in shuffled:
        (tokens,) = encode_texts(load_demo_tokenizer(), [document[: 2 * CHARS_PER_TOKEN * recipe.text_length]])
        if len(tokens) >= recipe.text_length:
            kept.append([int(token) for token in tokens[: recipe.text_length]])
        if len(kept) == recipe.n_texts:
            return kept
    raise ValueError(f"{len(kept)} of the texts have {recipe.text_length} tokens: ask for so many in n_texts.")


def units(asked: Asked, models: Sequence[str]) -> list[Unit]:
    """The scores of each model, its loss on texts, and every cell."""
    return [(model, what, length) for model in models for what, length in ((SCORES, 0), ("text", 0))] + model_cells(
        asked, models
    )


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, Any]:
    """The scores of a model, or lines under every condition: of its loss on texts, or of one cell's prompts."""
    model = asked.load(name)
    if task == SCORES:
        return {"records": {}, "scores": flat_scores(asked, name, model), "rivals": rivals(asked, model)}
    samples = [] if task == "text" else measured_prompts(asked, task, length)
    columns: dict[str, list[Any]] = {}
    for condition in conditions(asked.recipe, scores_of(asked, name, model)):
        lines = (
            text_lines(asked, model, condition, name)
            if task == "text"
            else read_prompts(model, LogitLens.from_model(model), samples, condition, name=name)
        )
        for key, values in lines.items():
            if not key.startswith("snr_db_"):
                columns.setdefault(key, []).extend(values)
    return columns


def conditions(recipe: Recipe, scores: HeadScores) -> Iterator[Condition]:
    """The model as it is, and for every score the heads of the largest (dose 0) and each draw of others (1, 2, ...)."""
    yield Condition(kind=CLEAN)
    for kind in report.SETS:
        for draw, heads in enumerate(head_sets(recipe, scores, kind)):
            yield Condition(kind=kind, dose=float(draw), interventions=ablation(kind, heads))


def head_sets(recipe: Recipe, scores: HeadScores, kind: str) -> list[tuple[Head, ...]]:
    """The heads of the largest score, then draws of as many others, of the same scans and of nearly the same size."""
    chosen = largest_heads(scores.by_head(report.SETS[kind]), recipe.share)
    sizes = scores.by_head("output_norm")
    return [chosen, *(matched_heads(chosen, sizes, seed=draw) for draw in range(recipe.n_matched))]


def ablation(kind: str, heads: Sequence[Head]) -> tuple[Intervention, ...]:
    """Of a sink, what the heads read of boundary tokens; of the others, all that they add to the stream."""
    if kind == "sink":
        return knock_out_heads(heads, AtTokens(ids=boundary_tokens(load_demo_tokenizer())))
    return ablate_heads(heads)


def scored_prompts(asked: Asked) -> list[NeedleSample]:
    return [sample for task in asked.recipe.tasks for sample in prompts_of(asked, task, 0)[: asked.recipe.n_scored]]


def measured_prompts(asked: Asked, task: str, length: int) -> list[NeedleSample]:
    """Those of a cell whose stories did not choose the heads."""
    chose = {sample.story_hash for sample in scored_prompts(asked)}
    return [sample for sample in prompts_of(asked, task, length) if sample.story_hash not in chose]


def text_batches(asked: Asked, first: int, last: int) -> Iterator[torch.Tensor]:
    tokens = torch.tensor(about_prompts(asked)["texts"][first:last], device=asked.options.device)
    yield from tokens.split(TEXT_BATCH)


_SCORES: dict[tuple[Path | None, str], HeadScores] = {}
"""A process measures several units: the scores of a model serve all of them."""


def scores_of(asked: Asked, name: DemoName, model: HookedMamba) -> HeadScores:
    """dt ratio and sink share on texts, gather and aggregate on prompts, output norm on both: one mean per head."""
    key = (asked.material, name)
    if key not in _SCORES:
        boundary = boundary_tokens(load_demo_tokenizer())
        sinks = [state_sink(model, tokens, boundary) for tokens in text_batches(asked, 0, asked.recipe.n_scored_texts)]
        read = gather_prompts(model, scored_prompts(asked))
        means = {m: read.mean(m) for m in ("gather", "aggregate", "output_norm")}
        means |= {m: mean_over(sinks, m) for m in ("dt_ratio", "sink_share")}
        shares = {m: np.nanmean(read.uniform[m], keepdims=True) for m in ("gather", "aggregate")}
        shares["sink_share"] = np.nanmean(np.concatenate([one.uniform["sink_share"] for one in sinks]), keepdims=True)
        values = {measure: mean[None] for measure, mean in means.items()}
        _SCORES[key] = HeadScores(rows=read.rows, n_heads=read.n_heads, values=values, uniform=shares)
    return _SCORES[key]


def mean_over(parts: Sequence[HeadScores], measure: str) -> np.ndarray:
    """Mean over the samples of all parts, [row, head]."""
    with np.errstate(invalid="ignore"):
        return np.nanmean(np.concatenate([part.values[measure] for part in parts]), axis=0)


def flat_scores(asked: Asked, name: DemoName, model: HookedMamba) -> dict[str, np.ndarray]:
    """The scores as arrays, and the heads that were chosen: [chosen, 2] of row and head, by kind."""
    scores = scores_of(asked, name, model)
    rows = [(block, part) for block, part in scores.rows]
    arrays = {measure: value[0] for measure, value in scores.values.items()}
    arrays |= {f"uniform {measure}": value for measure, value in scores.uniform.items()}
    arrays["blocks"] = np.array([block for block, _ in rows])
    arrays["parts"] = np.array([part or "" for _, part in rows])
    for kind in report.SETS:
        chosen = head_sets(asked.recipe, scores, kind)[0]
        arrays[f"chosen {kind}"] = np.array([[rows.index(head.scan), head.head] for head in chosen])
    return arrays


def rivals(asked: Asked, model: HookedMamba) -> dict[str, np.ndarray]:
    """Of the trained model by text, [text, row] and [text, block]; of untrained ones by seed, [seed, row or block]."""
    read = rivals_of(asked, model)
    arrays = {"parts": np.array([part or "" for _, part in read[0].rows])}
    arrays |= {name: np.concatenate([by_row(one)[name] for one in read]) for name in by_row(read[0])}
    config = ModelRecipe(config=model.cfg)
    initial = []
    for seed in asked.recipe.initial_seeds:
        untrained = make_model(config, seed=seed).to(asked.options.device).eval()
        initial.append([by_row(one) for one in rivals_of(asked, untrained)])
    for name in by_row(read[0]):
        of_seeds = [np.concatenate([one[name] for one in seed]).mean(axis=0) for seed in initial]
        arrays[f"initial {name}"] = np.stack(of_seeds)
    return arrays


def rivals_of(asked: Asked, model: HookedMamba) -> list[HeadRivals]:
    return [head_rivals(model, tokens) for tokens in text_batches(asked, 0, min(RIVAL_TEXTS, asked.recipe.n_texts))]


def by_row(read: HeadRivals) -> dict[str, np.ndarray]:
    """Means over the heads of each row, and the branches' cosine in each block."""
    values: dict[str, np.ndarray] = {name: np.nanmean(value, axis=-1) for name, value in read.values.items()}
    return {**values, "branch_cosine": read.branch_cosine}


@torch.no_grad()
def text_lines(asked: Asked, model: HookedMamba, condition: Condition, name: str) -> dict[str, list[Any]]:
    """One line per text that did not choose the heads: the mean log-probability of its tokens, nats per token."""
    losses: list[float] = []
    with intervene(model, condition.interventions):
        for tokens in text_batches(asked, asked.recipe.n_scored_texts, asked.recipe.n_texts):
            log_probs = torch.log_softmax(model(tokens)[:, :-1].float(), dim=-1)
            losses += log_probs.gather(-1, tokens[:, 1:, None]).mean(dim=(1, 2)).tolist()
    n = len(losses)
    same: Mapping[str, Any] = {
        "model": name, "kind": condition.kind, "where": condition.where, "dose": condition.dose, "task": "text",
        "length": asked.recipe.text_length, "n_labels": 1, "right": float("nan"), "snr_db": float("nan"),
    }  # fmt: skip
    stories = [f"text {number:03d}" for number in range(n)]
    return {**{key: [value] * n for key, value in same.items()}, "story": stories, "log_prob": losses}


def keep(folder: Path, recipe: Recipe, parts: Parts) -> None:
    lines = {unit: part for unit, part in parts.items() if unit[1] != SCORES}
    keep_lines(folder, recipe, lines, order=ORDER, snr_decimals=(4, 0))


QUESTION = prompt_question(
    recipe=Recipe,
    options=PromptOptions,
    units=units,
    prepare=prepare,
    measure=measure,
    aside=report.of_heads,
    keep=keep,
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
