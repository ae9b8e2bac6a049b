"""What the records of the fine-tuned pair say, in results.json, the figure and README.md.

difference    Diff-Mamba-2 less Mamba-2, both fine-tuned with seed k: mean over seeds +- t(n - 1, 97.5 %) s / sqrt(n)
over prompts  the seeds' mean of it, with a bootstrap interval over the prompts

python analyses/answer_tuning/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Mapping
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
MEANS = ("accuracy", "SNR over the inner stages", "SNR at the output")
BEFORE = "SNR at the output before"


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Of each lens: means over prompts by stage and the measures of `MEANS`, of each seed, and their differences."""
    records = read_records(folder / RECORDS)
    n_stages = sum(name.startswith("snr_db_") and name != "snr_db_before" for name in records)
    seeds = sorted({int(seed) for seed in records["seed"]})
    lenses = {lens: _of_lens(records, lens, seeds, n_stages) for lens in ("tuned", "logit")}
    return {"seeds": seeds, "stages": list(stage_names(n_stages - 1)), "lenses": lenses}


def _of_lens(records: Records, lens: str, seeds: list[int], n_stages: int) -> dict[str, Any]:
    def lines(model: str, seed: int) -> Records:
        chosen = (records["lens"] == lens) & (records["model"] == model) & (records["seed"] == seed)
        return {name: column[chosen] for name, column in records.items()}

    columns: dict[str, dict[str, np.ndarray]] = {}
    for model in (FIRST, SECOND):
        tables = [lines(model, seed) for seed in seeds]
        snr = np.stack([[one[f"snr_db_{stage}"] for stage in range(n_stages)] for one in tables]).swapaxes(
            1, 2
        )  # seed, prompt, stage
        columns[model] = {
            "accuracy": np.stack([one["is_right"] for one in tables]),
            MEANS[1]: snr[:, :, 1:-1].mean(axis=2),
            MEANS[2]: snr[:, :, -1],
            BEFORE: np.stack([one["snr_db_before"] for one in tables]),
        } | {str(stage): snr[:, :, stage] for stage in range(n_stages)}
    made: dict[str, Any] = {"n": columns[FIRST]["accuracy"].shape[1], "measures": {}, "stages": []}
    for name in columns[FIRST]:
        of_models = {model: values[name] for model, values in columns.items()}
        by_seed = {model: values.mean(axis=1) for model, values in of_models.items()}
        difference = over_seeds(by_seed[SECOND] - by_seed[FIRST])
        entry: dict[str, Any] = {model: values.tolist() for model, values in by_seed.items()}
        entry["difference"] = difference
        if name.isdigit():
            made["stages"].append(entry)
        else:
            paired = (of_models[SECOND] - of_models[FIRST]).mean(axis=0)
            entry["over_prompts"] = bootstrap(paired[:, None], n_resamples=N_RESAMPLES).estimates[0]
            made["measures"][name] = entry
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
                model: points(_estimate(over_seeds(np.array(stage[model]))) for stage in made["stages"])
                for model in (FIRST, SECOND)
            },
        )
        for lens, made in results["lenses"].items()
    ]
    return {"snr_db": curves_drawing(panels, title=title, x_axis="stage", y_axis="SNR, dB")}


def _estimate(one: Estimate) -> list[float]:
    return [one.value, *(one.value if np.isnan(bound) else bound for bound in (one.low, one.high))]


def finding(results: Results, title: str) -> list[str]:
    if results["provenance"]["recipe"]["name"] == "builtin":
        return []
    made = results["lenses"]["tuned"]
    lines = [
        f"- {name}: {text(one['difference'], _decimals(name), signed=True)}{_unit(name)} over seeds, {_verdict(one)}; "
        f"over prompts {text(one['over_prompts'], _decimals(name), signed=True)}."
        for name, one in made["measures"].items()
    ]
    return [f"{title} ({len(results['seeds'])} seeds, {made['n']} prompts), tuned lens:", "", *lines, ""]


def section(results: Results) -> list[str]:
    lines: list[str] = []
    for lens, made in results["lenses"].items():
        rows = [
            [stage, *(_values(entry[model], 1) for model in (FIRST, SECOND)), text(entry["difference"], 1, signed=True)]
            for stage, entry in zip(results["stages"], made["stages"], strict=True)
        ]
        rows += [
            [
                name,
                *(_values(entry[model], _decimals(name)) for model in (FIRST, SECOND)),
                text(entry["difference"], _decimals(name), signed=True),
            ]
            for name, entry in made["measures"].items()
        ]
        lines += [f"### {lens} lens, seed by seed", "", *table(["", FIRST, SECOND, "difference"], rows), ""]
    recipe = results["provenance"]["recipe"]
    return [
        *lines,
        f"{recipe['steps']} steps of {recipe['batch_size']} rows of {recipe['length']:,} tokens, lenses of "
        f"{recipe['lens_steps']} steps of {recipe['lens_tokens']:,} tokens. {made_with(results)}",
        "",
    ]


def _verdict(entry: Mapping[str, Any]) -> str:
    difference = estimate_from(entry["difference"])
    return "not told apart" if not difference.excludes_zero else f"`{SECOND if difference.value > 0 else FIRST}` ahead"


def _values(values: list[float], decimals: int) -> str:
    return ", ".join(f"{value:.{decimals}f}" for value in values)


def _decimals(name: str) -> int:
    return 3 if name == "accuracy" else 1


def _unit(name: str) -> str:
    return "" if name == "accuracy" else " dB"


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
