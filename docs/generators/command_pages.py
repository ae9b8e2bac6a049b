"""The command line as a page: what every command says of itself when it is asked for `--help`, as tables."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

from diffmamba_interp.__main__ import COMMANDS, EXIT_CODES, _command

WIDE = "110"
"""Columns of the terminal that help is printed for: on a wider one, boxes stand side by side."""


@dataclass
class Option:
    """An option as help shows it. names: as they are typed, with what follows them. meaning: with its default."""

    names: str
    meaning: str = ""


@dataclass
class Group:
    """A box of options. about: what stands above its rule, if it has one."""

    options: list[Option] = field(default_factory=list)
    about: str = ""
    lines: list[str] = field(default_factory=list)

    def read(self, line: str) -> None:
        """Take a line from inside the box: an option, its meaning, or both, two or more spaces apart."""
        self.lines.append(line.strip())
        if line.startswith("──"):
            self.about = " ".join(self.lines[:-1])
            self.options = []
        elif line.startswith(" ") and self.options:
            last = self.options[-1]
            last.meaning = f"{last.meaning} {line.strip()}".strip()
        elif self.options and self.options[-1].names.startswith("-") and not line.startswith("-"):
            self.options[-1].names += f" {line}"
        elif line:
            names, _, meaning = re.sub(r" {2,}", "\0", line, count=1).partition("\0")
            self.options.append(Option(names.strip(), meaning.strip()))


@dataclass
class Help:
    """What a command says. before, after: its text outside the boxes of options; groups: the boxes by their title."""

    before: list[str] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)


def help_of(command: str) -> str:
    """What `diffmamba-interp COMMAND --help` prints on a wide terminal."""
    return printed(_command(command), ["--help"])


def printed(main: Callable[[list[str]], int], arguments: list[str]) -> str:
    """The output of a command called in this process, which ends by itself."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # what cannot say its encoding gets no boxes
    with (
        mock.patch.dict(os.environ, {"COLUMNS": WIDE, "NO_COLOR": "1", "TERM": "dumb"}),
        mock.patch("sys.argv", ["diffmamba-interp"]),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        main(arguments)
    out.seek(0)
    return out.read()


def parsed(text: str) -> Help:
    """Help with its boxes taken apart. Raises ValueError where there is no option in it."""
    result, group = Help(), None
    for line in text.splitlines():
        if line.startswith("╭"):
            group = result.groups.setdefault(line.strip("╭╮─ "), Group())
        elif line.startswith("╰"):
            group = None
        elif group is None:
            (result.after if result.groups else result.before).append(line)
        elif line.startswith("│"):
            group.read(line.strip("│")[1:].rstrip())
    if not any(group.options for group in result.groups.values()):
        raise ValueError(f"no option is found in this help:\n{text}")
    return result


def markdown() -> str:
    """Every command with its options, and the exit codes."""
    return "\n".join([*(line for command in COMMANDS for line in _section(command)), *_exit_codes()])


def _section(command: str) -> Iterator[str]:
    found = parsed(help_of(command))
    yield f"\n## {command}\n"
    yield f"{COMMANDS[command][0].upper()}{COMMANDS[command][1:]}.\n"
    paragraphs = [" ".join(text.split()) for text in "\n".join(found.before).split("\n\n")]
    program = paragraphs[0].removeprefix("usage: ").partition(" [-h]")[0]
    words = [option.names for group in found.groups.values() for option in group.options if option.names[0] != "-"]
    yield f"```text\n{' '.join([program, *words, '[options]'])}\n```\n"
    for paragraph in filter(None, paragraphs[1:]):
        yield f"{prose(paragraph)}\n"
    for title, group in found.groups.items():
        shown = [option for option in group.options if not option.names.startswith("-h,")]
        if not shown:
            continue
        yield f"### {command}: {title}\n"
        if group.about:
            yield f"{prose(group.about)}\n"
        yield "| option | meaning |\n| --- | --- |"
        for option in shown:
            yield f"| {_code(option.names)} | {prose(option.meaning)} |"
        yield ""
    examples = "\n".join(found.after).strip()
    if examples:
        yield f"```text\n{examples}\n```\n"


def _exit_codes() -> Iterator[str]:
    yield "\n## Exit codes\n"
    yield "| code | meaning |\n| --- | --- |"
    for code, meaning in EXIT_CODES:
        yield f"| {code} | {meaning} |"


def _code(text: str) -> str:
    return f"`{text}`"


def prose(text: str) -> str:
    """Plain text whose signs mean nothing to Markdown, but for pairs of backticks."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return _escaped(text.replace("`", "'"))
    return "`".join(part if at % 2 else _escaped(part) for at, part in enumerate(parts))


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]|])", r"\\\1", text).replace("<", "&lt;").replace(">", "&gt;")
