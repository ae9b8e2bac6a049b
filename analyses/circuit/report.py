"""What the records of the circuit analysis say, in results.json, figures and README.md.

    share     = sum over pairs of the change by a patch / sum of the distance between the two prompts      1: all of it
    distance  = logit difference of the clean prompt less that of the corrupted one
    missed    = mean over pairs of sum |estimate - exact| / sum |exact|

Pairs count in which the model tells both answers rightly. Shares are ratios of sums, so that a pair of little distance
does not decide; intervals are bootstraps over pairs.

    python analyses/circuit/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.page import ALL, RECORDS, Page, Results, made_with, points, table, text
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.colours import STATES
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Axis, ColourScale, Drawing, HeatMap, Level, Line, Panel
from diffmamba_interp.statistics import Estimate, bootstrap, bootstrap_of, ratio_of

PLACES = ("needle label", "elsewhere in the facts", "outside the facts")
SHORT = ("label", "other facts", "outside")
"""What the figure calls the places."""

EVERYWHERE = "everywhere"
CARRIERS = {"mamba2": (0, 10), "diff-mamba2": (0, 3)}
"""The two blocks whose output carries most (see the page's first figure); the heads of the second are patched."""

MODELS = tuple(CARRIERS)
MIN_SHOWN = 0.05
"""Shares below it are not written into cells."""

N_HEADS_SHOWN = 4


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Every cell of model, task and length; all tasks of a length first."""
    records = read_records(folder / RECORDS)
    cells = []
    for length in sorted(set(records["length"])):
        of_length = chosen(records, records["length"] == length)
        for task in (ALL, *sorted(set(of_length["task"]))):
            of_task = of_length if task == ALL else chosen(of_length, of_length["task"] == task)
            for model in MODELS:
                cell = of_cell(chosen(of_task, of_task["model"] == model))
                cells.append({"model": model, "task": task, "length": int(length), **cell})
    return {"seconds": results["seconds"], "cells": cells}


def chosen(records: Records, rows: np.ndarray) -> Records:
    return {name: column[rows] for name, column in records.items()}


def of_cell(records: Records) -> dict[str, Any]:
    """What the pairs of one model say. n: those that are told rightly. n_asked: all pairs."""
    pairs = [f"{task} {story}" for task, story in zip(records["task"], records["story"], strict=True)]
    right = (records["clean"] > 0) & (records["corrupted"] < 0)
    kept = sorted({pair for pair, is_right in zip(pairs, right, strict=True) if is_right})
    counts = {"n": len(kept), "n_asked": len(set(pairs))}
    if not kept:
        return counts
    place = {pair: number for number, pair in enumerate(kept)}
    by_kind: dict[str, dict[str, np.ndarray]] = {}
    distance = np.zeros(len(kept))
    for row, pair in enumerate(pairs):
        if pair not in place:
            continue
        of_kind = by_kind.setdefault(str(records["kind"][row]), {})
        values = of_kind.setdefault(str(records["where"][row]), np.full((2, len(kept)), np.nan))
        values[:, place[pair]] = records["exact"][row], records["estimate"][row]
        distance[place[pair]] = records["clean"][row] - records["corrupted"][row]
    grid = by_kind["block" if "branch" not in by_kind else "branch"]
    return {
        **counts,
        "grid": {where: share(values[0], distance) for where, values in grid.items()},
        "whole": shares(by_kind, ("block whole", "branch whole"), distance),
        "lost": shares(by_kind, ("block lost", "branch lost"), distance),
        "heads": {where.split(" | ")[0]: share(v[0], distance) for where, v in by_kind["head"].items()},
        "heads_estimated": {where.split(" | ")[0]: share(v[1], distance) for where, v in by_kind["head"].items()},
        "contribution": {where: mean(values[0]) for where, values in by_kind["contribution"].items()},
        "head_contribution": {where: mean(values[0]) for where, values in by_kind["head contribution"].items()},
        **accuracy_of_estimate(grid),
    }


def shares(
    by_kind: Mapping[str, Mapping[str, np.ndarray]], kinds: Sequence[str], distance: np.ndarray
) -> dict[str, Any]:
    """Of what is patched at all positions, by what it is."""
    return {
        where.split(" | ")[0]: share(values[0], distance)
        for kind in kinds
        for where, values in by_kind.get(kind, {}).items()
    }


def share(change: np.ndarray, distance: np.ndarray) -> Estimate:
    return bootstrap_of(ratio_of(change, distance), len(change), n_resamples=N_RESAMPLES).estimates[0]


def mean(values: np.ndarray) -> Estimate:
    return bootstrap(values[:, None], n_resamples=N_RESAMPLES).estimates[0]


def accuracy_of_estimate(grid: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """Rank correlation over a pair's cells, and what the estimate misses; means over pairs."""
    from scipy.stats import rankdata

    exact, estimate = np.moveaxis(np.stack(list(grid.values())), 0, -1)
    ranks = [rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (exact, estimate)]
    correlation = (ranks[0] * ranks[1]).sum(axis=1) / np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    missed = np.abs(estimate - exact).sum(axis=1) / np.abs(exact).sum(axis=1)
    return {"rank_correlation": mean(correlation), "missed": mean(missed)}


# ------------------------------------------------------------------ figures


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """Where the label is carried, and by which heads; of the shortest length, all tasks."""
    cells = {cell["model"]: cell for cell in whole_cells(results) if cell["length"] == shortest(results)}
    return {"carriers": carriers_drawing(cells, title), "heads": heads_drawing(cells, title)}


def whole_cells(results: Results) -> list[dict[str, Any]]:
    return [cell for cell in results["cells"] if cell["task"] == ALL and cell["n"]]


def shortest(results: Results) -> int:
    return min(cell["length"] for cell in results["cells"])


def carriers_drawing(cells: Mapping[str, Mapping[str, Any]], title: str) -> Drawing:
    """Blocks by places: the share of the answer that comes back with what is written there."""
    panels = []
    for model, cell in cells.items():
        rows = [where.split(" | ")[0] for where in cell["grid"]]
        branches = sorted({row.partition(" ")[2] for row in rows})
        for branch in branches:
            blocks = sorted({int(row.split()[0]) for row in rows})
            names = [f"{block} {branch}".strip() for block in blocks]
            values = np.array(
                [[cell["grid"][f"{name} | {place}"][0] for place in PLACES] for name in names], dtype=float
            )
            marked = [[f"{value:.2f}" if abs(value) >= MIN_SHOWN else "" for value in row] for row in values]
            panels.append(
                Panel(
                    title=f"{model}{f', {branch}' if branch else ''}",
                    marks=[HeatMap(values=values, x=SHORT, y=[str(block) for block in blocks], text=marked)],
                )
            )
    return Drawing(
        title=f"{title}: where the needle's label is carried",
        subtitle="share of the answer that comes back with what the block writes there in the other prompt",
        x=Axis(title="", kind="category"),
        y=Axis(title="block", kind="category", backwards=True),
        scale=ColourScale(title="share", low=-1.0, high=1.0),
        panels=panels,
        panel_size=(300.0, 300.0),
    )


def heads_drawing(cells: Mapping[str, Mapping[str, Any]], title: str) -> Drawing:
    """The heads of the block that reads the label out: the share that comes back with each, and what is estimated."""
    panels = []
    for model, cell in cells.items():
        block = CARRIERS[model][-1]
        names = [name for name in cell["heads"] if int(name.split()[0].rstrip(",")) == block]
        for scan in dict.fromkeys(name.rpartition(", head ")[0] for name in names):
            heads = [name for name in names if name.rpartition(", head ")[0] == scan]
            heads.sort(key=lambda name: int(name.rpartition(" ")[2]))
            lines = [
                Line.of_points(
                    label,
                    [name.rpartition(" ")[2] for name in heads],
                    points(cell[key][name] for name in heads),
                    STATES[style],
                    interval="bars",
                    joined=False,
                )
                for label, key, style in (
                    ("patched", "heads", "after"),
                    ("estimated by one backward pass", "heads_estimated", "before"),
                )
            ]
            panels.append(Panel(title=f"{model}, block {scan}", marks=[*lines, Level(at=0.0, colour="#666666")]))
    return Drawing(
        title=f"{title}: heads of the block that reads the label out",
        x=Axis(title="head", kind="category"),
        y=Axis(title="share recovered"),
        panels=panels,
    )


# ------------------------------------------------------------------ page


def finding(results: Results, title: str) -> list[str]:
    """What the shortest prompts say, all tasks together, and whether it holds at the others."""
    lines = [f"{title}, the facts alone, all tasks; these weights:", ""]
    cells = {cell["model"]: cell for cell in whole_cells(results) if cell["length"] == shortest(results)}
    for model, cell in cells.items():
        writer, reader = (largest(cell["grid"], place) for place in (PLACES[0], PLACES[2]))
        head = max(heads_of_reader(cell, reader), key=lambda name: cell["heads"][name][0])
        lines.append(
            f"- `{model}` (n = {cell['n']} of {cell['n_asked']} pairs): what block {writer} writes at the label's own "
            f"token carries {text(cell['grid'][f'{writer} | {PLACES[0]}'], 2)} of the answer, what block {reader} "
            f"writes behind the facts {text(cell['grid'][f'{reader} | {PLACES[2]}'], 2)}; of its heads head "
            f"{head.rpartition(' ')[2]} most, {text(cell['heads'][head], 2)} by itself."
        )
    lines += subtrahend_lines(cells.get("diff-mamba2"))
    for model, cell in cells.items():
        seconds = results["seconds"][model]
        lines.append(
            f"- One backward pass against the sweep, `{model}`: rank correlation {text(cell['rank_correlation'], 2)}, "
            f"missed {text(cell['missed'], 2)} of the size, {seconds['backward_s']:.2g} s in place of "
            f"{seconds['sweep_s']:.2g} s a pair, on a core that other work shared."
        )
    return [*lines, ""]


def largest(grid: Mapping[str, Sequence[float]], place: str) -> str:
    """The row that carries most at a place."""
    at = {where.split(" | ")[0]: values[0] for where, values in grid.items() if where.endswith(f"| {place}")}
    return max(at, key=lambda row: at[row])


def heads_of_reader(cell: Mapping[str, Any], reader: str) -> list[str]:
    """The heads of the scan that reads the label out, or all that were patched where it was not among them."""
    return [name for name in cell["heads"] if name.startswith(f"{reader},")] or list(cell["heads"])


def subtrahend_lines(cell: Mapping[str, Any] | None) -> list[str]:
    """Whether the subtrahend mediates the label, block by block."""
    if cell is None:
        return []
    lines = []
    for block in CARRIERS["diff-mamba2"]:
        minuend, subtrahend = (f"{block} {branch}" for branch in ("minuend", "subtrahend"))
        gain = estimate_from(cell["whole"][subtrahend])
        small = gain.high < 0.5 * estimate_from(cell["whole"][minuend]).low
        lines.append(
            f"- Block {block}'s subtrahend carries {'little' if small else 'some'} of the label: with it alone "
            f"{text(cell['whole'][subtrahend], 2)} comes back and {text(cell['lost'][subtrahend], 2)} is lost, "
            f"with the minuend alone {text(cell['whole'][minuend], 2)} and {text(cell['lost'][minuend], 2)}, with both "
            f"{text(cell['whole'][str(block)], 2)} and {text(cell['lost'][str(block)], 2)}."
        )
    return lines


def section(results: Results) -> list[str]:
    lines: list[str] = []
    for length in sorted({cell["length"] for cell in whole_cells(results)}):
        name = "the facts alone" if length == 0 else length_name(length)
        for cell in (cell for cell in whole_cells(results) if cell["length"] == length):
            lines += [f"`{cell['model']}`, {name}, all tasks, n = {cell['n']}:", ""]
            lines += table(
                ["patched at all positions", "comes back", "is lost", "contributes straight to the answer, logits"],
                [
                    [row, text(cell["whole"][row], 2), text(cell["lost"][row], 2), text_of_contribution(cell, row)]
                    for row in cell["whole"]
                ],
            )
            best = sorted(cell["heads"], key=lambda head: -cell["heads"][head][0])[:N_HEADS_SHOWN]
            lines += ["", *table(
                ["head", "comes back", "estimated", "contributes, logits"],
                [
                    [
                        head,
                        text(cell["heads"][head], 2),
                        text(cell["heads_estimated"][head], 2),
                        text(cell["head_contribution"][head], 2, signed=True),
                    ]
                    for head in best
                ],
            ), ""]  # fmt: skip
    lines += ["By task:", "", *table(*by_task(results)), "", made_with(results), ""]
    return lines


def text_of_contribution(cell: Mapping[str, Any], row: str) -> str:
    return text(cell["contribution"][row], 2, signed=True) if row in cell["contribution"] else ""


def by_task(results: Results) -> tuple[list[str], list[list[str]]]:
    """Where the label is read out, and the head that does most of it, cell by cell."""
    rows = []
    for cell in results["cells"]:
        if cell["task"] == ALL or not cell["n"]:
            continue
        reader = largest(cell["grid"], PLACES[2])
        head = max(cell["heads"], key=lambda name, cell=cell: cell["heads"][name][0])
        rows.append(
            [
                f"`{cell['model']}`",
                cell["task"],
                length_name(cell["length"]),
                f"{cell['n']} of {cell['n_asked']}",
                f"{reader}: {text(cell['grid'][f'{reader} | {PLACES[2]}'], 2)}",
                f"{head}: {text(cell['heads'][head], 2)}",
                text(cell["rank_correlation"], 2),
            ]
        )
    heads = [
        "model",
        "task",
        "length",
        "pairs",
        "most outside the facts",
        "most of the patched heads",
        "rank correlation",
    ]
    return heads, rows


PAGE = Page(
    folder=Path(__file__).parent,
    summarise=summarise,
    figures=figures,
    finding=finding,
    section=section,
    titles={"paper": "Held-out bAbI stories", "builtin": "Generated stories"},
)


if __name__ == "__main__":
    PAGE.write()
