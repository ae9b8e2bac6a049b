"""The findings as pages: the README's table, and every analysis' own README with its pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
LIST_OR_TABLE = re.compile(r"[-*] |\d+\. |\|")


def analyses() -> list[str]:
    """The questions that were asked, by the names of their folders."""
    return sorted(readme.parent.name for readme in (ROOT / "analyses").glob("*/README.md"))


def index() -> str:
    """What was found: the README's text and table, in which every analysis is a link."""
    text = linked(for_site(_of_readme("What was found")), below="")
    return "---\nhide: [toc]\n---\n# Findings\n\n" + text.replace("[`analyses/", "[`")


def glossary() -> str:
    """The README's table of words."""
    return for_site(_of_readme("Glossary"))


def page(name: str) -> tuple[str, list[Path]]:
    """The page of an analysis, and the files beside its README that it shows or links."""
    return beside(ROOT / "analyses" / name / "README.md")


def beside(path: Path) -> tuple[str, list[Path]]:
    """A page from a text of the repository, and the files that it shows or links; what lies elsewhere is no link."""
    files = []

    def resolved(match: re.Match[str]) -> str:
        target = (path.parent / match[3]).resolve()
        if "://" in match[3] or match[3].startswith("#"):
            return match[0]
        if path.parent not in target.parents or not target.is_file():
            return match[2]
        files.append(target)
        return match[0]

    text = LINK.sub(resolved, for_site(path.read_text(encoding="utf-8")))
    return linked(text, below="../"), files


def for_site(text: str) -> str:
    """Text for GitHub's Markdown as Python's takes it: without comments, a blank line before a list or table."""
    return "\n".join(_spaced(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines()))


def _of_readme(title: str) -> str:
    """A section of the README, without its title. Raises ValueError if there is none."""
    found = re.search(
        rf"^## {title}\n(.*?)^## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    if found is None:
        raise ValueError(f"README.md has no section `{title}`, which the site shows.")
    return found.group(1)


def _spaced(lines: list[str]) -> Iterator[str]:
    before, fenced = "", False
    for line in lines:
        fenced ^= line.startswith("```")
        starts = LIST_OR_TABLE.match(line) and before and not (LIST_OR_TABLE.match(before) or before.startswith(" "))
        if starts and not fenced:
            yield ""
        yield line
        before = line


def linked(text: str, below: str) -> str:
    """Names of analyses in code become links to their pages."""
    known = set(analyses())

    def link(match: re.Match[str]) -> str:
        return f"[{match[0]}]({below}{match[1]}/index.md)" if match[1] in known else match[0]

    return re.sub(r"`analyses/(\w+)(?:/\w+)?`", link, text)
