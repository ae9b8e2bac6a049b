"""README.md and figures of the retrieval analysis, written from its results and records alone.

python analyses/retrieval/report.py
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.retrieval.seeds import FIRST, SECOND, Spread, spread_at
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.plotly_figure import to_plotly
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.retrieval import accuracy_drawing, ratio_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.needle.accuracy_grid import Cell, PromptRow, read_rows
from diffmamba_interp.needle.vocabulary import BABI
from diffmamba_interp.statistics import PairedDifference, paired_difference

HERE = Path(__file__).parent
TITLES = {
    "paper": "Held-out bAbI stories in held-out novels",
    "builtin": "Generated stories in generated text",
}
# Cells with fewer prompts are called rough.
FEW = 20
BABI_WORDS, OTHER_WORDS = "bAbI's", "others"


def write(out: Path = HERE) -> None:
    """Figures beside each results.json, and README.md over those that there are."""
    folders = [out / name for name in TITLES if (out / name / "results.json").is_file()]
    sections = []
    for folder in folders:
        results, grids = read_results(folder)
        write_figures(folder, grids, TITLES[folder.name])
        sections += [f"## {TITLES[folder.name]} (recipe `{folder.name}`)", "", *section(folder, results, grids)]
    findings = [line for folder in folders for line in finding(folder)]
    grids_of = {folder.name: read_results(folder)[1] for folder in folders}
    tokens = {one["tokens"] for f in folders for one in read_results(f)[0]["provenance"]["other_seeds"]}
    same = tokens <= {training("results.json")["tokens"]}
    write_text(out / "README.md", "\n".join([*HEAD, *findings, *METHOD, *sections, *limits(grids_of, same)]) + "\n")


def read_results(folder: Path) -> tuple[dict[str, Any], list[list[Cell]]]:
    """results.json, and the cells of each training seed, that of the bundled pair first."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    grids = [results["cells"], *results["seeds"]]
    return results, [[Cell.from_dict(values) for values in cells] for cells in grids]


def write_figures(folder: Path, grids: Sequence[Sequence[Cell]], title: str) -> None:
    drawings = {
        "accuracy": accuracy_drawing(grids[0], title=title, others=grids[1:]),
        "ratio": ratio_drawing(grids[0], title=f"Accuracy of {SECOND} over {FIRST}"),
    }
    for name, drawing in drawings.items():
        write_text(folder / f"{name}.svg", to_svg(drawing))
        write_text(folder / f"{name}.plotly.json", to_plotly(drawing).to_json())


def finding(folder: Path) -> list[str]:
    """Who wins and by how much: the bundled pair's cells, all tasks together, and over training seeds."""
    rows = read_rows(folder / "records.csv.xz")
    results, grids = read_results(folder)
    won = {}
    for name in (FIRST, SECOND):
        won[name] = [f"{c.task} {length_name(c.length)}" for c in grids[0] if verdict(c.difference) == name]
    lines = [
        f"{TITLES[folder.name]}, the bundled pair: of {len(grids[0])} cells, `{SECOND}` is better in "
        f"{listed(won[SECOND])}, `{FIRST}` in {listed(won[FIRST])}; the rest cannot be told apart at this n. All tasks "
        "together:",
        "",
        f"| length | n | accuracy {FIRST} | {SECOND} | difference (95 %) | better |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for length in sorted({row.length for row in rows}):
        a, b = ([row for row in rows if row.length == length and row.model == name] for name in (FIRST, SECOND))
        found = paired_difference([row.is_right for row in a], [row.is_right for row in b])
        shares = " | ".join(f"{sum(row.is_right for row in part) / len(part):.3f}" for part in (a, b))
        lines.append(f"| {length_name(length)} | {found.n} | {shares} | {points(found)} | {verdict(found) or '-'} |")
    words = by_words(rows) if folder.name == "builtin" else []
    return [*lines, "", *over_seeds(grids, seed_names(results)), *words]


def seed_names(results: dict[str, Any]) -> list[str]:
    """What tables call each training seed, with the tokens that it was trained on where they are known."""
    others = [(one["seed"], one["tokens"]) for one in results["provenance"]["other_seeds"]]
    seeds = [(0, training("results.json")["tokens"]), *others]
    return [f"seed {seed}" + (f" ({tokens / 1e6:.0f}M tokens)" if tokens else "") for seed, tokens in seeds]


def over_seeds(grids: Sequence[Sequence[Cell]], names: Sequence[str]) -> list[str]:
    """Differences of every training seed at every length, all tasks together; nothing for one seed."""
    if len(grids) < 2:
        return []
    lengths = sorted({cell.length for cell in grids[0]})
    spreads = [spread_at(grids, length) for length in lengths]
    ahead = {FIRST: [], SECOND: [], "": []}
    for length, spread in zip(lengths, spreads, strict=True):
        ahead[spread.winner].append(length_name(length))
    lines = [
        f"With {len(grids)} training seeds of each model, all tasks together: `{SECOND}` is ahead with every seed at "
        f"{listed(ahead[SECOND])} of {len(lengths)} lengths, `{FIRST}` at {listed(ahead[FIRST])}. Difference of each "
        "seed, and the mean with its 95 % t interval over seeds:",
        "",
        "| length | " + " | ".join(names) + " | mean (95 %) |",
        "| --- |" + " --- |" * (len(grids) + 1),
    ]
    for length, spread in zip(lengths, spreads, strict=True):
        values = " | ".join(f"{value:+.3f}" for value in spread.values)
        lines.append(f"| {length_name(length)} | {values} | {spread_text(spread)} |")
    return [*lines, ""]


def by_words(rows: Sequence[PromptRow]) -> list[str]:
    """Facts alone, stories in bAbI's words apart from those in other words: were the words learnt, or the task?"""
    lines = [
        "The same stories without filler, by the words that they are told in:",
        "",
        f"| task | words | n | {FIRST} | {SECOND} | difference (95 %) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task in sorted({row.task for row in rows}):
        for words in (BABI_WORDS, OTHER_WORDS):
            own = [r for r in rows if r.task == task and r.length == 0 and words_of(r) == words]
            a, b = ([row.is_right for row in own if row.model == name] for name in (FIRST, SECOND))
            if a:
                found = paired_difference(a, b)
                shares = " | ".join(f"{sum(part) / len(part):.3f}" for part in (a, b))
                lines.append(f"| {task} | {words} | {found.n} | {shares} | {points(found)} |")
    return [*lines, ""]


def words_of(row: PromptRow) -> str:
    """Whether a story is told in bAbI's words or in others."""
    known = {*BABI.people, *BABI.givers, *BABI.places, *BABI.objects}
    return BABI_WORDS if set(row.labels) <= known else OTHER_WORDS


def section(folder: Path, results: dict[str, Any], grids: Sequence[Sequence[Cell]]) -> list[str]:
    made = results["provenance"]
    trained = [("", made["models"]), *((f" seed {one['seed']}", one["sha256"]) for one in made["other_seeds"])]
    weights = [f"{name}{seed} `{digest}`" for seed, digests in trained for name, digest in digests.items()]
    return [
        f"![accuracy]({folder.name}/accuracy.svg)",
        "",
        f"![ratio]({folder.name}/ratio.svg)",
        "",
        *table(grids[0]),
        "",
        *seeds_table(grids, seed_names(results)),
        f"Seed of the prompts {made['seed']}, on {made['device']}, torch {made['versions']['torch']}. sha256 of the "
        f"weights: {', '.join(weights)}.",
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


def seeds_table(grids: Sequence[Sequence[Cell]], names: Sequence[str]) -> list[str]:
    """Accuracies of every training seed in every cell; nothing for one seed."""
    if len(grids) < 2:
        return []
    lines = [
        f"All training seeds in this order: {', '.join(names)}; seed 0 is the bundled pair. The difference is the mean "
        "of theirs, with its 95 % t interval over seeds:",
        "",
        f"| task | length | n | {FIRST} | {SECOND} | difference | ahead with every seed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for own in zip(*grids, strict=True):
        first, second = ([cell.models[k].accuracy for cell in own] for k in (0, 1))
        spread = Spread.of([b - a for a, b in zip(first, second, strict=True)])
        shares = " | ".join(" / ".join(f"{one:.3f}" for one in part) for part in (first, second))
        lines.append(
            f"| {own[0].task} | {length_name(own[0].length)} | {own[0].n} | {shares} | {spread_text(spread)} | "
            f"{spread.winner or '-'} |"
        )
    return [*lines, ""]


def limits(grids_of: dict[str, list[list[Cell]]], is_same_training: bool) -> list[str]:
    """What the numbers do not say, as far as it depends on them.

    grids_of: the cells of each seed, by recipe. is_same_training: whether all seeds saw as many tokens.
    """
    n_seeds = max(map(len, grids_of.values()))
    n_parameters, context = training("results.json")["n_parameters"], training("recipe.toml")["data"]["length"]
    cells = [cell for grids in grids_of.values() for cell in grids[0]]
    beyond = sorted({cell.length for cell in cells if cell.length > context})
    few = sorted({cell.length for cell in cells if cell.n < FEW})
    lines = []
    if n_seeds == 1:
        lines.append(
            "One training seed of each model: the intervals hold for these weights. They do not say that a "
            "differential model trained from another seed would win or lose the same cells."
        )
    else:
        lines.append(
            f"Intervals over stories hold for the weights at hand. Those over training seeds have {n_seeds} values to "
            "go by: they are wide, and where they include zero another seed may turn the result round. Only the "
            "weights of seed 0 are shipped."
        )
    if n_seeds > 1 and not is_same_training:
        lines.append(
            "The seeds were not all trained on as many tokens (the tables say on how many, where it is known): their "
            "spread holds the length of training as well as chance."
        )
    if beyond:
        lines.append(
            f"Both models were trained on contexts of at most {context:,} tokens; {listed_lengths(beyond)} ask for "
            "more than they saw."
        )
    if few:
        lines.append(
            f"Some cells at {listed_lengths(few)} have fewer than {FEW} prompts: there only large differences show."
        )
    lines.append(
        f"Models of {n_parameters / 1e6:.1f} million parameters trained on these kinds of task do not stand for large "
        "pretrained ones."
    )
    return ["## Limits", "", *(f"- {line}" for line in lines)]


def training(file: str) -> dict[str, Any]:
    """What training the bundled plain model left: its results or its recipe."""
    text = (HERE / "training" / FIRST / file).read_text(encoding="utf-8")
    return json.loads(text) if file.endswith(".json") else tomllib.loads(text)


def listed_lengths(lengths: Sequence[int]) -> str:
    return " and ".join(filter(None, (", ".join(map(length_name, lengths[:-1])), length_name(lengths[-1]))))


def listed(found: Sequence[str]) -> str:
    return f"{len(found)} ({', '.join(found)})" if found else "none"


def points(difference: PairedDifference) -> str:
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def spread_text(spread: Spread) -> str:
    return f"{spread.mean:+.3f} [{spread.low:+.3f}, {spread.high:+.3f}]"


def verdict(difference: PairedDifference | None) -> str:
    """The better model's name, or nothing."""
    if difference is None or not difference.excludes_zero:
        return ""
    return SECOND if difference.value > 0 else FIRST


HEAD = [
    "# Which of the demo pair finds facts in long text?",
    "",
    "The question of Fig. 4 of the Diff-Mamba paper (arXiv 2507.06204), asked of the two small models that come",
    f"with the package: accuracy of `{FIRST}` and `{SECOND}` by task and context length.",
    "",
    "## Finding",
    "",
]

METHOD = [
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
    "    python analyses/retrieval/run.py --recipe paper --data FOLDER       (--n 1000 for other numbers of prompts)",
    "",
    "`records.csv.xz` holds what each model answered to every prompt (with `builtin` every label's",
    "log-probability); `results.json` the cells and what they were made with; the figures are there as SVG and as",
    "Plotly JSON, the curves with Wilson intervals. Other training seeds, measured on few prompts, are in",
    "[`SEEDS.md`](SEEDS.md). This page is written by `report.py`.",
    "",
]


if __name__ == "__main__":
    write()
