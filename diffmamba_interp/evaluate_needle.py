"""`python -m diffmamba_interp.evaluate_needle`: does the answer stand out from its distractors, block by block?

Reads retrieval prompts with a model and a baseline through tuned and logit lens, and writes records, results with
intervals, figures and one HTML page. Without options: the bundled pair. The same command resumes a run that was
stopped.
"""

from __future__ import annotations

if __name__ == "__main__":
    from diffmamba_interp.runs.command import quiet_interrupts

    quiet_interrupts()

import sys
from collections.abc import Sequence

from diffmamba_interp.needle.recipe import NeedleRecipe
from diffmamba_interp.runs.command import errors_as_messages, loading, program
from diffmamba_interp.runs.options import recipe_from_arguments
from diffmamba_interp.runs.speech import speaking

GROUPS = {
    "model": ("model", "baseline", "lens", "baseline_lens", "tokenizer"),
    "prompt": ("tasks", "lengths", "n", "seed", "vocabulary", "babi", "bos"),
    "filler": (
        *("filler", "filler_split", "text_field", "hub_config", "hub_split", "hub_revision", "skip_empty"),
        "max_unpacked_gb",
    ),
    "run": ("out", "device", "dtype", "batch_tokens"),
}
EXAMPLES = (
    "--n 10",
    "--model checkpoints/mine --baseline none --lens runs/lens/mine",
    "--tasks qa1 qa2 --lengths 0 1024 --filler novel.txt --json",
)


@errors_as_messages(stopped="the same command goes on from the prompts that were read.")
def main(args: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 for an error that the user can mend, 130 for Ctrl-C."""
    args = sys.argv[1:] if args is None else args
    with speaking(args) as speech:
        recipe = parse(args)
        with loading():
            from diffmamba_interp.commands.needle_run import run
        run(recipe, speech)
    return 0


def parse(args: Sequence[str]) -> NeedleRecipe:
    """The recipe that the command line asks for: `--recipe FILE.toml`, then options that override it.

    Raises FileNotFoundError or ValueError for a recipe that cannot be read or has unknown keys.
    """
    prog = program("evaluate-needle")
    return recipe_from_arguments(
        NeedleRecipe, args, prog=prog, description=__doc__ or "", groups=GROUPS, examples=EXAMPLES
    )


if __name__ == "__main__":
    sys.exit(main())
