"""What the records of the fine-tuned pair say, in results.json, the figure and README.md.

difference    Diff-Mamba-2 less Mamba-2, both fine-tuned with seed k: mean over seeds +- t(n - 1, 97.5 %) s / sqrt(n)
over prompts  the seeds' mean of it, with a bootstrap interval over the prompts

python analyses/answer_tuning/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.page import RECORDS, Page, Results, made_with, points, table, text
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.stages import stage_names
from diffmamba_interp.statistics import Estimate, bootstrap, t_test

FIRST, SECOND = "mamba2", "diff-mamba2"
TITLES = {"paper": "Fine-tuned on bAbI's answers, lenses on The Pile", "builtin": "A few steps on generated stories"}
STAGE_RECORDS = RECORDS.replace("records", "stages")
ACCURACY, OUTPUT, BEFORE = "accuracy", "SNR at the output", "SNR at the output before"
MEASURES = {
    ACCURACY: "is_right",
    "SNR over the inner stages": "snr_db_inner",
    OUTPUT: "snr_db_output",
    BEFORE: "snr_db_before",
}
"""Columns of the records of prompts, by name."""
BY_TASK = (ACCURACY, OUTPUT)
"""What is told task by task: the tasks pull apart in it."""


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Of each lens means over prompts by stage, of the tuned one `MEASURES` too, seed by seed, and differences."""
    prompts, stages = read_records(folder / RECORDS), read_records(folder / STAGE_RECORDS)
    # Prompt by prompt the models are compared place by place.
    prompts = _lines(prompts, np.lexsort((prompts["story"], prompts["task"])))
    seeds = sorted({int(seed) for seed in prompts["seed"]})
    lenses = {lens: _stages(stages, lens) for lens in ("tuned", "logit")}
    return {
        "n": len(prompts["seed"]) // (2 * len(seeds)),
        "seeds": seeds,
        "stages": list(stage_names(len(lenses["tuned"]) - 1)),
        "lenses": lenses,
        "measures": {name: _measure(prompts, column, seeds) for name, column in MEASURES.items()},
        "tasks": {
            task: {name: _measure(_lines(prompts, prompts["task"] == task), MEASURES[name], seeds) for name in BY_TASK}
            for task in sorted(set(prompts["task"].tolist()))
        },
    }


def _lines(records: Records, chosen: np.ndarray) -> Records:
    return {name: column[chosen] for name, column in records.items()}


def _stages(records: Records, lens: str) -> list[dict[str, Any]]:
    """At each stage the means over prompts of each seed, and their difference over seeds."""
    n_stages = sum(name.startswith("snr_db_") for name in records)
    values = {
        model: np.stack([records[f"snr_db_{stage}"] for stage in range(n_stages)])[
            :, (records["model"] == model) & (records["lens"] == lens)
        ]
        for model in (FIRST, SECOND)
    }
    return [
        {FIRST: plain.tolist(), SECOND: differential.tolist(), "difference": over_seeds(differential - plain)}
        for plain, differential in zip(values[FIRST], values[SECOND], strict=True)
    ]


def _measure(records: Records, column: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Means over prompts of each seed, and the difference over seeds and over prompts."""
    plain, differential = (
        np.stack([records[column][(records["model"] == model) & (records["seed"] == seed)] for seed in seeds])
        for model in (FIRST, SECOND)
    )  # seed, prompt
    (over_prompts,) = bootstrap((differential - plain).mean(axis=0)[:, None], n_resamples=N_RESAMPLES).estimates
    made = {
        FIRST: plain.mean(axis=1).tolist(),
        SECOND: differential.mean(axis=1).tolist(),
        "over_prompts": over_prompts,
    }
    if column != MEASURES[BEFORE]:
        # The pair itself is the same for every seed.
        made["difference"] = over_seeds((differential - plain).mean(axis=1))
    return made


def over_seeds(differences: np.ndarray) -> Estimate:
    """Mean and t interval; of one seed the value alone."""
    if len(differences) < 2:
        return Estimate(float(differences.mean()), np.nan, np.nan)
    return t_test(differences[:, None].astype(np.float64)).estimates[0]


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """SNR by stage of both models through both lenses, mean over seeds with a t interval."""
    panels = [
        Curves(
            title=f"{lens} lens",
            ticks=[str(stage) for stage in range(len(results["stages"]))],
            points={
                model: points(_estimate(over_seeds(np.array(stage[model]))) for stage in stages)
                for model in (FIRST, SECOND)
            },
        )
        for lens, stages in results["lenses"].items()
    ]
    return {"snr_db": curves_drawing(panels, title=title, x_axis="stage", y_axis="SNR, dB")}


def _estimate(one: Estimate) -> list[float]:
    return [one.value, *(one.value if np.isnan(bound) else bound for bound in (one.low, one.high))]


def finding(results: Results, title: str) -> list[str]:
    if results["provenance"]["recipe"]["name"] == "builtin":
        return []
    lines = []
    for name, one in results["measures"].items():
        over_prompts = f"over prompts {_said(one['over_prompts'], name)}"
        if name == BEFORE:
            lines.append(f"- {name}: {over_prompts}.")
        else:
            lines.append(f"- {name}: {_said(one['difference'], name)} over seeds, {_verdict(one)}; {over_prompts}.")
    n_seeds = len(results["seeds"])
    return [f"{title} ({n_seeds} seeds, {results['n']:,} prompts), tuned lens:", "", *lines, ""]


def section(results: Results) -> list[str]:
    lines: list[str] = []
    for lens, stages in results["lenses"].items():
        rows = [
            [stage, *(_values(entry[model], 1) for model in (FIRST, SECOND)), text(entry["difference"], 1, signed=True)]
            for stage, entry in zip(results["stages"], stages, strict=True)
        ]
        lines += [f"### SNR in dB, {lens} lens, seed by seed", "", *table(["", FIRST, SECOND, "difference"], rows), ""]
    rows = [_row(name, entry, name) for name, entry in results["measures"].items()]
    by_task = [
        _row(f"{task}, {name}", measures[name], name) for name in BY_TASK for task, measures in results["tasks"].items()
    ]
    heads = ["", FIRST, SECOND, "difference, over seeds", "over prompts"]
    recipe = results["provenance"]["recipe"]
    return [
        *lines,
        "### Tuned lens, over all stages",
        "",
        *table(heads, rows),
        "",
        # The small recipe asks a prompt of each task.
        *(["### Task by task", "", *table(heads, by_task), ""] if recipe["name"] != "builtin" else []),
        f"{recipe['steps']} steps of {recipe['batch_size']} rows of {recipe['length']:,} tokens, lenses of "
        f"{recipe['lens_steps']} steps of {recipe['lens_tokens']:,} tokens, {results['n']:,} prompts. "
        f"{made_with(results)}",
        "",
    ]


def _row(head: str, entry: Mapping[str, Any], name: str) -> list[str]:
    """A measure of both models, seed by seed, and its difference."""
    return [
        head,
        *(_values(entry[model], _decimals(name)) for model in (FIRST, SECOND)),
        _said(entry["difference"], name) if "difference" in entry else "",
        _said(entry["over_prompts"], name),
    ]


def _said(values: Sequence[float | None], name: str) -> str:
    """An estimate of a measure, with its sign and unit."""
    return text(values, _decimals(name), signed=True) + ("" if name == ACCURACY else " dB")


def _verdict(entry: Mapping[str, Any]) -> str:
    difference = estimate_from(entry["difference"])
    return "not told apart" if not difference.excludes_zero else f"`{SECOND if difference.value > 0 else FIRST}` ahead"


def _values(values: list[float], decimals: int) -> str:
    return ", ".join(f"{value:.{decimals}f}" for value in values)


def _decimals(name: str) -> int:
    return 3 if name == ACCURACY else 1


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
