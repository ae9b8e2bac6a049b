"""What the records of the retrieval analysis say, in results.json, figures and README.md.

python analyses/retrieval/report.py      figures and README.md alone, from results.json and records
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.retrieval.seeds import FIRST, SECOND, Spread, pair_of, spread_at
from diffmamba_interp.analysis.page import TITLES, Page, Results, table
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.retrieval import accuracy_drawing, ratio_drawing
from diffmamba_interp.files.json_files import read_json_object, read_toml
from diffmamba_interp.needle.accuracy_grid import Cell, PromptRow, read_rows
from diffmamba_interp.needle.accuracy_grid import summarise as cells_of
from diffmamba_interp.needle.vocabulary import BABI
from diffmamba_interp.statistics import PairedDifference, paired_difference

HERE = Path(__file__).parent
ROWS = "records.csv.xz"
# Cells with fewer prompts are called rough.
FEW = 20
BABI_WORDS, OTHER_WORDS = "bAbI's", "others"


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Cells of the bundled pair and of each other seed, from the records; bits per byte as they were measured."""
    rows = read_rows(folder / ROWS)
    seeds = [0, *(one["seed"] for one in results["provenance"]["other_seeds"])]
    grids = [[cell.to_dict() for cell in cells_of(rows, pair_of(seed))] for seed in seeds]
    return {"cells": grids[0], "seeds": grids[1:], "text": results["text"]}


def read(folder: Path) -> Results:
    """results.json, with the cells of each training seed as `grids`, that of the bundled pair first, and the rows."""
    results = read_json_object(folder / "results.json")
    grids = [[Cell.from_dict(values) for values in cells] for cells in (results["cells"], *results["seeds"])]
    return {**results, "grids": grids, "rows": read_rows(folder / ROWS)}


def figures(results: Results, title: str) -> dict[str, Drawing]:
    grids = results["grids"]
    return {
        "accuracy": accuracy_drawing(grids[0], title=title, others=grids[1:]),
        "ratio": ratio_drawing(grids[0], title=f"Accuracy of {SECOND} over {FIRST}"),
    }


def finding(results: Results, title: str) -> list[str]:
    """Who wins and by how much: the bundled pair's cells, all tasks together, and over training seeds."""
    rows, grids = results["rows"], results["grids"]
    won = {}
    for name in (FIRST, SECOND):
        won[name] = [f"{c.task} {length_name(c.length)}" for c in grids[0] if verdict(c.difference) == name]
    compared = []
    for length in sorted({row.length for row in rows}):
        of_length = [row for row in rows if row.length == length]
        difference, shares = compare(of_length)
        compared.append([length_name(length), difference.n, *shares, points(difference), verdict(difference) or "-"])
    return [
        f"{title}, the bundled pair: of {len(grids[0])} cells, `{SECOND}` is better in {counted(won[SECOND])}, "
        f"`{FIRST}` in {counted(won[FIRST])}; the rest cannot be told apart at this n. All tasks together:",
        "",
        *table(["length", "n", f"accuracy {FIRST}", SECOND, "difference (95 %)", "better"], compared),
        "",
        *over_seeds(grids, seed_names(results)),
        *(by_words(rows) if title == TITLES["builtin"] else []),
    ]


def compare(rows: Sequence[PromptRow]) -> tuple[PairedDifference, list[str]]:
    """The difference of the bundled pair on these prompts, and each one's share of right answers."""
    a, b = ([row.is_right for row in rows if row.model == name] for name in (FIRST, SECOND))
    return paired_difference(a, b), [f"{sum(part) / len(part):.3f}" for part in (a, b)]


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
    rows = [
        [length_name(length), *(f"{value:+.3f}" for value in spread.values), spread_text(spread)]
        for length, spread in zip(lengths, spreads, strict=True)
    ]
    return [
        f"With {len(grids)} training seeds of each model, all tasks together: `{SECOND}` is ahead with every seed at "
        f"{counted(ahead[SECOND])} of {len(lengths)} lengths, `{FIRST}` at {counted(ahead[FIRST])}. Difference of each "
        "seed, and the mean with its 95 % t interval over seeds:",
        "",
        *table(["length", *names, "mean (95 %)"], rows),
        "",
    ]


def by_words(rows: Sequence[PromptRow]) -> list[str]:
    """Facts alone, stories in bAbI's words apart from those in other words: were the words learnt, or the task?"""
    compared = []
    for task in sorted({row.task for row in rows}):
        for words in (BABI_WORDS, OTHER_WORDS):
            told = [row for row in rows if (row.task, row.length, words_of(row)) == (task, 0, words)]
            if told:
                difference, shares = compare(told)
                compared.append([task, words, difference.n, *shares, points(difference)])
    return [
        "The same stories without filler, by the words that they are told in:",
        "",
        *table(["task", "words", "n", FIRST, SECOND, "difference (95 %)"], compared),
        "",
    ]


def words_of(row: PromptRow) -> str:
    """Whether a story is told in bAbI's words or in others."""
    known = {*BABI.people, *BABI.givers, *BABI.places, *BABI.objects}
    return BABI_WORDS if set(row.labels) <= known else OTHER_WORDS


def section(results: Results) -> list[str]:
    made = results["provenance"]
    trained = [("", made["models"]), *((f" seed {one['seed']}", one["sha256"]) for one in made["other_seeds"])]
    weights = [f"{name}{seed} `{digest}`" for seed, digests in trained for name, digest in digests.items()]
    return [
        *cell_table(results["grids"][0]),
        "",
        *seeds_table(results["grids"], seed_names(results)),
        f"Seed of the prompts {made['seed']}, on {made['device']}, torch {made['versions']['torch']}. sha256 of the "
        f"weights: {', '.join(weights)}.",
        "",
    ]


def cell_table(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for cell in cells:
        assert cell.difference is not None
        rows.append(
            [
                *(cell.task, length_name(cell.length), cell.n, f"{cell.chance:.3f}", f"{cell.chance_mentioned:.3f}"),
                *(f"{m.accuracy:.3f} [{m.low:.3f}, {m.high:.3f}]" for m in cell.models),
                " / ".join(f"{m.generated:.3f}" for m in cell.models),
                *(points(cell.difference), verdict(cell.difference) or "-"),
            ]
        )
    heads = ["task", "length", "n", "chance", "mentioned", FIRST, SECOND, "generated", "difference", "better"]
    return table(heads, rows)


def seeds_table(grids: Sequence[Sequence[Cell]], names: Sequence[str]) -> list[str]:
    """Accuracies of every training seed in every cell; nothing for one seed."""
    if len(grids) < 2:
        return []
    rows = []
    for cells in zip(*grids, strict=True):
        first, second = ([cell.models[k].accuracy for cell in cells] for k in (0, 1))
        spread = Spread.of([b - a for a, b in zip(first, second, strict=True)])
        shares = [" / ".join(f"{one:.3f}" for one in part) for part in (first, second)]
        start = [cells[0].task, length_name(cells[0].length), cells[0].n]
        rows.append([*start, *shares, spread_text(spread), spread.winner or "-"])
    return [
        f"All training seeds in this order: {', '.join(names)}; seed 0 is the bundled pair. The difference is the mean "
        "of theirs, with its 95 % t interval over seeds:",
        "",
        *table(["task", "length", "n", FIRST, SECOND, "difference", "ahead with every seed"], rows),
        "",
    ]


def limits(by_recipe: Mapping[str, Results]) -> dict[str, list[str]]:
    """What the numbers do not say, as far as it depends on them."""
    grids_of = {name: results["grids"] for name, results in by_recipe.items()}
    tokens = {one["tokens"] for results in by_recipe.values() for one in results["provenance"]["other_seeds"]}
    is_same_training = tokens <= {training("results.json")["tokens"]}
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
    return {"limits": [f"- {line}" for line in lines]}


def training(file: str) -> dict[str, Any]:
    """What training the bundled plain model left: its results or its recipe."""
    path = HERE / "training" / FIRST / file
    return read_json_object(path) if path.suffix == ".json" else read_toml(path)


def listed_lengths(lengths: Sequence[int]) -> str:
    return " and ".join(filter(None, (", ".join(map(length_name, lengths[:-1])), length_name(lengths[-1]))))


def counted(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def points(difference: PairedDifference) -> str:
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def spread_text(spread: Spread) -> str:
    return f"{spread.mean:+.3f} [{spread.low:+.3f}, {spread.high:+.3f}]"


def verdict(difference: PairedDifference | None) -> str:
    """The better model's name, or nothing."""
    if difference is None or not difference.excludes_zero:
        return ""
    return SECOND if difference.value > 0 else FIRST


PAGE = Page(
    folder=HERE,
    summarise=summarise,
    figures=figures,
    finding=finding,
    section=section,
    blocks=limits,
    read=read,
    digits=17,
)


if __name__ == "__main__":
    PAGE.write()
