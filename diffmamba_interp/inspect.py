"""`python -m diffmamba_interp.inspect PATH`: what a checkpoint holds and whether it loads."""

from __future__ import annotations

if __name__ == "__main__":
    from diffmamba_interp.runs.command import quiet_interrupts

    quiet_interrupts()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from diffmamba_interp.runs.command import errors_as_messages, loading, program
from diffmamba_interp.runs.options import OutputOptions, parsed_options
from diffmamba_interp.runs.speech import speaking

EXAMPLES = ("diff-mamba2", "checkpoints/mine --no-check-values", "owner/name --json")


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of the command."""

    path: Annotated[str, tyro.conf.Positional]
    """A checkpoint folder, a hub id, or a bundled model (diff-mamba2, mamba2)."""
    check_values: bool = True
    """Read all weights, and name those that hold NaN or infinity."""
    output: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions()


@errors_as_messages(stopped="nothing was written.")
def main(args: Sequence[str] | None = None) -> int:
    """Print the report; 0 if the checkpoint loads, 1 if keys do not fit or values are not finite, 2 if it is none."""
    args = sys.argv[1:] if args is None else args
    prog = program("inspect")
    with speaking(args) as speech:
        options = parsed_options(InspectOptions, args, prog=prog, description=__doc__ or "", examples=EXAMPLES)
        with loading():
            from diffmamba_interp.commands.inspect_run import run
        return run(options.path, speech, check_values=options.check_values)


if __name__ == "__main__":
    sys.exit(main())
