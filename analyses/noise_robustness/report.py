"""What the records of the noise analysis say, in results.json, figures and README.md: both models at every level of
noise, what they lose, and which of them loses less.

    loss(model, dose) = measure(model, dose) - measure(model, clean)              by prompt
    less_loss         = loss(diff-mamba2) - loss(mamba2)                          above zero: the former bears it better

    python analyses/noise_robustness/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from diffmamba_interp.analysis.page import RECORDS, Page, Results, made_with, of_all_tasks, points, table
from diffmamba_interp.analysis.results import estimate_from
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing

MODELS = ("mamba2", "diff-mamba2")
NOISES = {
    "gaussian": ("Gaussian noise in the residual stream", "dB of the stream over the noise, at every block"),
    "tokens": ("random tokens among the filler", "share of the filler's tokens that is random"),
}
NAMES = {"right": "accuracy", "snr_db": "SNR"}

Cell = dict[str, Any]


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Cells of every task and length."""
    readings = Readings.read(folder / RECORDS)
    return {"cells": [cell(readings, task, length) for task, length in readings.cells]}


def cell(readings: Readings, task: str, length: int) -> Cell:
    """One task, or all together, at one length."""
    doses = {
        kind: sorted({key.dose for key in readings.keys(length) if key.kind == kind}, reverse=kind == "gaussian")
        for kind in NOISES
    }
    return {
        "task": task,
        "length": length,
        "n": len(readings.stories(Key(MODELS[0], CLEAN), task, length)),
        CLEAN: level(readings, CLEAN, 0.0, task, length),
        **{kind: [level(readings, kind, dose, task, length) for dose in of_kind] for kind, of_kind in doses.items()},
    }


def level(readings: Readings, kind: str, dose: float, task: str, length: int) -> dict[str, Any]:
    """Both models at one level of noise."""
    measures = (*MEASURES, *readings.lens_measures)
    values = [readings.of(Key(model, kind, dose=dose), task, length, measures) for model in MODELS]
    difference, p = changes(*values)
    of_level = {
        "dose": dose,
        **{model: by_name(measures, estimates(one)) for model, one in zip(MODELS, values, strict=True)},
        "difference": by_name(measures, difference),
        "difference_p": by_name(measures, p),
    }
    if kind == CLEAN:
        return of_level
    clean = [readings.of(Key(model, CLEAN), task, length, measures) for model in MODELS]
    losses = [changes(before, after)[0] for before, after in zip(clean, values, strict=True)]
    less_loss, p = changes(values[0] - clean[0], values[1] - clean[1])
    return {
        **of_level,
        "loss": {model: by_name(measures, one) for model, one in zip(MODELS, losses, strict=True)},
        "less_loss": by_name(measures, less_loss),
        "less_loss_p": by_name(measures, p),
    }


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """Every measure under each kind of noise."""
    drawings = {}
    for kind, (noise, axis) in NOISES.items():
        cells = [cell for cell in of_all_tasks(results) if cell[kind]]
        for measure, name in MEASURES.items() if cells else ():
            panels = [dose_panel(cell, kind, measure) for cell in cells]
            drawings[f"{kind}_{measure}"] = curves_drawing(panels, title=f"{title}: {noise}", x_axis=axis, y_axis=name)
    return drawings


def dose_panel(cell: Cell, kind: str, measure: str) -> Curves:
    levels = [cell[CLEAN], *cell[kind]]
    return Curves(
        title=f"{length_name(cell['length'])}, n = {cell['n']}",
        ticks=["none", *(f"{level['dose']:g}" for level in cell[kind])],
        points={model: points(level[model][measure] for level in levels) for model in MODELS},
    )


def finding(results: Results, title: str) -> list[str]:
    cells = of_all_tasks(results)
    lines = [f"{title}, all tasks together: {verdict(cells)}", ""]
    lines += [
        f"- {count_line(cell, kind, noise)}" for kind, (noise, _) in NOISES.items() for cell in cells if cell[kind]
    ]
    for kind, (noise, axis) in NOISES.items():
        rows = [row for cell in cells if cell[kind] for row in loss_rows(cell, kind)]
        if rows:
            heads = [f"{measure}, {model}" for measure in ("accuracy", "SNR (dB)") for model in MODELS]
            less = ["Diff-Mamba-2's loss less Mamba-2's: accuracy", "p", "SNR, dB", "p"]
            lines += ["", f"{noise[0].upper()}{noise[1:]} ({axis}):", ""]
            lines += table(["length", "n", "noise", *heads, *less], rows)
    return [*lines, ""]


def loss_rows(cell: Cell, kind: str) -> list[list[Any]]:
    rows = []
    for level in [cell[CLEAN], *cell[kind]]:
        values = [text_of(level[model], measure) for measure in NAMES for model in MODELS]
        dose, losses = "none", ["", "", "", ""]
        if "loss" in level:
            less, p = level["less_loss"], level["less_loss_p"]
            dose = f"{level['dose']:g}"
            losses = [part for name in NAMES for part in (text_of(less, name, signed=True), f"{p[name]:.2g}")]
        rows.append([length_name(cell["length"]), cell["n"], dose, *values, *losses])
    return rows


def verdict(cells: Sequence[Cell]) -> str:
    """In words, which model bears noise better, by what it loses from its own clean answers."""
    parts = []
    for kind, (noise, _) in NOISES.items():
        for measure, name in NAMES.items():
            signs = [sign_of(level, measure, cell["n"]) for cell in cells for level in cell[kind]]
            if signs:
                parts.append(f"under {noise}, {winner(signs, name)}")
    return "; ".join(parts) + "."


def winner(signs: Sequence[int], name: str) -> str:
    if {1, -1} <= set(signs):
        return f"it is **mixed**, by level or length, which model loses less {name}"
    if set(signs) == {0}:
        return f"it is **undecided** at every level which model loses less {name}"
    model = "diff-mamba2" if 1 in signs else "mamba2"
    n_told = len(signs) - signs.count(0)
    rest = "" if n_told == len(signs) else ", undecided at the others"
    seldom = "" if 2 * n_told >= len(signs) else "where they can be told apart, "
    return f"{seldom}**`{model}` loses less** {name} (at {n_told} of {len(signs)} levels{rest})"


def count_line(cell: Cell, kind: str, noise: str) -> str:
    """At how many levels each model loses less, and is better."""
    levels, n = cell[kind], cell["n"]
    parts = []
    for measure, name in NAMES.items():
        loses = [sign_of(level, measure, n) for level in levels]
        better = [estimate_from(level["difference"][measure]).sign(n) for level in [cell[CLEAN], *levels]]
        parts.append(
            f"{name}: `diff-mamba2` loses less at {loses.count(1)}, `mamba2` at {loses.count(-1)} of {len(levels)} "
            "levels; "
            f"`diff-mamba2` stands higher at {better.count(1)}, `mamba2` at {better.count(-1)} of {len(better)}, none "
            f"({text_of(cell[CLEAN]['difference'], measure, signed=True)}) included"
        )
    return f"{noise[0].upper()}{noise[1:]}, {length_name(cell['length'])}, n = {n}. {'. '.join(parts)}."


def section(results: Results) -> list[str]:
    cells = of_all_tasks(results)
    lens_rows = [
        ([length_name(cell["length"]), noise, model], level[model])
        for cell in cells
        for noise, level in levels_of(cell)
        for model in MODELS
    ]
    names = [name for name in cells[0][CLEAN][MODELS[0]] if name.startswith("snr_db_")]
    return [
        *task_table(results),
        *lens_table(names, ["length", "noise", "model"], lens_rows),
        made_with(results),
        "",
    ]


def task_table(results: Results) -> list[str]:
    rows = [
        [
            *(cell["task"], length_name(cell["length"]), cell["n"], noise),
            *(text_of(level[model], "right") for model in MODELS),
            *(text_of(level["loss"][model], "right", signed=True) for model in MODELS),
            text_of(level["less_loss"], "right", signed=True),
        ]
        for cell in results["cells"]
        for noise, level in levels_of(cell)
        if noise != CLEAN
    ]
    heads = ["task", "length", "n", "noise", *MODELS, *(f"loss, {model}" for model in MODELS), "loss less"]
    return ["Task by task, accuracy and what each model loses of it:", "", *table(heads, rows), ""]


def levels_of(cell: Cell) -> list[tuple[str, dict[str, Any]]]:
    """Every level with its name, that without noise first."""
    return [(CLEAN, cell[CLEAN]), *((f"{kind} {one['dose']:g}", one) for kind in NOISES for one in cell[kind])]


def sign_of(level: dict[str, Any], measure: str, n: int) -> int:
    """1 if the differential model loses less."""
    return estimate_from(level["less_loss"][measure]).sign(n)


PAGE = Page(folder=Path(__file__).parent, summarise=summarise, figures=figures, finding=finding, section=section)


if __name__ == "__main__":
    PAGE.write()
