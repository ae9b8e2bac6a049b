"""Which of the demo pair finds facts in long text, by task and context length? (Fig. 4 of arXiv 2507.06204, small.)

    python analyses/retrieval/run.py --recipe builtin      generated stories in generated text
    python analyses/retrieval/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

The bundled pair is training seed 0. Other seeds are given by path, as many of one model as of the other: run folders of
train_lm, checkpoint folders, or bare .safetensors files.

    ... --recipe paper --device cuda --mamba2 RUN1 RUN2 --diff-mamba2 RUN1 RUN2

Writes records.csv.xz, results.json and figures into a folder named after the recipe, then README.md and the cards.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import tyro

from analyses.retrieval import seeds, text
from analyses.retrieval.material import Material, prepare
from analyses.retrieval.prompts import Recipe
from analyses.retrieval.weights import Weights, about_seeds, pairs_of
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.files.json_files import results_json
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder, load_demo_tokenizer
from diffmamba_interp.needle.accuracy_grid import PromptRow, prompt_rows, summarise, write_rows
from diffmamba_interp.needle.scoring import score_labels
from diffmamba_interp.runs.provenance import package_versions

HERE = Path(__file__).parent
N_GENERATED = 3
BATCH_TOKENS = {"cpu": 8_192, "cuda": 262_144}
TEXT_BATCH_TOKENS = {"cpu": 8_192, "cuda": 65_536}


def main(
    recipe: str = "builtin",
    data: Path = Path("../shared/data"),
    out: Path = HERE,
    n: tuple[int, ...] = (),
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    jobs: int = 2,
    material: Path | None = None,
    mamba2: tuple[Path, ...] = (),
    diff_mamba2: tuple[Path, ...] = (),
    page: bool = True,
) -> None:
    """Score all models, then write records, results, figures, README and cards.

    data: holds babi_tasks_v1-2.tar.gz, novels/ and pile_test/ (recipe "paper" alone reads them). n: prompts per cell
    instead of the recipe's, for each length or one number for all. jobs: models scored at a time. material: prompts and
    text that material.py made, instead of data. mamba2, diff_mamba2: weights of other training seeds. page: False
    leaves figures, README and cards to report.py and cards.py, on a machine that has Plotly.
    """
    settings = Recipe.read(recipe, n or None)
    pairs = pairs_of(mamba2, diff_mamba2)
    with ExitStack() as stack:
        if material is None:
            material = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "material"
            prepare(settings, data).save(material)
        pool = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")))
        answers = [
            pool.submit(score, [pair[model] for pair in pairs], settings, material, one)
            for model, one in zip(DEMO_NAMES, devices_of(device, len(DEMO_NAMES)), strict=True)
        ]
        parts = [answer.result() for answer in answers]
    rows = [row for part, _, _ in parts for row in part]
    texts = {name: found for _, part, _ in parts for name, found in part.items()}
    folder = out / recipe
    write_rows(folder / "records.csv.xz", rows)
    grids = [[cell.to_dict() for cell in summarise(rows, seeds.pair_of(pair["mamba2"].seed))] for pair in pairs]
    about = provenance(recipe, settings, device, about_seeds(pairs)) | {"data": parts[0][2]}
    results = {"provenance": about, "cells": grids[0], "seeds": grids[1:], "text": texts}
    write_text(folder / "results.json", results_json(results, digits=17) + "\n")
    if page:
        write_pages(out)


def write_pages(out: Path) -> None:
    """Figures and README, and the cards once there are results of every recipe."""
    # Plotly draws the figures; a machine that only scores need not have it.
    from analyses.retrieval import cards, report

    report.write(out)
    if out == HERE and all((out / one / "results.json").is_file() for one in report.TITLES):
        cards.write(out)


def devices_of(device: str, n: int) -> list[str]:
    """A device for each of `n` processes: "cuda" goes through all GPUs in turn."""
    if device != "cuda":
        return [device] * n
    return [f"cuda:{k % torch.cuda.device_count()}" for k in range(n)]


def score(
    weights: Sequence[Weights], recipe: Recipe, path: Path, device: str
) -> tuple[list[PromptRow], dict[str, dict[str, Any]], dict[str, str]]:
    """Rows of all seeds of one model, their bits per byte of held-out text, and the sha256 of the data."""
    kind = torch.device(device).type
    if kind == "cpu":
        torch.set_num_threads(1)
    else:
        # Triton launches its kernels on the current device, wherever the tensors are.
        torch.cuda.set_device(device)
    material, tokenizer = Material.load(path, recipe, with_prompts=False), load_demo_tokenizer()
    rows: list[PromptRow] = []
    texts = {}
    for one in weights:
        model, name = one.load(device), seeds.name_of(one.model, one.seed)
        for samples in material.cells:
            scores = score_labels(model, samples, batch_tokens=BATCH_TOKENS[kind], n_generated=N_GENERATED)
            rows += prompt_rows(name, samples, scores, tokenizer, keep_log_probs=recipe.keep_log_probs)
            right = sum(row.is_right for row in rows[-len(samples) :])
            print(f"{name} {samples[0].task} at {samples[0].length}: {right} of {len(samples)}", flush=True)
        if material.text:
            texts[name] = text.measure(model, material.text, TEXT_BATCH_TOKENS[kind])
    return rows, texts, material.data_sha256


def provenance(name: str, recipe: Recipe, device: str, trained: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the results were made with: sha256 of models and tokenizer, versions, recipe, seed."""
    is_gpu = torch.device(device).type == "cuda"
    return {
        "models": trained[0]["sha256"],
        "other_seeds": list(trained[1:]),
        "tokenizer": file_sha256(demo_folder("mamba2").parent / "tokenizer" / "tokenizer.json"),
        "recipe": {"name": name, **asdict(recipe)},
        "seed": recipe.seed,
        "versions": package_versions(),
        "device": torch.cuda.get_device_name() if is_gpu else device,
    }


if __name__ == "__main__":
    tyro.cli(main)
