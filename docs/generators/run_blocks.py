"""Run every block of code of the README and the site, as a reader would, page by page: `make docs` does.

    python -m docs.generators.run_blocks [PAGE ...]

A page's Python blocks share their names and an empty folder. One that is followed by a block of text must print what
stands there, or raise it if it is an error; ... is anything. A command of ours must end well, or with the error below
it. In a process of its own, since pytest's type hook would refuse wrong calls in words that users never see.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = ("explore", "train-lm")
"""Commands of ours that wait for Ctrl-C, or train for hours."""
LANGUAGES = ("python", "console", "text", "")


def pages() -> dict[str, Path]:
    """The README and every page that somebody wrote, by name."""
    return {"README": ROOT / "README.md", **{path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}}


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and text of each block of a page. Raises ValueError for a language that nothing runs."""
    found = BLOCK.findall(text)
    strange = {language for language, _ in found} - set(LANGUAGES)
    if strange:
        raise ValueError(f"a block of {', '.join(sorted(strange))} is nothing that is run: use {', '.join(LANGUAGES)}.")
    return found


def fits(message: str, shown: str) -> bool:
    """Whether a message is the one that is shown, in which ... stands for anything."""
    pattern = ".*".join(map(re.escape, re.split(r" ?\.\.\. ?", " ".join(shown.split()))))
    return re.fullmatch(pattern, " ".join(message.split())) is not None


def run_page(name: str, path: Path) -> int:
    """Run a page's blocks in an empty folder; how many there were. Raises AssertionError, naming page and block."""
    found = blocks(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for (language, text), (following, shown) in zip(found, [*found, ("", "")][1:], strict=True):
            try:
                if language == "python":
                    run_python(text, names, shown if following == "text" else None)
                elif language == "console":
                    for command in re.split(r"\n(?=\$ )", text.strip()):
                        run_command(command)
            except Exception as error:
                raise AssertionError(f"{name}: {error}\nin the block\n{text}") from error
    return len(found)


def run_python(code: str, names: dict[str, Any], shown: str | None) -> None:
    """Run a block; with `shown`, it must print or raise that."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(code, "block", "exec"), names)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            if shown is None or not fits(message, shown):
                raise AssertionError(f"it raises\n{message}\nand the page shows\n{shown}") from error
            return
    if shown is not None and not fits(printed.getvalue(), shown):
        raise AssertionError(f"it prints\n{printed.getvalue()}\nand the page shows\n{shown}")


def run_command(text: str) -> None:
    """Run a line after `$` if it is a command of ours, and compare an error with the lines below it."""
    from diffmamba_interp.__main__ import COMMANDS, main

    command, *shown = text.splitlines()
    program, *arguments = shlex.split(command.removeprefix("$ "))
    if program != "diffmamba-interp":
        return
    if arguments[0] not in (*COMMANDS, "--help", "--version") and not shown:
        raise AssertionError(f"{command} is no command.")
    if arguments[0] in NOT_RUN and not shown:
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(arguments)
    if code != (2 if shown else 0) or (shown and not fits(said.getvalue(), "\n".join(shown))):
        raise AssertionError(f"it ends with {code} and says\n{said.getvalue()}\nand the page shows\n{shown}")


def main_of_blocks(names: list[str]) -> int:
    """Run the named pages, all by default; 1 with what went wrong, page by page."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    failed = 0
    for name, path in pages().items():
        if names and name not in names:
            continue
        begin = time.perf_counter()
        try:
            n = run_page(name, path)
            print(f"{name}: {n} blocks, {time.perf_counter() - begin:.1f} s", flush=True)
        except (AssertionError, ValueError) as error:
            failed = 1
            print(f"{name}: FAILED\n{error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main_of_blocks(sys.argv[1:]))
