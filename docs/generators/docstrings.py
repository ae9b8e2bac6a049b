"""Docstrings, which are written to be read in the source, made to read as well on a page.

name: what it is             a line that begins with names and a colon is an item of a list
a paragraph with columns     is kept as it stands, in the letters of code
< and [                      are themselves
"""

from __future__ import annotations

import re
from collections.abc import Iterator

ITEM = re.compile(r"(`?\w+`?(?:, `?\w+`?)*): (?=\S)")
COLUMNS = re.compile(r"\S {3,}\S")


def readable(text: str) -> str:
    """A docstring's text as Markdown; what stands below `Args:` and its kin stays where it is."""
    paragraphs = re.split(r"\n{2,}", text.expandtabs())
    return "\n\n".join(map(_paragraph, paragraphs))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if re.fullmatch(r"[A-Z]\w+:", lines[0] if lines else ""):
        return _escaped(text)
    if text.startswith("    "):
        return text
    if any(COLUMNS.search(line) for line in lines) and not any(ITEM.match(line) for line in lines):
        return "\n".join(f"    {line}" for line in lines)
    return "\n".join(_items(lines))


def _items(lines: list[str]) -> Iterator[str]:
    in_list = False
    for at, line in enumerate(lines):
        item = ITEM.match(line)
        if item and not in_list and at:
            yield ""
        in_list = in_list or bool(item)
        yield f"- **{item[1]}**: {_escaped(line[item.end() :])}" if item else _escaped(line)


def _escaped(text: str) -> str:
    """Signs that mean something to Markdown, outside of pairs of backticks."""
    parts = text.split("`")
    return "`".join(
        part if at % 2 else part.replace("[", r"\[").replace("<", "&lt;").replace("*", r"\*")
        for at, part in enumerate(parts)
    )
