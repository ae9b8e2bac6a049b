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

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diffmamba_interp.files.paths import expand_home
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.runs.command import errors_as_messages, loading, program
from diffmamba_interp.runs.options import OutputOptions, parsed_options, split_recipe_option
from diffmamba_interp.runs.settings import bundled_recipes, read_toml
from diffmamba_interp.runs.speech import speaking

EXAMPLES = (
    "--recipe demo_mamba2 --steps 100 --device cpu",
    "--recipe my.toml --optimiser.lr 1e-3 --out runs/mine",
    "--recipe my.toml --help",
)
SHOWN = "demo_diff_mamba2"
"""The recipe whose fields and values help shows where none is given."""


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
        with loading():
            from diffmamba_interp.commands.lm_run import run
        shown = options.progress and not options.output.quiet
        return run(options.settings, _run_folder(options), options.device, speech, show_progress=shown)


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


def _run_folder(options: TrainOptions) -> Path:
    return (
        expand_home(options.out) if options.out else Path("runs") / f"{options.recipe.stem}-seed{options.settings.seed}"
    )


if __name__ == "__main__":
    sys.exit(main())
