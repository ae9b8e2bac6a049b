"""What the records of the lambda analysis say, in results.json, figures and README.md: every measure under every
condition, and its change from the model as it is.

Changes are paired by prompt. `doubled_less_removed` sets lambda 2 against lambda 0, as far from the model on either
side: above zero, taking the subtrahend away does more harm than overdoing it.

    python analyses/lambda_causality/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.conditions import (
    CLEAN,
    MEASURES,
    Key,
    Readings,
    by_name,
    changes,
    estimates,
    lens_table,
    text_of,
)
from diffmamba_interp.analysis.page import ALL, RECORDS, Page, Results, made_with, of_all_tasks, points, table
from diffmamba_interp.analysis.results import estimate_from
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing

MODEL, PLAIN = "diff-mamba2", "mamba2"
REMOVED, DOUBLED = 0.0, 2.0
CLEAN_KEY = Key(MODEL, CLEAN)
WORDS = {1: "raised", -1: "lowered", 0: "undecided"}
NAMES = {"right": "accuracy", "snr_db": "SNR"}
ALONE = 100.0
"""From this factor on the minuend counts for nothing beside the subtrahend."""
FACTORS = {0.0: "0 (minuend alone)", 1000.0: "∞ (subtrahend alone)"}

Cell = dict[str, Any]


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """lambda of each block; cells of every task and length; what filler adds to the harm."""
    readings = Readings.read(folder / RECORDS)
    lengths = sorted({length for _, length in readings.cells})
    return {
        "lambda": results["lambda"],
        "cells": [cell(readings, task, length) for task, length in readings.cells],
        "with_filler": [with_filler(readings, length) for length in lengths if length],
    }


def cell(readings: Readings, task: str, length: int) -> Cell:
    """One task, or all together, at one length."""
    whole = (*MEASURES, *readings.lens_measures)
    clean, plain = (readings.of(key, task, length, whole) for key in (CLEAN_KEY, Key(PLAIN, CLEAN)))
    scaled = [key for key in readings.keys(length) if key.kind == "scale"]
    of_cell = {
        "task": task,
        "length": length,
        "n": len(clean),
        "clean": by_name(whole, estimates(clean)),
        "plain": by_name(whole, estimates(plain)),
        "less_plain": by_name(whole, changes(plain, clean)[0]),
        "all": [dose(readings, key, task, length, whole) for key in scaled if key.where == ALL],
        "blocks": [dose(readings, key, task, length, ("right", "snr_db")) for key in scaled if key.where != ALL],
    }
    if {REMOVED, DOUBLED} <= {key.dose for key in scaled if key.where == ALL}:
        removed, doubled = (readings.of(Key(MODEL, "scale", ALL, x), task, length, whole) for x in (REMOVED, DOUBLED))
        difference, p = changes(removed, doubled)
        of_cell |= {"doubled_less_removed": by_name(whole, difference), "doubled_less_removed_p": by_name(whole, p)}
    return of_cell


def with_filler(readings: Readings, length: int) -> dict[str, Any]:
    """Change at lambda 0 in filler less that without, by story, over those that were asked at both lengths."""
    harm = {}
    for at in (0, length):
        removed = Key(MODEL, "scale", ALL, REMOVED)
        change = readings.of(removed, ALL, at, tuple(MEASURES)) - readings.of(CLEAN_KEY, ALL, at, tuple(MEASURES))
        harm[at] = dict(zip(readings.stories(removed, ALL, at), change, strict=True))
    both = sorted(set(harm[0]) & set(harm[length]))
    difference, p = changes(*(np.stack([harm[at][story] for story in both]) for at in (0, length)))
    return {"length": length, "n": len(both), "change": by_name(MEASURES, difference), "p": by_name(MEASURES, p)}


def dose(readings: Readings, key: Key, task: str, length: int, measures: Sequence[str]) -> dict[str, Any]:
    """Values and changes under one condition."""
    clean, changed = (readings.of(one, task, length, measures) for one in (CLEAN_KEY, key))
    difference, p = changes(clean, changed)
    return {
        "where": key.where,
        "factor": key.dose,
        "value": by_name(measures, estimates(changed)),
        "change": by_name(measures, difference),
        "p": by_name(measures, p),
    }


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """Every λ scaled, by measure; one block's λ scaled, accuracy and SNR."""
    cells = of_all_tasks(results)
    drawings = {
        measure: curves_drawing(
            [dose_panel(cell, measure) for cell in cells],
            title=f"{title}: every λ scaled at once",
            x_axis="factor of every λ (1: as trained; ∞: the subtrahend alone)",
            y_axis=axis,
        )
        for measure, axis in MEASURES.items()
    }
    for measure, name in NAMES.items():
        drawings[f"{name.lower()}_by_block"] = curves_drawing(
            [block_panel(cell, measure) for cell in cells],
            title=f"{title}: one block's λ scaled",
            x_axis="block",
            y_axis=f"change of {MEASURES[measure]}",
        )
    return drawings


def dose_panel(cell: Cell, measure: str) -> Curves:
    """All tasks together: the scaled model, and the plain one, which has no λ, as a level."""
    doses = sorted([*cell["all"], {"factor": 1.0, "value": cell["clean"]}], key=lambda dose: dose["factor"])
    return Curves(
        title=f"{length_name(cell['length'])}, n = {cell['n']}",
        ticks=[short(dose["factor"]) for dose in doses],
        points={
            MODEL: points(dose["value"][measure] for dose in doses),
            PLAIN: points([cell["plain"][measure]] * len(doses)),
        },
    )


def block_panel(cell: Cell, measure: str) -> Curves:
    factors = sorted({dose["factor"] for dose in cell["blocks"]})
    by_factor = {factor: [dose for dose in cell["blocks"] if dose["factor"] == factor] for factor in factors}
    return Curves(
        title=f"{length_name(cell['length'])}, n = {cell['n']}",
        ticks=[dose["where"] for dose in by_factor[factors[0]]],
        points={
            f"λ x {short(factor)}": points(dose["change"][measure] for dose in doses)
            for factor, doses in by_factor.items()
        },
    )


def finding(results: Results, title: str) -> list[str]:
    cells = of_all_tasks(results)
    rows = []
    for cell in cells:
        start = [length_name(cell["length"]), cell["n"]]
        for dose in cell["all"]:
            values = [text_of(dose["value"], measure) for measure in NAMES]
            changed = [text_of(dose["change"], measure, signed=True) for measure in NAMES]
            p = "; ".join(f"{dose['p'][measure]:.2g}" for measure in NAMES)
            rows.append([*start, FACTORS.get(dose["factor"], short(dose["factor"])), *values, *changed, p])
        for name, values in (("1 (as trained)", cell["clean"]), ("Mamba-2, as it is", cell["plain"])):
            rows.append([*start, name, *(text_of(values, measure) for measure in NAMES), "", "", ""])
    heads = ["accuracy", "SNR, dB", "change of accuracy", "change of SNR, dB", "p: accuracy; SNR"]
    return [
        f"{title}, all tasks together: {verdict(cells)}",
        "",
        *(f"- {length_name(cell['length'])}, n = {cell['n']}: {block_line(cell)}" for cell in cells),
        *map(dose_line, cells),
        *map(filler_line, results["with_filler"]),
        "",
        *table(["length", "n", "factor of λ", *heads], rows),
        "",
    ]


def verdict(cells: Sequence[Cell]) -> str:
    """In words, whether taking the subtrahend away lowers SNR and accuracy, and more than overdoing it does."""
    signs = {measure: {sign_at_zero(cell, measure) for cell in cells} for measure in NAMES}
    said = "; ".join(f"{name} {by_length(cells, measure)}" for measure, name in NAMES.items())
    if signs["snr_db"] == signs["right"] == {-1}:
        return f"**taking the subtrahend away (λ -> 0) lowers both SNR and accuracy**, at every length. {mirror(cells)}"
    if -1 not in signs["snr_db"] | signs["right"]:
        return f"**taking the subtrahend away (λ -> 0) is not seen to do harm** at any length ({said}). {mirror(cells)}"
    return f"**taking the subtrahend away (λ -> 0) does harm in part**: {said}. {mirror(cells)}"


def by_length(cells: Sequence[Cell], measure: str) -> str:
    return ", ".join(f"{WORDS[sign_at_zero(cell, measure)]} at {length_name(cell['length'])}" for cell in cells)


def mirror(cells: Sequence[Cell]) -> str:
    """Whether 2 λ, as far from training on the other side, does less harm."""
    both = [cell for cell in cells if "doubled_less_removed" in cell]
    if not both:
        return ""
    words = {1: "less harm", -1: "more harm", 0: "neither more nor less harm that could be told"}
    parts = []
    for measure, name in NAMES.items():
        signs = [estimate_from(cell["doubled_less_removed"][measure]).sign(cell["n"]) for cell in both]
        said = [f"{words[sign]} at {length_name(cell['length'])}" for sign, cell in zip(signs, both, strict=True)]
        parts.append(f"to {name} {', '.join(said)}")
    return f"The control, twice λ, as against λ = 0: {'; '.join(parts)}."


def filler_line(filler: dict[str, Any]) -> str:
    """Whether the harm is greater where there is filler, and so more noise to restore."""
    words = {1: "less harm", -1: "more harm", 0: "no more or less harm that could be told"}
    parts = [
        f"{words[estimate_from(filler['change'][measure]).sign(filler['n'])]} to {name} "
        f"({text_of(filler['change'], measure, signed=True)}, p {filler['p'][measure]:.2g})"
        for measure, name in NAMES.items()
    ]
    return (
        f"- λ at 0, the same stories in filler ({length_name(filler['length'])}) as against alone, n = {filler['n']}: "
        f"{', '.join(parts)}."
    )


def dose_line(cell: Cell) -> str:
    """Whether the response to the dose is graded, and what the other branch does alone."""
    at = {dose["factor"]: dose for dose in cell["all"]}
    parts = []
    for measure, name in NAMES.items():
        some = [
            f"{factor:g}: {text_of(at[factor]['change'], measure, signed=True)}"
            for factor in (0.5, 0.25, 0.0)
            if factor in at
        ]
        parts.append(f"change of {name} at λ x {', '.join(some)}")
    line = f"- {length_name(cell['length'])}: {'; '.join(parts)}."
    alone = [dose for dose in cell["all"] if dose["factor"] >= ALONE]
    if alone:
        said = [f"{name} {text_of(alone[0]['value'], measure)}" for measure, name in NAMES.items()]
        left = [f"{name} {text_of(at[0.0]['value'], measure)}" for measure, name in NAMES.items()]
        line += f" The minuend alone has {' and '.join(left)}, the subtrahend alone {' and '.join(said)}."
    return line


def block_line(cell: Cell) -> str:
    """How many blocks alone matter, and which one most."""
    removed = [dose for dose in cell["blocks"] if dose["factor"] == 0]
    parts = []
    for measure, name in NAMES.items():
        signs = [estimate_from(dose["change"][measure]).sign(cell["n"]) for dose in removed]
        lowest = min(removed, key=lambda dose: dose["change"][measure][0])
        parts.append(
            f"{name} falls in {signs.count(-1)} and rises in {signs.count(1)} of {len(signs)} blocks (most in block "
            f"{lowest['where']}: {text_of(lowest['change'], measure, signed=True)})"
        )
    return f"with one block's λ at 0, {'; '.join(parts)}."


def section(results: Results) -> list[str]:
    cells = of_all_tasks(results)
    lens_rows = []
    for cell in cells:
        doses = [("1", cell["clean"]), *((short(dose["factor"]), dose["value"]) for dose in cell["all"])]
        for factor, values in [*sorted(doses, key=lambda row: row[0]), ("Mamba-2", cell["plain"])]:
            lens_rows.append(([length_name(cell["length"]), factor], values))
    names = [name for name in cells[0]["clean"] if name.startswith("snr_db_")]
    return [
        *task_table(results),
        *block_table(cells[-1], results["lambda"]),
        *lens_table(names, ["length", "factor of λ"], lens_rows),
        made_with(results),
        "",
    ]


def task_table(results: Results) -> list[str]:
    rows = []
    for cell in results["cells"]:
        change = {measure: text_of(at_zero(cell)["change"], measure, signed=True) for measure in MEASURES}
        row = [cell["task"], length_name(cell["length"]), cell["n"]]
        for measure in NAMES:
            row += [text_of(cell["clean"], measure), change[measure]]
        rows.append([*row, change["share"], change["log_prob"]])
    values = ["accuracy as trained", "change", "SNR as trained, dB", "change"]
    heads = ["task", "length", "n", *values, "label share, change", "log p(answer), change"]
    return ["Task by task, every λ at 0:", "", *table(heads, rows), ""]


def block_table(cell: Cell, lambdas: Sequence[float]) -> list[str]:
    factors = sorted({dose["factor"] for dose in cell["blocks"]})
    rows = []
    for block, lambda_ in enumerate(lambdas):
        change = {dose["factor"]: dose["change"] for dose in cell["blocks"] if dose["where"] == str(block)}
        parts = [text_of(change[factor], measure, signed=True) for factor in factors for measure in NAMES]
        rows.append([block, f"{lambda_:.3f}", *parts])
    heads = [head for factor in factors for head in (f"λ x {short(factor)}: accuracy", "SNR, dB")]
    title = f"Change with one block's λ scaled, {length_name(cell['length'])}, all tasks, n = {cell['n']}:"
    return [title, "", *table(["block", "λ", *heads], rows), ""]


def at_zero(cell: Cell) -> dict[str, Any]:
    return next(dose for dose in cell["all"] if dose["factor"] == 0)


def sign_at_zero(cell: Cell, measure: str) -> int:
    return estimate_from(at_zero(cell)["change"][measure]).sign(cell["n"])


def short(factor: float) -> str:
    """The factor; infinity where the minuend is drowned."""
    return "∞" if factor >= ALONE else f"{factor:g}"


PAGE = Page(folder=Path(__file__).parent, summarise=summarise, figures=figures, finding=finding, section=section)


if __name__ == "__main__":
    PAGE.write()
