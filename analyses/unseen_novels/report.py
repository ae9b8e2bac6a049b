"""What the records of the unseen novels say, in results.json, figures and README.md: both models' measures by task and
their difference, with intervals over stories and novels at once, and the difference novel by novel.

    python analyses/unseen_novels/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.page import ALL, RECORDS, Page, Results, made_with, of_all_tasks, points, table, text
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.panels import Drawing, minus
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.resampling import crossed_counts
from diffmamba_interp.statistics import bootstrap, bootstrap_of, mean_of

BASELINE, MODEL = "mamba2", "diff-mamba2"
MEASURES = {
    "snr_inner_db": ("SNR, inner stages, tuned lens", "dB", 2),
    "snr_output_db": ("SNR at the output", "dB", 2),
    "formation": ("Stage from which SNR stays above 7 dB", "stages", 2),
    "right": ("Accuracy", "", 3),
    "noise_answer": ("Noise share of what is written to the answer's logit", "", 3),
    "noise_contrast": ("The same for the answer's logit less the other labels'", "", 3),
}
"""Of a prompt: words, unit and decimals."""
TITLES = {
    "unseen": "Held-out bAbI stories in 20 novels that no training saw",
    "builtin": "Generated stories in generated texts",
}


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Cells, one of all tasks and one of each; the difference by filler."""
    records = read_records(folder / RECORDS)
    tasks = [ALL, *sorted(set(records["task"].tolist()))]
    return {"cells": [cell(records, task) for task in tasks], "by_filler": by_filler(records)}


def cell(records: Records, task: str) -> dict[str, Any]:
    """n: prompts. n_stories, n_fillers. Of every measure the models' means and the difference, by name."""
    chosen = records if task == ALL else {name: column[records["task"] == task] for name, column in records.items()}
    story, filler, values = paired(chosen)
    counts = crossed_counts(story, filler, n_resamples=N_RESAMPLES)
    both = np.concatenate([values, values[:, [1]] - values[:, [0]]], axis=1)
    estimates = bootstrap_of(mean_of(both), len(both), counts=counts).stacked
    named = (BASELINE, MODEL, "difference")
    return {
        "task": task,
        "n": len(both),
        "n_stories": len(set(story)),
        "n_fillers": len(set(filler)),
        **{
            measure: {name: estimates[:, column, place].tolist() for column, name in enumerate(named)}
            for place, measure in enumerate(MEASURES)
        },
    }


def paired(records: Records) -> tuple[list[str], list[str], np.ndarray]:
    """Story and filler of every prompt, and [prompt, model, measure].

    Raises ValueError where the models were asked different prompts.
    """
    by_model = []
    for model in (BASELINE, MODEL):
        of_model = {name: column[records["model"] == model] for name, column in records.items()}
        keys = [f"{task} {story}" for task, story in zip(of_model["task"], of_model["story"], strict=True)]
        order = sorted(range(len(keys)), key=lambda place: (keys[place], of_model["filler"][place]))
        values = np.stack([of_model[measure][order] for measure in MEASURES], axis=1)
        by_model.append(([keys[place] for place in order], of_model["filler"][order].tolist(), values))
    (stories, fillers, first), (other_stories, other_fillers, second) = by_model
    if (stories, fillers) != (other_stories, other_fillers):
        raise ValueError("the models were not asked the same prompts: run both again.")
    return stories, fillers, np.stack([first, second], axis=1)


def by_filler(records: Records) -> list[dict[str, Any]]:
    """Of every filler: n and the difference of every measure, over its stories."""
    _, fillers, values = paired(records)
    lines = []
    for filler in sorted(set(fillers)):
        chosen = values[np.array(fillers) == filler]
        interval = bootstrap(chosen[:, 1] - chosen[:, 0], n_resamples=N_RESAMPLES)
        estimates = {name: interval.stacked[:, place].tolist() for place, name in enumerate(MEASURES)}
        lines.append({"filler": filler, "n": len(chosen), **estimates})
    return lines


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """SNR by task of both models; their difference by filler."""
    cells, lines = results["cells"], results["by_filler"]
    drawn = ("snr_inner_db", "snr_output_db")

    def by_task(measure: str) -> Curves:
        of_models = {name: points(cell[measure][name] for cell in cells) for name in (BASELINE, MODEL)}
        return Curves(title=MEASURES[measure][0], ticks=[cell["task"] for cell in cells], points=of_models)

    def of_fillers(measure: str) -> Curves:
        difference = {minus(MODEL, BASELINE): points(line[measure] for line in lines)}
        ticks = [str(number) for number in range(1, len(lines) + 1)]
        return Curves(title=MEASURES[measure][0], ticks=ticks, points=difference)

    return {
        "by_task": curves_drawing([by_task(one) for one in drawn], title=title, x_axis="task", y_axis="dB"),
        "by_filler": curves_drawing(
            [of_fillers(one) for one in drawn], title=title, x_axis="filler, in the order of the table", y_axis="dB"
        ),
    }


def finding(results: Results, title: str) -> list[str]:
    whole, lines = of_all_tasks(results)[0], results["by_filler"]
    said = [
        f"{title} ({whole['n']:,} prompts: {whole['n_stories']} stories, each in "
        f"{whole['n'] // whole['n_stories']} of {whole['n_fillers']} texts), the differential model less the plain "
        "one, all tasks together:",
        "",
    ]
    for measure, (words, unit, decimals) in MEASURES.items():
        difference = whole[measure]["difference"]
        of_fillers = [line[measure][0] for line in lines]
        above = sum(value > 0 for value in of_fillers)
        said.append(
            f"- {words}: {verdict(whole, measure)}, {text(difference, decimals, signed=True)}{' ' * bool(unit)}{unit}; "
            f"above 0 in {above} of {len(lines)} texts, from {min(of_fillers):+.{decimals}f} to "
            f"{max(of_fillers):+.{decimals}f}."
        )
    return [*said, "", *task_table(results), ""]


def verdict(cell: dict[str, Any], measure: str) -> str:
    """Which model has more, where the interval and the number of texts and stories decide."""
    sign = estimate_from(cell[measure]["difference"]).sign(min(cell["n_stories"], cell["n_fillers"]))
    return {1: f"higher in `{MODEL}`", -1: f"higher in `{BASELINE}`", 0: "undecided"}[sign]


def task_table(results: Results) -> list[str]:
    rows = [
        [
            *(cell["task"], cell["n"], words),
            *(text(cell[measure][name], decimals) for name in (BASELINE, MODEL)),
            text(cell[measure]["difference"], decimals, signed=True),
        ]
        for cell in results["cells"]
        for measure, (words, _, decimals) in MEASURES.items()
    ]
    return table(["task", "n", "measure", BASELINE, MODEL, "difference"], rows)


def section(results: Results) -> list[str]:
    drawn = ("snr_inner_db", "snr_output_db", "right")
    rows = [
        [number, line["filler"], line["n"], *(text(line[one], MEASURES[one][2], signed=True) for one in drawn)]
        for number, line in enumerate(results["by_filler"], 1)
    ]
    heads = ["", "text", "n", *(f"{MEASURES[one][0]}, difference" for one in drawn)]
    return [*table(heads, rows), "", made_with(results), ""]


PAGE = Page(
    folder=Path(__file__).parent,
    summarise=summarise,
    figures=figures,
    finding=finding,
    section=section,
    titles=TITLES,
)


if __name__ == "__main__":
    PAGE.write()
