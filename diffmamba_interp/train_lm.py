"""`python -m diffmamba_interp.train_lm --recipe FILE.toml`: train a Mamba-2 or Diff-Mamba-2 language model.

Every field of the recipe can be overridden on the command line, for example `--steps 100 --optimiser.lr 1e-3`.
A run writes below `runs/` unless `--out` says otherwise: recipe.toml (as resolved), log.jsonl, snapshot.pt,
model/ and results.json (also when the minutes run out first). Started again with the same recipe and folder,
it continues from its snapshot, exactly. Ctrl-C, SIGTERM and a closed terminal end it after the step at hand, with a
snapshot.
Several GPUs: `torchrun --nproc-per-node N -m diffmamba_interp.train_lm --recipe FILE.toml`.
"""

from __future__ import annotations

if __name__ == "__main__":
    from diffmamba_interp.runs.command import quiet_interrupts

    quiet_interrupts()

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.json_files import json_text, read_json_object
from diffmamba_interp.files.paths import expand_home
from diffmamba_interp.lm_training.evaluation import prepare_evaluation
from diffmamba_interp.lm_training.loop import Outcome, Trainer
from diffmamba_interp.lm_training.preparation import make_mixture, make_model, open_tokenizer, sha256_of_files
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.lm_training.snapshots import read_snapshot, require_same_run
from diffmamba_interp.runs.command import errors_as_messages, program
from diffmamba_interp.runs.options import OutputOptions, parsed_options, split_recipe_option
from diffmamba_interp.runs.process_group import ProcessGroup, process_group
from diffmamba_interp.runs.settings import bundled_recipes, read_toml, to_toml, to_values
from diffmamba_interp.runs.speech import speaking
from diffmamba_interp.runs.stop_signals import stop_requests
from diffmamba_interp.text import tokenizer_hash

RECIPE_FILE = "recipe.toml"
RESULTS_FILE = "results.json"
UNFINISHED = 3
"""Exit code when the minutes ran out before the steps."""


EXAMPLES = (
    "--recipe demo_mamba2 --steps 100 --device cpu",
    "--recipe my.toml --optimiser.lr 1e-3 --out runs/mine",
    "--recipe my.toml --help",
)
SHOWN = "demo_diff_mamba2"
"""The recipe whose fields and values help shows where none is given."""

logger = logging.getLogger("diffmamba_interp.train_lm")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of the command."""

    recipe: Path
    """A TOML file, or the name of a recipe that comes with the package."""
    out: Path | None = None
    """Folder of the run; None: runs/<name of the recipe>-seed<seed>."""
    device: str | None = None
    """cpu, cuda or cuda:1; None: a GPU if there is one."""
    progress: bool = True
    """Show how far the training is."""
    output: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions()
    settings: Annotated[Recipe, tyro.conf.arg(name="")]


@errors_as_messages(stopped="the last snapshot, if there is one, is whole, and the same command goes on from it.")
def main(args: Sequence[str] | None = None) -> int:
    """Train. The exit code: 0 when the recipe's steps are done, 3 when its minutes ran out first, 1 on divergence,
    2 on an error, 128 + number of the signal when Ctrl-C (130), SIGTERM (143) or SIGHUP (129) ended the run.
    """
    args = list(sys.argv[1:] if args is None else args)
    with speaking(args, log_format="%(asctime)s %(message)s") as speech:
        options = parse_options(args)
        folder = _run_folder(options)
        with process_group(options.device) as group, group.only_writer_of(folder):
            code = train(options, group)
            if group.is_writer and code in (0, UNFINISHED):
                results = read_json_object(folder / RESULTS_FILE)
                speech.result({"out": str(folder), **results}, _result_line(folder, results))
            return code


def parse_options(args: list[str]) -> TrainOptions:
    """The recipe that `--recipe` names, with the other arguments applied to it."""
    path, others = split_recipe_option(args)
    description = __doc__ or ""
    if path is None and {"--help", "-h"} & set(args):
        path = SHOWN
        description += (
            f"\nRecipes that come with the package: {', '.join(bundled_recipes())}. Without one, the values below are "
            f"those of {SHOWN}; with --recipe FILE.toml --help they are the file's."
        )
    if path is None:
        raise ValueError(
            f"give a recipe: {program('train-lm')} --recipe FILE.toml, or the name of one that comes with the package: "
            f"{', '.join(bundled_recipes())}."
        )
    default = TrainOptions(recipe=Path(path), settings=read_toml(Recipe, path))
    return parsed_options(
        tyro.conf.AvoidSubcommands[TrainOptions],
        others,
        default=default,
        prog=program("train-lm"),
        description=description,
        examples=EXAMPLES,
    )


def train(options: TrainOptions, group: ProcessGroup) -> int:
    """Run, or continue, the training that the options describe, and write everything into its folder; the exit code.

    A signal ends it early with a snapshot, and without the finished models (`stop_requests`).
    """
    recipe = options.settings
    if recipe.batch_size < group.size:
        raise ValueError(f"batch_size {recipe.batch_size} leaves some of {group.size} processes without a row.")
    folder = _run_folder(options)
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
        show_progress=options.progress and not options.output.quiet,
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


def _run_folder(options: TrainOptions) -> Path:
    return (
        expand_home(options.out) if options.out else Path("runs") / f"{options.recipe.stem}-seed{options.settings.seed}"
    )


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


if __name__ == "__main__":
    sys.exit(main())
