"""The run of `train_lm`: model, data, training, and what is written, in its order."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.json_files import json_text, read_json_object
from diffmamba_interp.lm_training.evaluation import prepare_evaluation
from diffmamba_interp.lm_training.loop import Outcome, Trainer
from diffmamba_interp.lm_training.preparation import make_mixture, make_model, open_tokenizer, sha256_of_files
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.lm_training.snapshots import read_snapshot, require_same_run
from diffmamba_interp.runs.process_group import ProcessGroup, process_group
from diffmamba_interp.runs.settings import to_toml, to_values
from diffmamba_interp.runs.speech import Speech
from diffmamba_interp.runs.stop_signals import stop_requests
from diffmamba_interp.text import tokenizer_hash

RECIPE_FILE = "recipe.toml"
RESULTS_FILE = "results.json"
UNFINISHED = 3
"""Exit code when the minutes ran out before the steps."""

logger = logging.getLogger("diffmamba_interp.train_lm")


def run(recipe: Recipe, folder: Path, device: str | None, speech: Speech, *, show_progress: bool) -> int:
    """Train in this process or its group, alone in the folder, and say what came out; the exit code."""
    with process_group(device) as group, group.only_writer_of(folder):
        code = train(recipe, folder, group, show_progress=show_progress)
        if group.is_writer and code in (0, UNFINISHED):
            results = read_json_object(folder / RESULTS_FILE)
            speech.result({"out": str(folder), **results}, _result_line(folder, results))
        return code


def train(recipe: Recipe, folder: Path, group: ProcessGroup, *, show_progress: bool = True) -> int:
    """Run, or continue, the recipe's training, and write everything into the folder; the exit code.

    A signal ends it early with a snapshot, and without the finished models (`stop_requests`).
    """
    if recipe.batch_size < group.size:
        raise ValueError(f"batch_size {recipe.batch_size} leaves some of {group.size} processes without a row.")
    model = make_model(recipe.model, seed=recipe.seed)
    tokenizer = open_tokenizer(recipe.data, model.cfg.d_vocab - model.cfg.d_vocab_padding)
    data_sha256 = sha256_of_files(recipe) | {"tokenizer": tokenizer_hash(tokenizer)}
    snapshot = read_snapshot(folder)
    if snapshot is not None:
        require_same_run(snapshot, recipe, data_sha256, folder)
        logger.info("continuing %s from step %d of %d", folder, snapshot.step, recipe.steps)
    mixture = make_mixture(recipe, tokenizer)
    evaluation = prepare_evaluation(recipe.evaluation, tokenizer) if recipe.evaluation and group.is_writer else None
    if group.is_writer:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECIPE_FILE, to_toml(to_values(recipe)))
    # The tokenizer's threads do not survive the start of worker processes; from here on it runs in one.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    trainer = Trainer(
        recipe,
        model,
        mixture,
        folder,
        group=group,
        evaluation=evaluation,
        data_sha256=data_sha256,
        snapshot=snapshot,
        show_progress=show_progress,
    )
    with stop_requests() as stop:
        outcome = trainer.run(stop)
    if outcome.is_asked_to_stop:
        logger.info("stopped after step %d; the same command resumes from the snapshot in %s", outcome.step, folder)
        return stop.exit_code
    if group.is_writer:
        trainer.export(tokenizer)
        _write_results(folder, trainer, outcome)
    return 0 if outcome.is_complete else UNFINISHED


def _result_line(folder: Path, results: Mapping[str, Any]) -> str:
    ending = "" if results["is_complete"] else "; the minutes ran out, and the same command goes on"
    return f"{results['step']} steps, {results['tokens']:,} tokens; written to {folder}{ending}"


def _write_results(folder: Path, trainer: Trainer, outcome: Outcome) -> None:
    n_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    results = {
        "step": outcome.step,
        "is_complete": outcome.is_complete,
        "tokens": trainer.tokens,
        "n_parameters": n_parameters,
        "seed": trainer.recipe.seed,
        "metrics": outcome.metrics,
        "data_sha256": trainer.data_sha256,
        "recipe": to_values(trainer.recipe),
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
        "device": str(trainer.group.device),
    }
    write_text(folder / RESULTS_FILE, json_text(results, indent=1))
