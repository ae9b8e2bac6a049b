"""What the records say over training seeds: curves by stage, and the models' difference, in results.json, a figure and
README.md.

    value(run)   of a task the mean over prompts (formation stage: the median), then the mean over tasks
    d_k          diff-mamba2 - mamba2, both of seed k:  mean +- t(n - 1, 97.5 %) s / sqrt(n)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffmamba_interp.analysis.page import table, write_figures, write_page
from diffmamba_interp.analysis.results import read_records, read_results, write_results
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.needle.formation import Clearness, lead_and_timing
from diffmamba_interp.stages import formation_stage, stage_names
from diffmamba_interp.statistics import Estimate, t_test

HERE = Path(__file__).parent
RECORDS, RESULTS = "records.parquet", "results.json"
MODELS = ("mamba2", "diff-mamba2")
THRESHOLDS_DB = (3, 7, 10)
UNITS = {
    "SNR over the inner stages": "dB",
    "SNR at the output": "dB",
    **{f"median stage from which SNR stays above {db} dB": "stages" for db in THRESHOLDS_DB},
    "SNR at the stage of formation (7 dB)": "dB",
    "share of prompts in which the answer never forms (7 dB)": "",
}
"""What runs are compared by."""

LEAD = ("SNR over the inner stages", "timing, with the SNR of mamba2", "timing, with the SNR of diff-mamba2")
"""Of a pair: the lead of the differential model, and how much of it is that answers form earlier (7 dB)."""


def write(out: Path = HERE) -> None:
    """Everything in `out` that follows from its records."""
    records = read_records(out / RECORDS)
    earlier = read_results(out / RESULTS)
    lengths = sorted({int(length) for length in records["length"]})
    summary = {
        "stages": stage_names(n_stages(records) - 1),
        "n": {str(length): n_prompts(records, length) for length in lengths},
        "lengths": {str(length): of_length(records, length) for length in lengths},
        "lens_kl_nats": earlier["lens_kl_nats"],
    }
    write_results(out / RESULTS, earlier["provenance"], summary)
    results = read_results(out / RESULTS)
    panels = [curves(results, length) for length in results["lengths"]]
    drawing = curves_drawing(panels, title="Five training seeds, tuned lenses", x_axis="stage", y_axis="SNR, dB")
    write_figures(out, {"snr_db": drawing})
    write_page(HERE, out, {"findings": findings(results), "results": tables(results)})


def of_length(records: Mapping[str, np.ndarray], length: int) -> dict[str, Any]:
    """Of every seed: each model's curve and measures; of the measures also the difference over seeds."""
    by_model = {model: [of_run(records, model, seed, length) for seed in seeds(records)] for model in MODELS}
    measures = {
        name: {model: [run[name] for run in runs] for model, runs in by_model.items()} for name in ("curve", *UNITS)
    }
    differences = {name: np.subtract(measures[name]["diff-mamba2"], measures[name]["mamba2"]) for name in measures}
    leads = np.stack([lead_of_pair(records, seed, length) for seed in seeds(records)])
    return {
        "runs": measures,
        "difference": {name: t_test(each).estimates for name, each in differences.items()},
        "lead": {name: {"seeds": of_seeds.tolist(), "mean": t_test(of_seeds).estimates[0]}
                 for name, of_seeds in zip(LEAD, leads.T, strict=True)},
    }  # fmt: skip


def of_run(records: Mapping[str, np.ndarray], model: str, seed: int, length: int) -> dict[str, Any]:
    """SNR by stage ("curve") and the measures of `UNITS`, every task counting the same."""
    tasks, snr = snr_of_run(records, model, seed, length)

    def over_tasks(values: Float[np.ndarray, "prompt ..."], middle: Any = np.mean, *, of: Any = True) -> Any:
        by_task = [values[of & (tasks == task)] for task in sorted(set(tasks.tolist()))]
        return np.mean([middle(of_task, axis=0) for of_task in by_task if len(of_task)], axis=0)

    formed = {db: formation_stage(snr >= db) for db in THRESHOLDS_DB}
    # Of prompts in which the answer never forms there is no such value.
    at = np.minimum(formed[7], snr.shape[1] - 1)
    numbers = [
        over_tasks(snr[:, 1:-1].mean(axis=1)),
        over_tasks(snr[:, -1]),
        *(over_tasks(formed[db].astype(float), np.median) for db in THRESHOLDS_DB),
        over_tasks(snr[np.arange(len(snr)), at], of=formed[7] < snr.shape[1]),
        over_tasks((formed[7] == snr.shape[1]).astype(float)),
    ]
    return {"curve": over_tasks(snr), **dict(zip(UNITS, numbers, strict=True))}


def snr_of_run(
    records: Mapping[str, np.ndarray], model: str, seed: int, length: int
) -> tuple[np.ndarray, Float[np.ndarray, "prompt stage"]]:
    """Task of each prompt, and its SNR by stage."""
    chosen = (records["model"] == model) & (records["seed"] == seed) & (records["length"] == length)
    snr = np.stack([records[f"snr_db_{stage}"][chosen] for stage in range(n_stages(records))], axis=1)
    return records["task"][chosen], snr.astype(np.float64)


def lead_of_pair(records: Mapping[str, np.ndarray], seed: int, length: int) -> Float[np.ndarray, " part"]:
    """`LEAD` of the two models of a seed (see `needle.formation`), the mean over tasks."""
    (tasks, first), (_, second) = (snr_of_run(records, model, seed, length) for model in MODELS)
    read = [Clearness(snr_db=snr, is_clear=snr >= 7) for snr in (first, second)]
    by_task = []
    for task in sorted(set(tasks.tolist())):
        pair = [one.select(tasks == task) for one in read]
        statistic = lead_and_timing(*pair, tasks[tasks == task])
        by_task.append(statistic(np.ones((1, len(pair[0].snr_db))))[0])
    return np.mean(by_task, axis=0)


def curves(results: Mapping[str, Any], length: str) -> Curves:
    """Mean over seeds by stage, with t intervals."""
    runs = results["lengths"][length]["runs"]["curve"]
    estimates = {model: t_test(np.array(runs[model])).estimates for model in MODELS}
    points = {model: [(e.value, e.low, e.high) for e in of_model] for model, of_model in estimates.items()}
    title = f"{length_name(int(length))}, {results['n'][length]:,} prompts a seed"
    return Curves(title=title, ticks=results["stages"], points=points)


def findings(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for length, cell in results["lengths"].items():
        for name, unit in UNITS.items():
            (estimate,) = (Estimate(*values) for values in cell["difference"][name])
            runs = cell["runs"][name]
            each = np.subtract(runs["diff-mamba2"], runs["mamba2"])
            lines.append(
                f"- {length_name(int(length))}, {name}: {estimate.text(2, signed=True)}{unit and f' {unit}'}, "
                f"{verdict(estimate)}; seed by seed {', '.join(f'{value:+.2f}' for value in each)}."
            )
        whole, *parts = (cell["lead"][name] for name in LEAD)
        lines.append(
            f"- {length_name(int(length))}, of the {Estimate(*whole['mean']).text(2, signed=True)} dB over the inner "
            "stages, timing is "
            + " or ".join(
                f"{Estimate(*part['mean']).text(2, signed=True)} dB (seed by seed "
                f"{', '.join(f'{value:+.2f}' for value in part['seeds'])})"
                for part in parts
            )
            + ", with the SNR by stage of formation of `mamba2` or of `diff-mamba2`."
        )
    return lines


def verdict(difference: Estimate) -> str:
    if not difference.excludes_zero:
        return "not told apart"
    return f"higher in `{MODELS[difference.value > 0]}`"


def tables(results: Mapping[str, Any]) -> list[str]:
    """By length: SNR by stage, mean over seeds; measures seed by seed. Then the lenses."""
    lines: list[str] = []
    for length, cell in results["lengths"].items():
        curve = cell["runs"]["curve"]
        rows = [
            (
                stage,
                *(f"{np.mean(curve[model], axis=0)[at]:.1f}" for model in MODELS),
                Estimate(*d).text(1, signed=True),
            )
            for at, (stage, d) in enumerate(zip(results["stages"], cell["difference"]["curve"], strict=True))
        ]
        name = length_name(int(length))
        lines += [
            f"### {name}: SNR by stage, mean over seeds, dB",
            "",
            *table(("stage", *MODELS, "difference"), rows),
            "",
        ]
        of_runs = [
            (model, seed, *(f"{cell['runs'][measure][model][seed]:.2f}" for measure in UNITS))
            for model in MODELS
            for seed in range(len(curve[model]))
        ]
        lines += [f"### {name}: seed by seed", "", *table(("model", "seed", *UNITS), of_runs), ""]
    losses = [(run, f"{kl['tuned']:.3f}", f"{kl['logit']:.3f}") for run, kl in results["lens_kl_nats"].items()]
    heads = ("run", "tuned lens, KL to the output in nats, mean over inner stages", "logit lens")
    return [*lines, "### The lenses, on held-out text", "", *table(heads, losses)]


def n_stages(records: Mapping[str, np.ndarray]) -> int:
    return sum(name.startswith("snr_db_") for name in records)


def seeds(records: Mapping[str, np.ndarray]) -> list[int]:
    return sorted({int(seed) for seed in records["seed"]})


def n_prompts(records: Mapping[str, np.ndarray], length: int) -> int:
    chosen = (records["model"] == MODELS[0]) & (records["seed"] == 0) & (records["length"] == length)
    return int(chosen.sum())


if __name__ == "__main__":
    write()
