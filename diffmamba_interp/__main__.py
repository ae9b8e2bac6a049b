"""`diffmamba-interp COMMAND`, or `python -m diffmamba_interp COMMAND`: the commands of the toolkit under one name.

Each command is a module too: `python -m diffmamba_interp.train_lens` is `diffmamba-interp train-lens`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from diffmamba_interp.runs.command import errors_as_messages, quiet_interrupts

COMMANDS = {
    "explore": "open the explorer of models in a browser",
    "inspect": "say what a checkpoint holds, and whether it loads",
    "train-lens": "train a tuned lens of a model, fit a Jacobian lens, or measure one",
    "evaluate-needle": "needle probability and signal-to-noise per block, two models, one report",
    "train-lm": "train a language model, plain or differential",
}
EXAMPLES = (
    "explore --root checkpoints",
    "inspect diff-mamba2",
    "train-lens --model checkpoints/mine --data texts",
    "evaluate-needle --n 10",
)
EXIT_CODES = (
    (0, "done"),
    (1, "the answer is no: a checkpoint that does not load, a training that diverged"),
    (2, "an error that you can mend, in one line that begins with `error:`"),
    (3, "the minutes of a training ran out before its steps"),
    (130, "Ctrl-C; 129 and 143 a closed terminal and SIGTERM: what was written is whole"),
    (141, "whoever read the output has gone"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names with those that follow; its exit code."""
    quiet_interrupts()
    name, *rest = [*(sys.argv[1:] if args is None else args)] or ["--help"]
    return _own(name) if name.startswith("-") or name not in COMMANDS else _command(name)(rest)


@errors_as_messages(stopped="nothing was begun.")
def _own(name: str) -> int:
    """What is asked of no command: help, or the version."""
    if name in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if name == "--version":
        print(f"diffmamba-interp {version('diffmamba-interp')}")
        return 0
    close = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(f"{name!r} is no command: it must be one of {', '.join(COMMANDS)}, or --version.{meant}")


def _command(name: str) -> Callable[[list[str]], int]:
    """The command's `main`; no other command's libraries are loaded."""
    match name:
        case "explore":
            from diffmamba_interp.explore import main as command
        case "inspect":
            from diffmamba_interp.inspect import main as command
        case "train-lens":
            from diffmamba_interp.train_lens import main as command
        case "evaluate-needle":
            from diffmamba_interp.evaluate_needle import main as command
        case _:
            from diffmamba_interp.train_lm import main as command
    return command


def help_text() -> str:
    """What `--help` prints."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: diffmamba-interp COMMAND [options]      diffmamba-interp COMMAND --help",
            "",
            "Mechanistic interpretability for Mamba and Differential Mamba language models.",
            "",
            "commands",
            *(f"  {name:{width}s}  {text}" for name, text in COMMANDS.items()),
            "",
            "  --version  print the version",
            "",
            "examples",
            *(f"  diffmamba-interp {line}" for line in EXAMPLES),
            "",
            "exit codes",
            *(f"  {code:3d}  {text}" for code, text in EXIT_CODES),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
