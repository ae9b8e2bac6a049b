"""Does a plain Mamba-2 whose last quarter becomes differential retrieve better? (The paper's other route, small.)

    for name in plain published by_component; do
        python -m diffmamba_interp.train_lm --recipe recipes/conversion_$name.toml
    done
    python analyses/conversion/run.py

Measures the demo Mamba-2, and what each alignment makes of it, before and after the same fine-tuning: held-out bAbI
stories bare and in held-out novels, bits per byte of held-out text. Writes records.csv.xz, results.json, accuracy.svg
and README.md.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from analyses.conversion import report
from analyses.conversion.report import AFTER, BEFORE, NAMES, model_name
from diffmamba_interp.analysis.question import run_command
from diffmamba_interp.analysis.results import write_results
from diffmamba_interp.files.locks import folder_lock
from diffmamba_interp.lm_training.evaluation import bits_per_byte
from diffmamba_interp.lm_training.preparation import make_model, open_stream, open_tokenizer
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.models.checkpoints import load_model
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle import TASKS, Filler, Haystack, NeedleSample, heldout_babi_stories
from diffmamba_interp.needle.accuracy_grid import PromptRow, prompt_rows, summarise, write_rows
from diffmamba_interp.needle.samples import hide_stories
from diffmamba_interp.needle.scoring import score_labels
from diffmamba_interp.runs.provenance import device_name, package_versions, weights_sha256
from diffmamba_interp.runs.settings import read_toml
from diffmamba_interp.text.stable_random import StableRandom

HERE = Path(__file__).parent
SEED = 13
N_GENERATED = 3
FILLER_TOKENS = 200_000
BATCH_TOKENS = {"cpu": 8_192, "cuda": 131_072}
TEXT_BATCH_TOKENS = {"cpu": 8_192, "cuda": 65_536}


def main(
    plain: Path = Path("runs/conversion_plain-seed11"),
    published: Path = Path("runs/conversion_published-seed11"),
    by_component: Path = Path("runs/conversion_by_component-seed11"),
    out: Path = HERE,
    n: int = 500,
    text_tokens: int | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    page: bool = True,
) -> None:
    """Measure three finished runs of train_lm, and the models that they started from.

    n: prompts per task and length; fewer where there are fewer stories. text_tokens: of each held-out text; None takes
    it whole. page: False leaves figure and README to report.py, elsewhere.
    """
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    runs = dict(zip(NAMES, (plain, published, by_component), strict=True))
    recipes = {name: read_toml(Recipe, run / "recipe.toml") for name, run in runs.items()}
    trained = {name: json.loads((run / "results.json").read_text(encoding="utf-8")) for name, run in runs.items()}
    require_same_training(recipes, trained)
    models = {model_name(name, BEFORE): make_model(recipes[name].model, seed=recipes[name].seed) for name in NAMES}
    models |= {model_name(name, AFTER): load_model(run / "model") for name, run in runs.items()}
    recipe = recipes[NAMES[0]]
    tokenizer = open_tokenizer(recipe.data, models[model_name(NAMES[0], BEFORE)].cfg.d_vocab)
    cells = prompts(recipe, tokenizer, n)
    with folder_lock(out):
        rows: list[PromptRow] = []
        sizes = {}
        for name, model in models.items():
            model = model.to(device).eval()
            of_model = answers(model, name, cells, tokenizer)
            sizes[name] = about(model, recipe, tokenizer, text_tokens)
            rows += of_model
            print(f"{name}: {sum(row.is_right for row in of_model)} of {len(of_model)}", sizes[name]["bits_per_byte"])
        write_rows(out / "records.csv.xz", rows)
        made = provenance(recipe, runs, trained, n, device)
        grid = [cell.to_dict() for cell in summarise(rows, tuple(models))]
        write_results(out / "results.json", made, {"models": sizes, "cells": grid}, digits=17)
        if page:
            report.write(out)


def require_same_training(recipes: dict[str, Recipe], trained: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError unless the runs differ in the model alone, and saw the same data."""
    first = NAMES[0]
    for name in NAMES[1:]:
        pairs = [
            *((field, asdict(recipes[name])[field], value) for field, value in asdict(recipes[first]).items()),
            *((key, trained[name][key], trained[first][key]) for key in ("data_sha256", "step", "tokens")),
        ]
        differing = [field for field, one, other in pairs if one != other and field != "model"]
        if recipes[name].model.init_from != recipes[first].model.init_from:
            differing.append("model.init_from")
        if differing:
            raise ValueError(
                f"the runs {first} and {name} differ in {', '.join(differing)}: only placement and alignment may "
                "differ. Train them again by recipes that agree."
            )


def provenance(
    recipe: Recipe, runs: dict[str, Path], trained: dict[str, dict[str, Any]], n: int, device: str
) -> dict[str, Any]:
    """What the results were made with: sha256 of weights and data, how they were trained, versions, seed."""
    plain = trained[NAMES[0]]
    start = recipe.model.init_from
    assert start is not None
    return {
        "start": {"path": start, "sha256": weights_sha256(start)},
        "fine_tuned": {name: weights_sha256(run / "model") for name, run in runs.items()},
        "training": {
            key: plain[key] for key in ("recipe", "step", "tokens", "seed", "data_sha256", "device", "versions")
        },
        "is_complete": all(one["is_complete"] for one in trained.values()),
        "n": n,
        "seed": SEED,
        "versions": package_versions(),
        "device": device_name(device),
    }


def prompts(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, n: int) -> list[list[NeedleSample]]:
    """Held-out bAbI stories, bare and in held-out novels: a list per task and length of the recipe's evaluation."""
    evaluation = recipe.evaluation
    assert evaluation is not None
    assert evaluation.filler is not None
    assert evaluation.babi_path is not None
    tokens = open_stream(evaluation.filler, tokenizer).tokens[:FILLER_TOKENS]
    novels = tokenizer.backend_tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    haystack = Haystack(tokenizer, Filler.from_texts(tokenizer, novels))
    cells = []
    for task in TASKS:
        stories = StableRandom("conversion", SEED, task).shuffled(heldout_babi_stories(evaluation.babi_path, task))
        for length in evaluation.lengths:
            cells.append(hide_stories(haystack, stories, n=n, length=length, seed=SEED))
    return cells


def answers(
    model: HookedMamba, name: str, cells: list[list[NeedleSample]], tokenizer: PreTrainedTokenizerBase
) -> list[PromptRow]:
    """The model's row of every prompt."""
    batch_tokens = BATCH_TOKENS[model.embed.weight.device.type]
    rows = []
    for samples in cells:
        scores = score_labels(model, samples, batch_tokens=batch_tokens, n_generated=N_GENERATED)
        rows += prompt_rows(name, samples, scores, tokenizer, keep_log_probs=False)
    return rows


def about(
    model: HookedMamba, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, text_tokens: int | None
) -> dict[str, Any]:
    """n_parameters; lambda of each differential block, by its index; bits_per_byte of each held-out text."""
    assert recipe.evaluation is not None
    sizes = {
        "length": recipe.data.length,
        "max_tokens": text_tokens,
        "batch_tokens": TEXT_BATCH_TOKENS[model.embed.weight.device.type],
    }
    mixers = [(index, block.mixer) for index, block in enumerate(model.blocks)]
    texts = {Path(path).stem: open_stream(path, tokenizer) for path in recipe.evaluation.text}
    return {
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "lambda": {str(i): mixer.lambda_().item() for i, mixer in mixers if isinstance(mixer, DifferentialMixer)},
        "bits_per_byte": {name: bits_per_byte(model, stream, **sizes) for name, stream in texts.items()},
    }


if __name__ == "__main__":
    sys.exit(run_command(main))
