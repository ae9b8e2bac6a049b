"""What the records of the cancellation analysis say, in results.json, figures and README.md: removed and cancelled
shares on needle and noise, pooled over prompts, with intervals.

    removed   = 1 - sum |K1 - lambda K2| / sum |K1|                        the minuend is taken for the reader
    cancelled = 1 - sum |K1 - lambda K2| / sum (|K1| + |lambda K2|)        no side is taken; 0 if nothing cancels
    chance    = sum min(|K1|, |lambda K2|) / sum (|K1| + |lambda K2|)      cancelled if signs were independent
    part      = sum |lambda K2| / sum (|K1| + |lambda K2|)                 what the subtrahend reads

Sizes are summed over prompts before a ratio is taken, so that a prompt with next to nothing to remove does not decide.

    python analyses/cancellation/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.page import ALL, RECORDS, Page, Results, made_with, of_all_tasks, points, table, text
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.colours import SPANS
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.allocation import head_map_drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.implicit_attention.allocation import DIRECTIONS, HEAD_PICTURES, PICTURES
from diffmamba_interp.resampling import Counts
from diffmamba_interp.statistics import Estimate, bootstrap_of, mean_of, weighted_sum

NOISE = ("distractors", "filler")
SOURCES = ("needle", "noise")
MEASURES = (
    *(f"{measure}_{source}" for source in SOURCES for measure in ("removed", "cancelled", "chance", "part")),
    "removed_noise_less_needle",
    "cancelled_less_chance_needle",
    "cancelled_less_chance_noise",
    "cancelled_noise_less_needle",
)
# A head counts if it writes at least this part of what the mean head writes from the noise.
ENOUGH = 0.25
CLAIMS = {
    "removed_noise": "The subtraction shrinks noise (removed share of filler and distractors above 0)",
    "removed_noise_less_needle": "It removes more of the noise than of the needle (removed shares, difference)",
    "cancelled_less_chance_noise": "The branches cancel on noise more than independent signs would",
    "cancelled_less_chance_needle": "They cancel on the needle more than independent signs would",
    "cancelled_noise_less_needle": "They cancel more on noise than on the needle (cancelled shares, difference)",
}
VERDICTS = {1: "yes", -1: "no, the opposite", 0: "undecided"}
WRITTEN_TO = {"answer": "the answer's logit", "contrast": "the answer's logit less the other labels' mean"}
CURVES = (
    ("removed share of minuend", "removed", (("noise", "removed_noise"), ("needle", "removed_needle"))),
    (
        "cancelled share of both branches",
        "cancelled",
        (
            ("noise", "cancelled_noise"),
            ("needle", "cancelled_needle"),
            ("noise, by chance", "chance_noise"),
            ("needle, by chance", "chance_needle"),
        ),
    ),
    ("subtrahend's part of what both write", "part", (("noise", "part_noise"), ("needle", "part_needle"))),
)
BY_CHANCE = {f"{name}, by chance": replace(SPANS[name], dash="dot", symbol="x") for name in ("noise", "needle")}

Cell = dict[str, Any]


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Cells from the records; lambda, blocks and heads as they were measured."""
    cells = cells_of(read_records(folder / RECORDS))
    return {"lambda": results["lambda"], "cells": cells, "blocks": results["blocks"], "heads": results["heads"]}


def cells_of(records: Records) -> list[Cell]:
    """One per direction, length and task, and one over all tasks: n, measures, the branches' mean cosine."""
    tasks = [ALL, *sorted(set(records["task"].tolist()))]
    cells = []
    for direction in DIRECTIONS:
        for length in sorted(set(records["length"].tolist())):
            for task in tasks:
                chosen = (records["direction"] == direction) & (records["length"] == length)
                chosen &= (records["task"] == task) | (task == ALL)
                # prompt picture source
                sizes = np.stack(
                    [
                        np.stack([records[f"{picture}_{source}"][chosen] for source in SOURCES], axis=-1)
                        for picture in (*PICTURES, "smaller")
                    ],
                    axis=1,
                )
                cell = {"direction": direction, "task": task, "length": int(length), "n": len(sizes)}
                cells.append({**cell, **measures(sizes), "cosine": float(records["cosine"][chosen].mean())})
    return cells


def measures(sizes: np.ndarray) -> dict[str, Any]:
    """Every measure with its interval, from [prompt, picture, source] or [prompt, picture, source, more]."""
    intervals = bootstrap_of(
        lambda counts: ratios(weighted_sum(counts, sizes)), len(sizes), n_resamples=N_RESAMPLES
    ).stacked
    return {name: nested(intervals[:, number]) for number, name in enumerate(MEASURES)}


def ratios(sums: np.ndarray) -> np.ndarray:
    """[resample, measure, ...] from sums [resample, picture, source, ...]."""
    net, minuend, scaled, smaller = np.moveaxis(sums, 1, 0)  # each [resample, source, ...]
    with np.errstate(invalid="ignore", divide="ignore"):
        either = minuend + scaled
        removed, cancelled, chance, part = 1 - net / minuend, 1 - net / either, smaller / either, scaled / either
    needle, noise = range(2)
    return np.stack(
        [
            *(value[:, source] for source in (needle, noise) for value in (removed, cancelled, chance, part)),
            removed[:, noise] - removed[:, needle],
            cancelled[:, needle] - chance[:, needle],
            cancelled[:, noise] - chance[:, noise],
            cancelled[:, noise] - cancelled[:, needle],
        ],
        axis=1,
    )


def by_block(length: int, arrays: Records) -> dict[str, Any]:
    """Each block's measures over all tasks, SNR gained by the subtraction (dB), mean cosine of the branches."""
    n = len(arrays["sizes"])
    return {
        "length": length,
        "n": n,
        **measures(arrays["sizes"]),
        "snr_db_gained": nested(bootstrap_of(mean_of(arrays["snr_db_gained"]), n, n_resamples=N_RESAMPLES).stacked),
        "cosine": arrays["cosine"].mean(axis=0).tolist(),
    }


def by_head(length: int, arrays: Records) -> dict[str, Any]:
    """Per block and head: noise and needle removed by the namesake, and its lead over other partners on the noise."""
    heads = arrays["heads"]
    net, minuend, _, strangers = (heads[..., number, :] for number in range(len(HEAD_PICTURES)))

    def statistic(counts: Counts) -> np.ndarray:
        below = weighted_sum(counts, minuend)
        with np.errstate(invalid="ignore", divide="ignore"):
            own, other = (1 - weighted_sum(counts, above) / below for above in (net, strangers))
        return np.stack([own[..., 1], own[..., 0], own[..., 1] - other[..., 1]], axis=1)

    intervals = bootstrap_of(statistic, len(heads), n_resamples=N_RESAMPLES).stacked
    weight = minuend[..., 1].sum(axis=0)
    names = ("removed_noise", "removed_needle", "namesake_less_strangers")
    return {
        "length": length,
        "n": len(heads),
        "counts": (weight >= ENOUGH * weight.mean()).tolist(),
        **{name: nested(intervals[:, number]) for number, name in enumerate(names)},
    }


def nested(stacked: np.ndarray) -> Any:
    """[3, ...] as nested lists of estimates."""
    if stacked.ndim == 1:
        return Estimate(*map(float, stacked))
    return [nested(stacked[:, index]) for index in range(stacked.shape[1])]


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """Shares by block, and what each head of the longest prompts removes."""
    drawings = {}
    for axis, name, curves in CURVES:
        panels = [
            Curves(
                title=f"{length_name(line['length'])}, all tasks",
                ticks=[str(block) for block in range(len(line["cosine"]))],
                points={source: points(line[measure]) for source, measure in curves},
            )
            for line in results["blocks"]
        ]
        # A block that writes next to nothing has removed shares without bound; they would flatten all others.
        limits = (-3.0, 1.0) if name == "removed" else None
        drawings[name] = curves_drawing(
            panels, title=title, x_axis="block", y_axis=axis, y_limits=limits, styles=BY_CHANCE
        )
    longest = results["heads"][-1]
    values = [
        [estimate[0] if counts else float("nan") for estimate, counts in zip(row, kept, strict=True)]
        for row, kept in zip(longest["removed_noise"], longest["counts"], strict=True)
    ]
    note = "share of the minuend head's noise that its namesake removes; heads left empty write next to nothing"
    heading = f"{title}, {length_name(longest['length'])}: by head"
    return {**drawings, "heads": head_map_drawing(values, title=heading, note=note, what="removed")}


def finding(results: Results, title: str) -> list[str]:
    cells = of_all_tasks(results)
    lines = [f"{title}: {verdict([cell for cell in cells if cell['direction'] == 'answer'])}", ""]
    lines += [head_line(line) for line in results["heads"]]
    for direction, words in WRITTEN_TO.items():
        along = [cell for cell in cells if cell["direction"] == direction]
        rows = [[claim, *(judged(cell, measure) for cell in along)] for measure, claim in CLAIMS.items()]
        for measure, source in (("part_needle", "the needle"), ("part_noise", "noise")):
            what = f"The subtrahend's part of what both branches write from {source}"
            rows.append([what, *(text(cell[measure]) for cell in along)])
        heads = [f"{length_name(cell['length'])} (n {cell['n']})" for cell in along]
        lines += ["", f"Contributions to {words}, all blocks and tasks together:", "", *table(["claim", *heads], rows)]
    return [*lines, ""]


def verdict(cells: Sequence[Cell]) -> str:
    """In words, whether the subtraction is noise cancelling: it shrinks noise, and noise more than the needle."""
    shrinks, selective, cancels = (
        {estimate_from(cell[measure]).sign(cell["n"]) for cell in cells}
        for measure in ("removed_noise", "removed_noise_less_needle", "cancelled_less_chance_noise")
    )
    if shrinks == selective == {1}:
        return "**the subtraction cancels noise**, at every length, and spares the needle in comparison."
    if shrinks == {-1} and 1 not in cancels:
        return (
            "**the subtraction does not cancel noise**: at every length the difference writes more of it than the "
            "minuend alone, for the branches read different things or add up, no less than parts with independent "
            "signs would."
        )
    if 1 not in shrinks and 1 not in cancels:
        return (
            "**the subtraction is not seen to cancel noise** at any length: token by token, the branches read "
            "different things or add up, no less than parts with independent signs would."
        )
    if shrinks == {1}:
        return (
            "**the subtraction shrinks noise**, at every length, but not shown to be more than it shrinks the needle."
        )
    return "**mixed**: whether the subtraction shrinks noise depends on the measure and the length; see the table."


def judged(cell: Cell, measure: str) -> str:
    estimate = estimate_from(cell[measure])
    return f"{VERDICTS[estimate.sign(cell['n'])]}: {estimate.text(signed=True)}"


def head_line(line: dict[str, Any]) -> str:
    kept = [
        (estimate_from(own), estimate_from(namesake))
        for rows in zip(line["removed_noise"], line["namesake_less_strangers"], line["counts"], strict=True)
        for own, namesake, counts in zip(*rows, strict=True)
        if counts
    ]
    removing, better, worse = (
        sum(part[place].sign(line["n"]) == sign for part in kept) for place, sign in ((0, 1), (1, 1), (1, -1))
    )
    return (
        f"- {length_name(line['length'])}, n = {line['n']}: of {len(kept)} heads that write enough noise to count, "
        f"{removing} remove some of it (interval above 0; about {0.025 * len(kept):.0f} would by luck). With their "
        f"namesake {better} do better than with other partners, {worse} worse."
    )


def section(results: Results) -> list[str]:
    longest = results["blocks"][-1]
    measures = ("removed_noise", "removed_needle", "cancelled_noise", "chance_noise", "part_needle", "part_noise")
    rows = [
        [
            *(block, f"{lambda_:.3f}"),
            *(text(longest[measure][block], 2, signed=True) for measure in measures),
            *(text(longest["snr_db_gained"][block], 1, signed=True), f"{longest['cosine'][block]:+.2f}"),
        ]
        for block, lambda_ in enumerate(results["lambda"])
    ]
    removed = ["removed of noise", "of needle", "cancelled of noise", "by chance"]
    heads = ["block", "λ", *removed, "subtrahend's part of needle", "of noise", "SNR gained, dB", "cosine"]
    return [
        f"By block at {length_name(longest['length'])}, all tasks, n = {longest['n']}, to the answer's logit:",
        "",
        *table(heads, rows),
        "",
        made_with(results),
        "",
    ]


PAGE = Page(folder=Path(__file__).parent, summarise=summarise, figures=figures, finding=finding, section=section)


if __name__ == "__main__":
    PAGE.write()
