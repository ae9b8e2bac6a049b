"""Does a plain Mamba-2 whose last quarter becomes differential retrieve better? (The paper's other route, small.)

    for name in plain published by_component; do
        python -m diffmamba_interp.train_lm --recipe recipes/conversion_$name.toml
    done
    python analyses/conversion/run.py

Measures the demo Mamba-2, and what each alignment makes of it, before and after the same fine-tuning: held-out bAbI
stories bare and in held-out novels, bits per byte of held-out text. Writes records.csv.xz, results.json, accuracy.svg,
accuracy.plotly.json and README.md.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import tyro

from analyses.conversion import measure
from analyses.conversion.measure import AFTER, BEFORE, NAMES, model_name
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.json_files import results_json
from diffmamba_interp.lm_training.preparation import make_model, open_tokenizer
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.models.checkpoints import load_model
from diffmamba_interp.needle.accuracy_grid import PromptRow, summarise, write_rows
from diffmamba_interp.runs.provenance import package_versions, weights_sha256
from diffmamba_interp.runs.settings import read_toml

HERE = Path(__file__).parent


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
    it whole. page: False leaves figure and README to report.py, on a machine that has Plotly.
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
    cells = measure.prompts(recipe, tokenizer, n)
    rows: list[PromptRow] = []
    sizes = {}
    for name, model in models.items():
        model = model.to(device).eval()
        own = measure.answers(model, name, cells, tokenizer)
        sizes[name] = measure.about(model, recipe, tokenizer, text_tokens)
        rows += own
        print(f"{name}: {sum(row.is_right for row in own)} of {len(own)}", sizes[name]["bits_per_byte"], flush=True)
    write_rows(out / "records.csv.xz", rows)
    results = {
        "provenance": provenance(recipe, runs, trained, n, device),
        "models": sizes,
        "cells": [cell.to_dict() for cell in summarise(rows, tuple(models))],
    }
    write_text(out / "results.json", results_json(results, digits=17) + "\n")
    if page:
        # Plotly draws the figure; a machine that only measures need not have it.
        from analyses.conversion import report

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
        "seed": measure.SEED,
        "versions": package_versions(),
        "device": torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device,
    }


if __name__ == "__main__":
    tyro.cli(main)
