"""`python -m diffmamba_interp.train_lens`: train a tuned lens, fit a Jacobian lens (--kind jacobian), or measure one,
and write it into a folder.

Without options: a tuned lens of the bundled Diff-Mamba on built-in text. The same command resumes a run that was
stopped.
Several GPUs: `torchrun --nproc-per-node N -m diffmamba_interp.train_lens ...`.
"""

from __future__ import annotations

if __name__ == "__main__":
    from diffmamba_interp.runs.command import quiet_interrupts

    quiet_interrupts()

import sys
from collections.abc import Sequence

from diffmamba_interp.lens.recipe import OF_ONE_KIND, LensRecipe
from diffmamba_interp.runs.command import errors_as_messages, loading, program
from diffmamba_interp.runs.options import recipe_from_arguments
from diffmamba_interp.runs.speech import speaking

GROUPS = {
    "lens": ("kind", "model", "tokenizer", "out", "eval_only"),
    "text": (
        *("data", "max_documents", "text_field", "hub_config", "hub_split", "hub_revision", "skip_empty"),
        *("max_unpacked_gb", "split", "bos", "sequence_length", "eval_tokens"),
    ),
    "tuned": OF_ONE_KIND["tuned"],
    "jacobian": OF_ONE_KIND["jacobian"],
    "run": ("seed", "device", "dtype", "micro_batch", "snapshot_minutes", "report_to"),
}
EXAMPLES = (
    "",
    "--model checkpoints/mine --data texts",
    "--kind jacobian --model mamba2 --prompts 100",
    "--eval-only runs/lens/mine --model checkpoints/mine --data other-texts --json",
)


@errors_as_messages(stopped="the last snapshot, if there is one, is whole, and the same command goes on from it.")
def main(args: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 for an error that the user can mend, 128 + signal number when stopped."""
    args = sys.argv[1:] if args is None else args
    with speaking(args) as speech:
        recipe = parse(args)
        with loading():
            from diffmamba_interp.commands.lens_run import run
        return run(recipe, speech)


def parse(args: Sequence[str]) -> LensRecipe:
    """The recipe that the command line asks for: `--recipe FILE.toml`, then options that override it.

    Raises FileNotFoundError or ValueError for a recipe that cannot be read or has unknown keys.
    """
    prog = program("train-lens")
    return recipe_from_arguments(
        LensRecipe, args, prog=prog, description=__doc__ or "", groups=GROUPS, examples=EXAMPLES
    )


if __name__ == "__main__":
    sys.exit(main())
