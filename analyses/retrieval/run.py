"""Which of the demo pair finds facts in long text, by task and context length? (Fig. 4 of arXiv 2507.06204, small.)

    python analyses/retrieval/run.py --recipe builtin      generated stories in generated text
    python analyses/retrieval/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

Writes records.csv.gz, results.json and figures into a folder named after the recipe, then README.md and the cards.
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from analyses.retrieval import cards, report, text
from analyses.retrieval.prompts import Recipe, all_samples
from diffmamba_interp.data import TextSource
from diffmamba_interp.lens.atomic_files import write_text
from diffmamba_interp.lens.card import file_sha256, package_versions, weights_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder, load_demo
from diffmamba_interp.needle.accuracy_grid import PromptRow, prompt_rows, summarise, write_rows
from diffmamba_interp.needle.scoring import score_labels

HERE = Path(__file__).parent
N_GENERATED = 3
BATCH_TOKENS = {"cpu": 8_192, "cuda": 262_144}


def main(
    recipe: str = "builtin",
    data: Path = Path("../shared/data"),
    out: Path = HERE,
    n: tuple[int, ...] | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    jobs: int = 2,
) -> None:
    """Score both models, then write records, results, figures, README and cards.

    data: holds babi_tasks_v1-2.tar.gz, novels/ and pile_test/ (recipe "paper" alone reads them).
    n: prompts per cell instead of the recipe's, one number for each length. jobs: models scored at a time.
    """
    settings = Recipe.read(recipe)
    if n is not None:
        settings = replace(settings, n=n)
    if len(settings.n) != len(settings.lengths):
        raise ValueError(f"n has {len(settings.n)} numbers: give one for each of the lengths {settings.lengths}.")
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        answers = [pool.submit(score_model, name, settings, data, device) for name in DEMO_NAMES]
        parts = [answer.result() for answer in answers]
    rows = [row for part, _ in parts for row in part]
    folder = out / recipe
    write_rows(folder / "records.csv.gz", rows)
    results = {
        "provenance": provenance(recipe, settings, data, device),
        "cells": [cell.to_dict() for cell in summarise(rows, (report.FIRST, report.SECOND))],
        "text": {name: found for name, (_, found) in zip(DEMO_NAMES, parts, strict=True)},
    }
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    report.write(out)
    if out == HERE and all((out / one / "results.json").is_file() for one in report.TITLES):
        cards.write(out)


def score_model(name: str, recipe: Recipe, data: Path, device: str) -> tuple[list[PromptRow], dict[str, Any]]:
    """One model's rows, and bits per byte of held-out text (recipe "paper")."""
    if device == "cpu":
        torch.set_num_threads(1)
    model, tokenizer = load_demo(name, device=device)  # type: ignore[arg-type]
    rows: list[PromptRow] = []
    batch_tokens = BATCH_TOKENS[torch.device(device).type]
    for length, samples in all_samples(recipe, data):
        scores = score_labels(model, samples, batch_tokens=batch_tokens, n_generated=N_GENERATED)
        rows += prompt_rows(name, samples, scores, tokenizer)
        right = sum(row.is_right for row in rows[-len(samples) :])
        print(f"{name} {samples[0].task} at {length}: {right} of {len(samples)}", flush=True)
    found = text.measure(model, tokenizer, data, recipe.text_chars, recipe.seed) if recipe.stories == "babi" else {}
    return rows, found


def provenance(name: str, recipe: Recipe, data: Path, device: str) -> dict[str, Any]:
    """What the results were made with: sha256 of models, tokenizer and data, versions, recipe, seed."""
    found: dict[str, Any] = {
        "models": {model: weights_sha256(demo_folder(model)) for model in DEMO_NAMES},
        "tokenizer": file_sha256(demo_folder("mamba2").parent / "tokenizer" / "tokenizer.json"),
        "recipe": {"name": name, **asdict(recipe)},
        "seed": recipe.seed,
        "versions": package_versions(),
        "device": device,
    }
    if recipe.stories == "babi":
        found["data"] = {"babi_tasks_v1-2.tar.gz": file_sha256(data / "babi_tasks_v1-2.tar.gz")}
        found["data"] |= {part: TextSource(location=str(data / part)).sha256() for part in ("novels", "pile_test")}
    return found


if __name__ == "__main__":
    tyro.cli(main)
