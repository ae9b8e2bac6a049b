"""How a command speaks: its result to stdout, for people or as JSON, and everything else to stderr; and how far it is.

    --json     the result is one JSON document on stdout; nothing else is written there
    --quiet    no progress and no table: the line with the result, warnings and errors

A progress bar is redrawn in place on a terminal, and writes a whole line now and then into a file or a pipe.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

from diffmamba_interp.files.json_files import json_text

LINE_S = 10.0
"""Seconds between two lines of a bar where there is no terminal."""
PACKAGE = "diffmamba_interp"


@dataclass(frozen=True, kw_only=True)
class Speech:
    """The voice of one command.

    Attributes:
        json: the result goes out as JSON.
        quiet: neither progress nor tables.
        stdout: where the result goes.
    """

    json: bool = False
    quiet: bool = False
    stdout: TextIO = field(default_factory=lambda: sys.stdout)

    def result(self, document: Mapping[str, Any], line: str, table: Sequence[str] = ()) -> None:
        """Say what came out.

        document: for a program, under `--json`. line: for people, last. table: the lines above it.
        """
        if self.json:
            self.stdout.write(json_text(document, indent=1) + "\n")
        else:
            self.stdout.writelines(f"{text}\n" for text in [*([] if self.quiet else table), line])
        self.stdout.flush()


@contextmanager
def speaking(args: Sequence[str], *, log_format: str = "%(message)s") -> Iterator[Speech]:
    """The voice that the arguments ask for, while the command runs; its log goes to stderr."""
    speech = Speech(json="--json" in args, quiet="--quiet" in args)
    logging.basicConfig(level=logging.INFO, format=log_format, datefmt="%H:%M:%S", stream=sys.stderr)
    package = logging.getLogger(PACKAGE)
    before = package.level
    if speech.quiet:
        package.setLevel(logging.WARNING)
    try:
        if speech.json:
            # What a library prints must not stand before the document.
            with redirect_stdout(sys.stderr):
                yield speech
        else:
            yield speech
    finally:
        package.setLevel(before)


def progress(total: int, *, unit: str, done: int = 0, description: str | None = None, shown: bool = True) -> Progress:
    """A bar on stderr, closed by `with`. done: units that were there before. shown: False: it says nothing."""
    return Progress(total=total, initial=done, unit=unit, desc=description, disable=not shown)


class Progress(tqdm):
    """tqdm's bar, which writes lines where it cannot redraw one."""

    disable: bool

    def __init__(self, *, disable: bool, **given: Any) -> None:
        self._in_lines = not sys.stderr.isatty()
        if self._in_lines and not disable:
            given |= {"mininterval": LINE_S, "maxinterval": LINE_S, "miniters": 1, "bar_format": self._words(given)}
        super().__init__(disable=disable, **given)

    @staticmethod
    def _words(given: Mapping[str, Any]) -> str:
        name = f"{given['desc']}: " if given.get("desc") else ""
        return name + "{n_fmt} of {total_fmt} " + given["unit"] + "s, {elapsed} so far, {remaining} left{postfix}"

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Redraw the bar, or write its line."""
        if not self._in_lines:
            return super().display(msg, pos)
        if msg != "":
            self.fp.write(f"{self if msg is None else msg}\n")
            self.fp.flush()
        return True

    def close(self) -> None:
        """Draw or write the bar for the last time."""
        if self._in_lines and not self.disable:
            self.display()
            self.disable = True
        super().close()
