"""What the records of the over-allocation analysis say, in results.json, figures and README.md: shares by task, length
and picture with intervals, and paired differences of pictures.

    python analyses/overallocation/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.page import (
    ALL,
    RECORDS,
    Page,
    Results,
    listed,
    made_with,
    of_all_tasks,
    points,
    table,
    text,
)
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.allocation import ShareBar, share_bars_drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.implicit_attention.allocation import CLASSES
from diffmamba_interp.statistics import DB_PER_NAT, MIN_SAMPLES, Estimate, bootstrap_of, mean_of, paired_test

PICTURES = ("plain", "difference", "minuend", "lambda_subtrahend")
"""plain: the plain model. The others are of the differential model: what it really writes, and its two branches."""

WRITTEN = ("plain", "difference")
"""What the two models really write."""

NOISE = ("distractors", "filler")
COMPARED = (("difference", "plain"), ("difference", "minuend"))
MEASURES = (*CLASSES, "noise", "snr_db", "contrast_needle", "contrast_noise")
TESTED = ("noise", "contrast_noise")
SHOWN = {
    "plain": "Mamba-2",
    "difference": "Diff-Mamba-2",
    "minuend": "minuend",
    "lambda_subtrahend": "λ · subtrahend",
}
DRAWN = {name: {"plain": "mamba2", "difference": "diff-mamba2"}.get(name, name) for name in PICTURES}

Cell = dict[str, Any]


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Cells from the records, one per length and task and one over all tasks; blocks as they were measured."""
    records = read_records(folder / RECORDS)
    tasks = [ALL, *sorted(set(records["task"].tolist()))]
    lengths = sorted(set(records["length"].tolist()))
    cells = [cell(records, task, int(length)) for length in lengths for task in tasks]
    return {"cells": cells, "blocks": results["blocks"]}


def cell(records: Records, task: str, length: int) -> Cell:
    """`shares`, `differences`, and their sign-flip `p_values`."""
    chosen = (records["length"] == length) & ((records["task"] == task) | (task == ALL))
    values = np.stack([of_picture(records, chosen & (records["picture"] == name)) for name in PICTURES], axis=1)
    n_snr = keep_snr_of_both(values)
    shares = dict(zip(PICTURES, by_measure(values), strict=True))
    differences, p_values = {}, {}
    for first, second in COMPARED:
        a, b = (values[:, PICTURES.index(name)] for name in (first, second))
        # Where a share is 0, a signal-to-noise ratio is infinite and its differences are unknown.
        with np.errstate(invalid="ignore"):
            (differences[f"{first} - {second}"],) = by_measure((a - b)[:, None])
        noise = [MEASURES.index(measure) for measure in TESTED]
        p = paired_test(b[:, noise], a[:, noise]).p_value
        p_values[f"{first} - {second}"] = dict(zip(TESTED, map(float, p), strict=True))
    about = {"task": task, "length": length, "n": len(values), "n_snr": n_snr}
    return {**about, "shares": shares, "differences": differences, "p_values": p_values}


def keep_snr_of_both(values: np.ndarray) -> int:
    """How many prompts [prompt, picture, measure] have a finite SNR in what both models write; NaN in the others.

    Shares are kept to three decimals, so that the needle's may be 0 in one model and not in the other: means over the
    prompts that each model has left would be of different prompts.
    """
    snr = values[:, [PICTURES.index(name) for name in WRITTEN], MEASURES.index("snr_db")]
    both = np.isfinite(snr).all(axis=1)
    values[~both, :, MEASURES.index("snr_db")] = np.nan
    return int(both.sum())


def by_measure(values: np.ndarray) -> list[dict[str, Estimate]]:
    """Means over prompts of [prompt, picture, measure], for each picture."""
    means = bootstrap_of(mean_of(values), len(values), n_resamples=N_RESAMPLES).stacked
    return [
        {measure: Estimate(*map(float, means[:, i, j])) for j, measure in enumerate(MEASURES)}
        for i in range(values.shape[1])
    ]


def of_picture(records: Records, chosen: np.ndarray) -> np.ndarray:
    """[prompt, measure], prompts in an order that every picture shares."""
    order = np.lexsort((records["story"][chosen], records["task"][chosen]))
    prompts = {name: column[chosen][order] for name, column in records.items()}
    prompts["other"] = 1 - sum(prompts[name] for name in CLASSES if name != "other")
    prompts["noise"] = prompts["distractors"] + prompts["filler"]
    # Mean |contribution| of a needle token over that of any other token, all blocks together.
    signal = prompts["needle"] / prompts["n_needle"]
    noise = (1 - prompts["needle"]) / (prompts["n_tokens"] - prompts["n_needle"])
    with np.errstate(divide="ignore"):
        prompts["snr_db"] = DB_PER_NAT * np.log(signal / noise)
    return np.stack([prompts[measure] for measure in MEASURES], axis=1)


def by_block(blocks: Records) -> list[dict[str, Any]]:
    """Noise share (%) and needle's signal-to-noise ratio (dB) of each block, by picture and length, over all tasks."""
    n_blocks = sum(name.startswith("noise_") for name in blocks)
    lines = []
    for length in sorted(set(blocks["length"].tolist())):
        for picture in PICTURES:
            chosen = (blocks["length"] == length) & (blocks["picture"] == picture)
            line: dict[str, Any] = {"picture": picture, "length": int(length), "n": int(chosen.sum())}
            for measure in ("noise", "snr_db"):
                values = np.stack([blocks[f"{measure}_{block}"][chosen] for block in range(n_blocks)], axis=1)
                line[measure] = bootstrap_of(mean_of(values), len(values), n_resamples=N_RESAMPLES).estimates
            lines.append(line)
    return lines


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """Shares of all classes; noise shares by length and task; noise share and SNR by block."""
    whole = of_all_tasks(results)
    bars = [
        ShareBar(
            group=length_name(cell["length"]),
            name=DRAWN[picture],
            shares={name: cell["shares"][picture][name][0] for name in CLASSES},
        )
        for cell in whole
        for picture in PICTURES
    ]
    by_task: dict[str, list[Cell]] = {}
    for cell in results["cells"]:
        by_task.setdefault(cell["task"], []).append(cell)
    drawings = {
        "shares": share_bars_drawing(bars, title=title, x_axis="context length, tokens; all tasks"),
        "noise": curves_drawing(
            [panel(cells, task) for task, cells in by_task.items()],
            title=title,
            x_axis="context length, tokens",
            y_axis="share on filler and distractors",
            y_limits=(0.0, 1.0),
        ),
    }
    for measure, axis in (("noise", "share on filler and distractors, %"), ("snr_db", "needle over the rest, dB")):
        panels = [block_panel(results["blocks"], cell["length"], measure) for cell in whole]
        drawings[f"{measure}_by_block"] = curves_drawing(panels, title=title, x_axis="block", y_axis=axis)
    return drawings


def panel(cells: Sequence[Cell], task: str) -> Curves:
    return Curves(
        title=f"{task} tasks" if task == ALL else task,
        ticks=[length_name(cell["length"]) for cell in cells],
        points={DRAWN[name]: points(cell["shares"][name]["noise"] for cell in cells) for name in PICTURES},
    )


def block_panel(blocks: Sequence[dict[str, Any]], length: int, measure: str) -> Curves:
    by_picture = {line["picture"]: points(line[measure]) for line in blocks if line["length"] == length}
    return Curves(
        title=f"{length_name(length)}, all tasks",
        ticks=[str(block) for block in range(len(by_picture["plain"]))],
        points={DRAWN[name]: by_picture[name] for name in PICTURES},
    )


def finding(results: Results, title: str) -> list[str]:
    whole = of_all_tasks(results)
    single = [cell for cell in results["cells"] if cell["task"] != ALL and cell["n"] >= MIN_SAMPLES]
    less, more = (sum(sign_of(cell, "difference - plain", "noise") == sign for cell in single) for sign in (-1, 1))
    return [
        f"{title}, all tasks together: {verdict(whole)}",
        "",
        f"- Noise share of what is written to the answer's logit: {comparison(whole, 'noise')}.",
        f"- The same for the answer's logit less the other labels': {comparison(whole, 'contrast_noise')}.",
        f"- Task by task (where there are {MIN_SAMPLES} prompts): lower in `diff-mamba2` in {less}, higher in {more}, "
        f"undecided in {len(single) - less - more} of {len(single)} cells.",
        "- Noise share of the difference against that of its own minuend: lower at "
        f"{lengths(whole, 'noise', -1, 'difference - minuend')}; higher at "
        f"{lengths(whole, 'noise', 1, 'difference - minuend')}.",
        f"- The needle stands out more (SNR) in `diff-mamba2` at {lengths(whole, 'snr_db', 1)}; in `mamba2` at "
        f"{lengths(whole, 'snr_db', -1)}.",
        "",
        *length_table(whole),
        "",
    ]


def verdict(whole: Sequence[Cell]) -> str:
    """In words, whether the hypothesis holds: a lower noise share of the differential model, at every length."""
    signs = {sign_of(cell, "difference - plain", "noise") for cell in whole}
    if signs == {-1}:
        return "**the hypothesis holds**, `diff-mamba2` spends a smaller share on noise than `mamba2` at every length."
    if signs == {1}:
        return "**the opposite holds**, `diff-mamba2` spends a larger share on noise than `mamba2` at every length."
    if signs == {0}:
        return "**undecided**, the two models' noise shares cannot be told apart at this n."
    if signs == {-1, 0}:
        return "**the hypothesis holds where they can be told apart**, and not at every length; see below."
    if signs == {0, 1}:
        return "**the opposite holds where they can be told apart**, and not at every length; see below."
    return "**mixed**, which model spends the larger share on noise depends on the length; see below."


def comparison(whole: Sequence[Cell], measure: str) -> str:
    less, more, open_ = (lengths(whole, measure, sign) for sign in (-1, 1, 0))
    return f"lower in `diff-mamba2` than in `mamba2` at {less}; higher at {more}; undecided at {open_}"


def length_table(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for cell in cells:
        row = [length_name(cell["length"]), cell["n"], *(text(cell["shares"][name]["noise"]) for name in PICTURES)]
        for name in (f"{a} - {b}" for a, b in COMPARED):
            row += [text(cell["differences"][name]["noise"], signed=True), f"{cell['p_values'][name]['noise']:.2g}"]
        snr = [text(cell["shares"][name]["snr_db"], 1, signed=True) for name in WRITTEN]
        difference = text(cell["differences"]["difference - plain"]["snr_db"], 2, signed=True)
        rows.append([*row, *snr, difference, cell["n_snr"]])
    compared = ["Diff-Mamba-2 less Mamba-2", "p", "difference less minuend", "p", "SNR, dB: Mamba-2", "Diff-Mamba-2"]
    compared += ["SNR: Diff-Mamba-2 less Mamba-2", "n, SNR"]
    return table(["length", "n", *(f"noise, {SHOWN[name]}" for name in PICTURES), *compared], rows)


def lengths(cells: Sequence[Cell], measure: str, sign: int, which: str = "difference - plain") -> str:
    """The lengths at which the paired difference has this sign beyond its interval."""
    names = [length_name(cell["length"]) for cell in cells if sign_of(cell, which, measure) == sign]
    return listed(names, "no length")


def sign_of(cell: Cell, which: str, measure: str) -> int:
    return estimate_from(cell["differences"][which][measure]).sign(cell["n"])


def section(results: Results) -> list[str]:
    rows = [
        [
            *(cell["task"], length_name(cell["length"]), cell["n"], SHOWN[picture]),
            *(text(cell["shares"][picture][measure]) for measure in (*CLASSES, "contrast_noise")),
        ]
        for cell in of_all_tasks(results)
        for picture in PICTURES
    ]
    heads = ["task", "length", "n", "what", *CLASSES, "noise, answer less other labels"]
    return [*table(heads, rows), "", made_with(results), ""]


PAGE = Page(folder=Path(__file__).parent, summarise=summarise, figures=figures, finding=finding, section=section)


if __name__ == "__main__":
    PAGE.write()
