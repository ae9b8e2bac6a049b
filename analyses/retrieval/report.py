"""README.md and figures of the retrieval analysis, written from its results and records alone.

python analyses/retrieval/report.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffmamba_interp.figures.retrieval import accuracy_by_length, length_name, ratio_heat_map
from diffmamba_interp.figures.retrieval_svg import accuracy_svg, ratio_svg
from diffmamba_interp.lens.atomic_files import write_text
from diffmamba_interp.needle.accuracy_grid import Cell, PromptRow, read_rows
from diffmamba_interp.needle.comparison import PairedDifference, paired_difference
from diffmamba_interp.needle.vocabulary import BABI

HERE = Path(__file__).parent
FIRST, SECOND = "mamba2", "diff-mamba2"
TITLES = {
    "paper": "Held-out bAbI stories in held-out novels",
    "builtin": "Generated stories in generated text",
}


def write(out: Path = HERE) -> None:
    """Figures beside each results.json, and README.md over those that there are."""
    sections = []
    for name, title in TITLES.items():
        folder = out / name
        if not (folder / "results.json").is_file():
            continue
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        cells = [Cell.from_dict(values) for values in results["cells"]]
        write_figures(folder, cells, title)
        sections += [f"## {title} (recipe `{name}`)", "", *section(folder, results, cells)]
    write_text(out / "README.md", "\n".join([*head(out), *sections, *LIMITS]) + "\n")


def write_figures(folder: Path, cells: Sequence[Cell], title: str) -> None:
    ratio_title = f"Accuracy of {SECOND} over {FIRST}"
    write_text(folder / "accuracy.svg", accuracy_svg(cells, title=title))
    write_text(folder / "ratio.svg", ratio_svg(cells, title=ratio_title))
    write_text(folder / "accuracy.plotly.json", accuracy_by_length(cells, title=title).to_json())
    write_text(folder / "ratio.plotly.json", ratio_heat_map(cells, title=ratio_title).to_json())


def head(out: Path) -> list[str]:
    return [
        "# Which of the demo pair finds facts in long text?",
        "",
        "The question of Fig. 4 of the Diff-Mamba paper (arXiv 2507.06204), asked of the two small models that come",
        f"with the package: accuracy of `{FIRST}` and `{SECOND}` by task and context length.",
        "",
        "## Finding",
        "",
        *(line for name in TITLES if (out / name / "results.json").is_file() for line in finding(out / name)),
        "",
        "## How it was measured",
        "",
        "The facts of a held-out story are spread at random through filler, in the paper's prompt format. A model is",
        "right if the answer is the most probable of the task's labels after the prompt; `generated` is the share of",
        "prompts whose first greedily generated word is the answer. Intervals: Wilson, 95 %. Differences are paired",
        'by story, with a 95 % percentile bootstrap interval over stories; "better" names a model only where that',
        "interval excludes zero. One cell in twenty would do so by luck alone. A cell with no disagreement has an",
        "interval of zero width, which says little when n is small. `chance` guesses among the labels, `mentioned`",
        "among those that the facts mention.",
        "",
        "`paper` takes bAbI's own en-10k test stories that occur in none of its training files, and the novels of the",
        "evaluation split. `builtin` takes stories of the package's generator, half of them in bAbI's words and half",
        "in words of its own, and text from a grammar, a kind of filler that the models were not trained on.",
        "",
        "    python analyses/retrieval/run.py --recipe builtin",
        "    python analyses/retrieval/run.py --recipe paper --data FOLDER       (--n ... for more prompts)",
        "",
        "`records.csv.gz` holds every prompt's label log-probabilities; `results.json` the cells and what they were",
        "made with; the figures are there as SVG and as Plotly JSON. This page is written by `report.py`.",
        "",
    ]


def finding(folder: Path) -> list[str]:
    """Two sentences and the pooled differences of one recipe."""
    rows = read_rows(folder / "records.csv.gz")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    cells = [Cell.from_dict(values) for values in results["cells"]]
    second = [f"{c.task} {length_name(c.length)}" for c in cells if verdict(c.difference) == SECOND]
    first = [f"{c.task} {length_name(c.length)}" for c in cells if verdict(c.difference) == FIRST]
    lines = [
        f"{TITLES[folder.name]}: of {len(cells)} cells, `{SECOND}` is better in {listed(second)}, `{FIRST}` in "
        f"{listed(first)}; the rest cannot be told apart at this n. All tasks together:",
        "",
        "| length | n | accuracy " + FIRST + " | " + SECOND + " | difference (95 %) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for length in sorted({row.length for row in rows}):
        a, b = ([row for row in rows if row.length == length and row.model == name] for name in (FIRST, SECOND))
        found = paired_difference([row.is_right for row in a], [row.is_right for row in b])
        shares = " | ".join(f"{sum(row.is_right for row in part) / len(part):.3f}" for part in (a, b))
        lines.append(f"| {length_name(length)} | {found.n} | {shares} | {points(found)} |")
    return [*lines, "", *(by_words(rows) if folder.name == "builtin" else [])]


def by_words(rows: Sequence[PromptRow]) -> list[str]:
    """Facts alone, stories in bAbI's words apart from those in other words: were the words learnt, or the task?"""
    known = {*BABI.people, *BABI.givers, *BABI.places, *BABI.objects}
    lines = [
        "The same stories without filler, by the words that they are told in:",
        "",
        f"| task | words | n | {FIRST} | {SECOND} | difference (95 %) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task in sorted({row.task for row in rows}):
        for words, is_known in (("bAbI's", True), ("others", False)):
            own = [r for r in rows if r.task == task and r.length == 0 and (set(r.labels) <= known) == is_known]
            a, b = ([row.is_right for row in own if row.model == name] for name in (FIRST, SECOND))
            if a:
                found = paired_difference(a, b)
                shares = " | ".join(f"{sum(part) / len(part):.3f}" for part in (a, b))
                lines.append(f"| {task} | {words} | {found.n} | {shares} | {points(found)} |")
    return [*lines, ""]


def listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def section(folder: Path, results: dict[str, Any], cells: Sequence[Cell]) -> list[str]:
    made = results["provenance"]
    return [
        f"![accuracy]({folder.name}/accuracy.svg)",
        "",
        f"![ratio]({folder.name}/ratio.svg)",
        "",
        *table(cells),
        "",
        f"Seed {made['seed']}, on {made['device']}, torch {made['versions']['torch']}. Weights: "
        + ", ".join(f"{name} `{digest}`" for name, digest in made["models"].items())
        + ".",
        "",
    ]


def table(cells: Sequence[Cell]) -> list[str]:
    lines = [
        f"| task | length | n | chance | mentioned | {FIRST} | {SECOND} | generated | difference | better |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        assert cell.difference is not None
        accuracies = " | ".join(f"{m.accuracy:.3f} [{m.low:.3f}, {m.high:.3f}]" for m in cell.models)
        generated = " / ".join(f"{m.generated:.3f}" for m in cell.models)
        lines.append(
            f"| {cell.task} | {length_name(cell.length)} | {cell.n} | {cell.chance:.3f} | {cell.chance_mentioned:.3f} "
            f"| {accuracies} | {generated} | {points(cell.difference)} | {verdict(cell.difference) or '-'} |"
        )
    return lines


def points(difference: PairedDifference) -> str:
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def verdict(difference: PairedDifference | None) -> str:
    """The better model's name, or nothing."""
    if difference is None or not difference.excludes_zero:
        return ""
    return SECOND if difference.value > 0 else FIRST


LIMITS = [
    "## Limits",
    "",
    "- One training seed of each model: the intervals hold for these weights. They do not say that a differential",
    "  model trained from another seed would win or lose the same cells.",
    "- Both models were trained on contexts of at most 1,024 tokens; 2k and beyond ask for more than they saw.",
    "- The number of prompts falls with the length, as the table says; where n is below 20 only large differences",
    "  can be seen.",
    "- Models of 4 million parameters trained on these kinds of task do not stand for large pretrained ones.",
]


if __name__ == "__main__":
    write()
