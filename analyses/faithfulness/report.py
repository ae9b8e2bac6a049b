"""What the records of the faithfulness analysis say, in results.json, figures and README.md.

    area         mean height of a curve over the share of tokens taken, in [0, 1]
    gap          area under insertion less area under deletion
    over random  the gap less that of the random order, prompt by prompt

Prompts count in which the answer has more than half of the labels' probability. Intervals are bootstraps over prompts.

    python analyses/faithfulness/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.page import ALL, RECORDS, Page, Results, made_with, table, text
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.figures.faithfulness import areas_drawing, ranking_name, ranking_styles
from diffmamba_interp.implicit_attention import SOURCE_SCORES
from diffmamba_interp.interventions.faithfulness import RANDOM, RECENCY, Areas, FaithfulnessRecord
from diffmamba_interp.statistics import Estimate, bootstrap

MODELS = ("mamba2", "diff-mamba2")
RANKINGS = (*SOURCE_SCORES, RANDOM, RECENCY)
MEASURES = Areas._fields
ENOUGH = 0.5
"""Share of the labels' probability above which an answer counts as given."""


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Areas and mean curves of every model, task and length; all tasks of a length first."""
    records = read_records(folder / RECORDS)
    fractions = tuple(results["provenance"]["recipe"]["fractions"])
    cells = []
    for length in sorted(set(records["length"])):
        tasks = sorted(set(records["task"][records["length"] == length]))
        for task in (ALL, *tasks):
            for model in MODELS:
                rows = (records["length"] == length) & (records["model"] == model)
                rows &= np.isin(records["task"], tasks if task == ALL else [task])
                cell = of_cell({name: column[rows] for name, column in records.items()}, fractions)
                cells.append({"model": model, "task": task, "length": int(length), **cell})
    return {"cells": cells}


def of_cell(records: Records, fractions: Sequence[float]) -> dict[str, Any]:
    """Areas by ranking, and the curves' means. n: prompts whose answer is given. n_asked: all."""
    n_asked = int((records["where"] == RANDOM).sum())
    of_ranking = [in_order(records, ranking, len(fractions)) for ranking in RANKINGS]
    deletion, insertion = (np.stack([curves[kind] for curves in of_ranking], axis=1) for kind in range(2))
    given = deletion[:, 0, 0] > ENOUGH
    if not given.any():
        return {"n": 0, "n_asked": n_asked}
    record = FaithfulnessRecord(
        reading="label_probability",
        unit="probability",
        rankings=RANKINGS,
        fractions=tuple(fractions),
        level="write",
        n_sources=(0,) * int(given.sum()),
        deletion=deletion[given],
        insertion=insertion[given],
    )
    areas = record.areas(n_resamples=N_RESAMPLES)
    return {
        "n": int(given.sum()),
        "n_asked": n_asked,
        "areas": {ranking: areas[ranking]._asdict() for ranking in RANKINGS},
        "contribution_less_hidden": means(record.gap[:, [RANKINGS.index("contribution")]] - record.gap[:, [0]])[0],
        "curves": {
            kind: {ranking: means(curves[:, row]) for row, ranking in enumerate(RANKINGS)}
            for kind, curves in (("deletion", record.deletion), ("insertion", record.insertion))
        },
    }


def in_order(records: Records, ranking: str, n_fractions: int) -> tuple[np.ndarray, np.ndarray]:
    """Deletion and insertion of one ranking, [prompt, fraction] each, prompts in an order that all rankings share."""
    rows = np.flatnonzero(records["where"] == ranking)
    rows = rows[np.lexsort((records["story"][rows], records["task"][rows]))]
    deletion, insertion = (
        np.stack([records[f"{kind}_{at}"][rows] for at in range(n_fractions)], axis=1)
        for kind in ("deletion", "insertion")
    )
    return deletion, insertion


def means(values: np.ndarray) -> list[Estimate]:
    return bootstrap(values, n_resamples=N_RESAMPLES).estimates


# ------------------------------------------------------------------ figures


def whole_cells(results: Results) -> list[dict[str, Any]]:
    return [cell for cell in results["cells"] if cell["task"] == ALL and cell["n"]]


def of_shortest(results: Results) -> dict[str, dict[str, Any]]:
    """The cells of all tasks at the shortest length, by model."""
    shortest = min(cell["length"] for cell in results["cells"])
    return {cell["model"]: cell for cell in whole_cells(results) if cell["length"] == shortest}


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """Areas over random of both models; and both kinds of curves of each."""
    cells = of_shortest(results)
    areas = {
        model: {
            ranking: Areas(*(estimate_from(values[name]) for name in MEASURES))
            for ranking, values in cell["areas"].items()
        }
        for model, cell in cells.items()
    }
    n = ", ".join(f"{cell['n']} prompts ({model})" for model, cell in cells.items())
    ticks = [f"{share:g}" for share in results["provenance"]["recipe"]["fractions"]]
    panels = [
        Curves(
            title=f"{model}: {'taken out' if kind == 'deletion' else 'put back'}",
            ticks=ticks,
            points={
                ranking_name(ranking): [tuple(one) for one in values]  # type: ignore[misc]
                for ranking, values in cell["curves"][kind].items()
            },
        )
        for model, cell in cells.items()
        for kind in ("deletion", "insertion")
    ]
    styles = {ranking_name(ranking): style for ranking, style in ranking_styles(RANKINGS).items()}
    return {
        "areas": areas_drawing(areas, unit="label probability", title=f"{title}: which ranking holds", subtitle=n),
        "curves": replace(
            curves_drawing(
                panels,
                title=f"{title}: the answer as the highest tokens are taken out, or put back",
                x_axis="share of the context's tokens",
                y_axis="share of the labels' probability",
                y_limits=(0.0, 1.0),
                styles=styles,
            ),
            columns=2,
        ),
    }


# ------------------------------------------------------------------ page


def finding(results: Results, title: str) -> list[str]:
    """The order of the rankings at the shortest length, and which of them beat a random order."""
    lines = [f"{title}, the facts alone, all tasks; these weights:", ""]
    for model, cell in of_shortest(results).items():
        over = {name: estimate_from(cell["areas"][name]["over_random"]) for name in RANKINGS if name != RANDOM}
        order = sorted(over, key=lambda name, over=over: -over[name].value)
        said = ", ".join(f"{ranking_name(name)} {over[name].text(2, signed=True)}" for name in order)
        beaten = [ranking_name(name) for name in order if over[name].sign(cell["n"]) <= 0]
        lines.append(
            f"- `{model}` (n = {cell['n']} of {cell['n_asked']}), gap over that of a random order: {said}. "
            + (f"Not better than random: {', '.join(beaten)}. " if beaten else "All are better than random. ")
            + f"Contribution less hidden attention: {text(cell['contribution_less_hidden'], 2, signed=True)}."
        )
    return [*lines, ""]


def section(results: Results) -> list[str]:
    lines = []
    for cell in whole_cells(results):
        name = "the facts alone" if cell["length"] == 0 else length_name(cell["length"])
        lines += [
            f"`{cell['model']}`, {name}, all tasks, n = {cell['n']} of {cell['n_asked']}:",
            "",
            *table(
                ["ranking", "deletion area", "insertion area", "gap", "gap over random"],
                [
                    [
                        ranking_name(ranking),
                        *(
                            text(cell["areas"][ranking][name], 2, signed=name in ("gap", "over_random"))
                            for name in MEASURES
                        ),
                    ]
                    for ranking in RANKINGS
                ],
            ),
            "",
        ]
    return [*lines, made_with(results), ""]


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
