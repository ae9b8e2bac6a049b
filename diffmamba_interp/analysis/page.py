"""The page of a question: its README.md is the template, with blocks between markers that are written from results.

    <!-- findings: written by run.py -->
    ...
    <!-- end of findings -->

All other text of the page stays as it is, so it is edited where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffmamba_interp.analysis.results import RESULT_DIGITS, estimate_from, read_results, write_results
from diffmamba_interp.drawing.panels import Drawing, Point
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.files.atomic import write_text

RECORDS, RESULTS = "records.parquet", "results.json"
ALL = "all"
"""Of a task: all tasks together."""
TITLES = {"paper": "Held-out bAbI stories in held-out novels", "builtin": "Generated stories in generated text"}
"""What pages call the recipes, in the order in which they speak of them."""

Results = dict[str, Any]
Values = Sequence[float | None]
"""An estimate as results.json holds it: value, low, high."""


def results_of(folder: Path) -> Results:
    """results.json of a recipe's folder."""
    return read_results(folder / RESULTS)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the records of a question say: results.json and figures in each recipe's folder, README.md over them all.

    folder: of the question, with the template.
    summarise: of a recipe's folder, and of its results.json as far as it is written -> all that it is to hold but the
    provenance. digits: of its numbers. read: the results of a folder, as the functions below take them.
    figures: of the results and the recipe's title, by name; they go beside results.json and on the page.
    finding: of the same: lines of the block "findings". section: lines below the recipe's figures in the block
    "results". blocks: of all results by recipe: further blocks by name.
    after: what else is written of the folder that the page is in.
    """

    folder: Path
    summarise: Callable[[Path, Results], Results]
    figures: Callable[[Results, str], Mapping[str, Drawing]]
    finding: Callable[[Results, str], Sequence[str]]
    section: Callable[[Results], Sequence[str]]
    blocks: Callable[[Mapping[str, Results]], Mapping[str, Sequence[str]]] | None = None
    titles: Mapping[str, str] = field(default_factory=lambda: TITLES)
    read: Callable[[Path], Results] = results_of
    after: Callable[[Path], None] | None = None
    digits: int = RESULT_DIGITS

    def complete(self, folder: Path) -> None:
        """results.json from the records beside it."""
        results = read_results(folder / RESULTS)
        write_results(folder / RESULTS, results["provenance"], self.summarise(folder, results), digits=self.digits)

    def write(self, out: Path | None = None) -> None:
        """Figures beside each results.json in `out` (None: the question's folder), README.md over those there are."""
        out = out or self.folder
        names = [name for name in self.titles if (out / name / RESULTS).exists()]
        by_recipe = {name: self.read(out / name) for name in names}
        findings: list[str] = []
        sections: list[str] = []
        for name, results in by_recipe.items():
            title = self.titles[name]
            drawings = self.figures(results, title)
            write_figures(out / name, drawings)
            findings += self.finding(results, title)
            pictures = [line for figure in drawings for line in (f"![{figure}]({name}/{figure}.svg)", "")]
            sections += [f"## {title} (recipe `{name}`)", "", *pictures, *self.section(results)]
        more = self.blocks(by_recipe) if self.blocks else {}
        write_page(self.folder, out, {"findings": findings, "results": sections, **more})
        if self.after is not None:
            self.after(out)


def write_page(folder: Path, out: Path, blocks: Mapping[str, Sequence[str]]) -> None:
    """README.md in `out`: that of `folder`, with each block's lines between its markers.

    Raises ValueError, with the file, for a block that has no place in it.
    """
    text = (folder / "README.md").read_text(encoding="utf-8")
    for name, lines in blocks.items():
        between = re.compile(rf"(?<=<!-- {name}: written by run.py -->\n).*?(?=<!-- end of {name} -->)", re.DOTALL)
        places = between.findall(text)
        if len(places) != 1:
            raise ValueError(
                f"{folder / 'README.md'} has {len(places)} places for the block {name!r}: it needs one, from "
                f"<!-- {name}: written by run.py --> to <!-- end of {name} -->."
            )
        before, after = between.split(text)
        content = "\n".join(lines).strip("\n")
        text = f"{before}{content}\n{after}"
    write_text(out / "README.md", text)


def write_figures(folder: Path, drawings: Mapping[str, Drawing]) -> None:
    """Each figure as SVG."""
    for name, drawing in drawings.items():
        write_text(folder / f"{name}.svg", to_svg(drawing))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table; "" leaves a cell empty."""
    lines = ["|" + "".join(f" {cell} |" if cell != "" else " |" for cell in row) for row in (heads, *rows)]
    return [lines[0], "| --- " * len(heads) + "|", *lines[1:]]


def text(values: Values, decimals: int = 3, *, signed: bool = False) -> str:
    """`0.123 [0.100, 0.150]`."""
    return estimate_from(values).text(decimals, signed=signed)


def points(estimates: Iterable[Values]) -> list[Point]:
    """Estimates as a curve's points."""
    return [(one.value, one.low, one.high) for one in map(estimate_from, estimates)]


def listed(names: Sequence[str], nothing: str) -> str:
    """The names in a row, or what to say where there are none."""
    return ", ".join(names) or nothing


def made_with(results: Results) -> str:
    """The sentence that ends a section: seed, device, version and weights, and the lenses where there are some."""
    about = results["provenance"]

    def digests(kind: str) -> str:
        return ", ".join(f"{model} `{digest}`" for model, digest in about[kind].items())

    torch = about["versions"]["torch"]
    line = f"Seed {about['seed']}, on {about['device']}, torch {torch}. Weights: {digests('models')}."
    if "lenses" not in about:
        return line
    return f"{line} Tuned lenses: {digests('lenses')}." if about["lenses"] else f"{line} Read with the logit lens."


def of_all_tasks(results: Results) -> list[dict[str, Any]]:
    """The cells of all tasks together, by length."""
    return [cell for cell in results["cells"] if cell["task"] == ALL]
