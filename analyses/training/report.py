"""What the records of the training analysis say, in results.json, figures and README.md: curves over training, each
run's value after each step, and the models' difference over seeds.

    formation stage   the first stage from which SNR stays at a threshold or above; the number of stages if never
    difference        d_k = differential - plain, both of seed k: mean +- t(n - 1, 97.5 %) s / sqrt(n)

    python analyses/training/report.py      all of these, from the records
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from analyses.training.records import Records
from diffmamba_interp.analysis.page import table, write_figures, write_page
from diffmamba_interp.analysis.results import write_results
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.stages import formation_stage
from diffmamba_interp.statistics import Estimate, t_test

HERE = Path(__file__).parent
FIRST, SECOND = "mamba2", "diff-mamba2"
THRESHOLDS_DB = (3, 7, 10)
MEANS = ("accuracy", "output SNR", "inner SNR")
LENGTH_NAMES = {0: "0k", 1024: "1k"}
ACCURACIES = (0.4, 0.5, 0.6, 0.7)
BITS = (2.2, 2.1, 2.0, 1.9, 1.8)
NEAR = 0.1
STAGES = ("on top", *(f"{db} dB" for db in THRESHOLDS_DB))
SHOWN_STEPS = (300, 600, 1000, 1500, 2000, 3000, 5000, 7300)
LABELS = {
    "accuracy": "accuracy",
    "output SNR": "SNR at the output",
    "inner SNR": "SNR over the inner stages",
    "on top": "stage: on top",
    **{f"{db} dB": f"stage: {db} dB" for db in THRESHOLDS_DB},
}


def write(out: Path = HERE) -> None:
    """Everything beside `records.npz.xz`."""
    records = Records.load(out / "records.npz.xz")
    curves = results(records)
    made = {"records": file_sha256(out / "records.npz.xz"), "runs": [list(run) for run in records.runs]}
    write_results(out / "results.json", made, curves)
    write_figures(out, figures(records))
    sections = [line for lines in sections_of(records, curves) for line in (*lines, "")]
    write_page(HERE, out, {"findings": findings(records, curves), "results": sections})


def results(records: Records) -> dict[str, Any]:
    """Of every length: each run's curves, the difference over seeds after every step, when accuracy passes a level."""
    found: dict[str, Any] = {"steps": list(records.steps), "lengths": {}}
    for length in sorted(set(records.lengths)):
        curves = measures(records, length)
        found["lengths"][str(length)] = {
            "runs": {name: values.tolist() for name, values in curves.items()},
            "difference": {
                name: [over_seeds(differences(records, values, step)) for step in records.steps]
                for name, values in curves.items()
            },
            "step_of_accuracy": {str(level): steps_of(records, curves["accuracy"], level) for level in ACCURACIES},
            "at_bits": {str(bits): at_bits(records, curves["accuracy"], bits) for bits in BITS},
        }
    bits = {name: records.bits_per_byte[:, :, i] for i, name in enumerate(records.texts)}
    found["bits_per_byte"] = {
        name: {
            "runs": values.tolist(),
            "difference": [over_seeds(differences(records, values, step)) for step in records.steps],
        }
        for name, values in bits.items()
    }
    rows = trained_rows(records)[SECOND]
    found["lambda"] = records.lambda_[rows].tolist()
    found["branch_cosine"] = records.branch_cosine[rows].tolist()
    return found


def steps_of(records: Records, accuracy: np.ndarray, level: float) -> dict[str, list[float]]:
    """By model, of each seed: the step at which accuracy first passes `level`."""
    return {
        model: [passes(records.steps, accuracy[row], [level])[0] for row in rows]
        for model, rows in trained_rows(records).items()
    }


def at_bits(records: Records, accuracy: np.ndarray, bits: float) -> dict[str, list[float]]:
    """By model, of each seed: accuracy where bits per byte of The Pile come down to `bits`."""
    pile = records.bits_per_byte[:, :, [i for i, name in enumerate(records.texts) if "pile" in name][0]]
    return {
        model: [passes(accuracy[row], -pile[row], [-bits])[0] for row in rows]
        for model, rows in trained_rows(records).items()
    }


def figures(records: Records) -> dict[str, Drawing]:
    """Means over the seeds that were read along the way, with t intervals; lambda of each seed."""
    rows = trained_rows(records)

    def curve(values: np.ndarray) -> list[tuple[float, float, float]]:
        estimates = [over_seeds(values[:, i]) for i in range(values.shape[1])]
        return [(one.value, one.low, one.high) for one in estimates]

    def panels(name: str) -> list[Curves]:
        made = []
        for length in sorted(set(records.lengths)):
            values = measures(records, length)[name]
            points = {model: curve(values[own]) for model, own in rows.items()}
            made.append(Curves(title=LENGTH_NAMES[length], ticks=[str(s) for s in records.steps], points=points))
        return made

    ticks = [str(step) for step in records.steps]
    by_block = [
        Curves(
            title=f"seed {records.runs[row][1]}",
            ticks=ticks,
            points={
                f"block {b}": [(v, v, v) for v in values.tolist()] for b, values in enumerate(records.lambda_[row].T)
            },
        )
        for row in rows[SECOND]
    ]
    title = f"{len(seeds_of(records))} training seeds"
    drawn = (
        ("lambda", by_block, "lambda"),
        ("accuracy", panels("accuracy"), "accuracy"),
        ("output_snr", panels("output SNR"), "SNR at the output, dB"),
        ("formation", panels("7 dB"), "median stage from which SNR stays above 7 dB"),
    )
    return {name: curves_drawing(of_figure, title=title, x_axis="step", y_axis=axis) for name, of_figure, axis in drawn}


def sections_of(records: Records, curves: dict[str, Any]) -> list[list[str]]:
    """What stands below the method on the page."""
    over = [
        [f"### {LENGTH_NAMES[length]}", "", *over_training(records, curves["lengths"][str(length)])]
        for length in sorted(set(records.lengths))
    ]
    return [
        ["## Over training"],
        *([f"![{name}]({name}.svg)"] for name in ("accuracy", "output_snr", "formation")),
        *over,
        ["## After the last step, seed by seed", "", *last_step(records)],
        ["## Lambda and the branches", "", "![lambda](lambda.svg)", "", *lambda_text(records)],
        ["After the last step:", "", *lambda_table(records)],
    ]


def findings(records: Records, by_length: dict[str, Any]) -> list[str]:
    last = records.steps[-1]
    lines = []
    for length in sorted(set(records.lengths)):
        own, curves, where = by_length["lengths"][str(length)], measures(records, length), LENGTH_NAMES[length]
        passed = own["step_of_accuracy"]["0.5"]
        pairs = "; ".join(f"{b:,.0f} against {a:,.0f}" for a, b in zip(passed[FIRST], passed[SECOND], strict=True))
        ratio = over_seeds(np.log(np.divide(passed[FIRST], passed[SECOND])).tolist())
        lines.append(
            f"- Retrieval at {where} forms {word(ratio, 'earlier', 'later')} in training: accuracy passes 0.5 after "
            f"{pairs} steps (`{SECOND}` against `{FIRST}`, seed by seed), a factor of "
            f"{np.exp(ratio.value):.2f} [{np.exp(ratio.low):.2f}, {np.exp(ratio.high):.2f}]."
        )
        for name, unit in (("accuracy", ""), ("output SNR", " dB"), ("inner SNR", " dB"), ("7 dB", " stages")):
            each = differences(records, curves[name], last)
            what = "median stage from which SNR stays above 7 dB" if name == "7 dB" else LABELS[name]
            lines.append(
                f"- After the last step at {where}, {what}: {over_seeds(each).text(2, signed=True)}{unit}, "
                f"seed by seed {', '.join(f'{value:+.2f}' for value in each)}."
            )
    for name, values in zip(records.texts, np.moveaxis(records.bits_per_byte, -1, 0), strict=True):
        each = differences(records, values, last)
        whose = "" if len(each) > len(seeds_of(records)) else f" (seeds {', '.join(map(str, seeds_of(records)))})"
        lines.append(
            f"- Bits per byte of `{Path(name).stem}`{whose}: {over_seeds(each).text(3, signed=True)}, seed by seed "
            f"{', '.join(f'{value:+.3f}' for value in each)}."
        )
    return [*lines, ""]


def word(difference: Estimate, above: str, below: str) -> str:
    """Which side the interval takes."""
    return "at no other time" if not difference.excludes_zero else above if difference.value > 0 else below


def over_training(records: Records, own: dict[str, Any]) -> list[str]:
    names = ("accuracy", "output SNR", "7 dB")
    rows = trained_rows(records)
    heads = [head for name in names for head in (f"{name}: {FIRST}", SECOND, "difference")]
    over_steps = []
    for step in (step for step in SHOWN_STEPS if step in records.steps):
        at = records.steps.index(step)
        cells = [f"{step:,}"]
        for name in names:
            values = np.array(own["runs"][name])
            cells += [f"{values[rows[model], at].mean():.2f}" for model in (FIRST, SECOND)]
            cells.append(own["difference"][name][at].text(2, signed=True))
        over_steps.append(cells)
    lines = [
        *table(["step", *heads], over_steps),
        "",
        "Where both have come to the same bits per byte of The Pile, accuracy (mean over seeds):",
        "",
    ]
    at_bits = []
    for bits, by_model in own["at_bits"].items():
        first, second = (np.array(by_model[model]) for model in (FIRST, SECOND))
        if np.isfinite(first).all() and np.isfinite(second).all():
            difference = over_seeds((second - first).tolist()).text(2, signed=True)
            at_bits.append([bits, f"{first.mean():.2f}", f"{second.mean():.2f}", difference])
    return [*lines, *table(["bits per byte", FIRST, SECOND, "difference"], at_bits)]


def last_step(records: Records) -> list[str]:
    at = len(records.steps) - 1
    curves = {length: measures(records, length) for length in sorted(set(records.lengths))}
    names = [(length, name) for length in curves for name in ("accuracy", "output SNR", "inner SNR", *STAGES)]
    rows = []
    for model in (FIRST, SECOND):
        for row in rows_of(records, model, with_shipped=True):
            cells = [f"{curves[length][name][row, at]:.2f}" for length, name in names]
            rows.append([model, records.runs[row][1], *cells])
    return table(["model", "seed", *(f"{LENGTH_NAMES[length]} {LABELS[name]}" for length, name in names)], rows)


def lambda_text(records: Records) -> list[str]:
    """Which way each block goes, and when it has come to stay."""
    values = records.lambda_[trained_rows(records)[SECOND]]
    blocks = range(values.shape[-1])
    up = [block for block in blocks if (values[:, -1, block] > values[:, 0, block]).all()]
    down = [block for block in blocks if (values[:, -1, block] < values[:, 0, block]).all()]
    stays = formation_stage(np.moveaxis(np.abs(values - values[:, -1:]) < NEAR, 1, -1))
    middle, early, late = np.quantile(np.array(records.steps)[stays], (0.5, 0.25, 0.75))
    return [
        f"With every seed lambda rises in blocks {', '.join(map(str, up)) or 'none'} and falls in blocks "
        f"{', '.join(map(str, down)) or 'none'}; in the others seeds disagree. It stays within {NEAR} of its last "
        f"value from step {middle:,.0f} on in the median over blocks and seeds (from {early:,.0f} and {late:,.0f} in "
        "the quartiles)."
    ]


def lambda_table(records: Records) -> list[str]:
    rows, at = rows_of(records, SECOND, with_shipped=True), len(records.steps) - 1
    lambdas, cosines = records.lambda_[rows, at], records.branch_cosine[rows, at]
    lines = []
    for block in range(lambdas.shape[-1]):
        both = zip(lambdas[:, block], cosines[:, block], strict=True)
        lines.append([block, *(text for value, cosine in both for text in (f"{value:.2f}", f"{cosine:+.2f}"))])
    heads = [head for row in rows for head in (f"seed {records.runs[row][1]}: lambda", "cosine")]
    return table(["block", *heads], lines)


def seeds_of(records: Records) -> Sequence[int]:
    return [records.runs[row][1] for row in trained_rows(records)[SECOND]]


def measures(records: Records, length: int) -> dict[str, Float[np.ndarray, "run step"]]:
    """By name, over the prompts of one length: accuracy, SNR (dB) at the output and over the stages between embedding
    and output, median formation stages.

    Every task counts the same: means and medians are taken within tasks, then averaged. NaN where a run was not read.
    """
    chosen = np.array(records.lengths) == length
    tasks = np.array(records.tasks)
    was_read = ~np.isnan(records.snr_db[:, :, 0, 0])
    by_prompt = {
        "accuracy": records.is_top[..., -1].astype(float),
        "output SNR": records.snr_db[..., -1],
        "inner SNR": records.snr_db[..., 1:-1].mean(axis=-1),
        "on top": formation_stage(records.is_top).astype(float),
        **{f"{db} dB": formation_stage(records.snr_db >= db).astype(float) for db in THRESHOLDS_DB},
    }
    curves = {}
    for name, values in by_prompt.items():
        middle = np.mean if name in MEANS else np.median
        own = [middle(values[:, :, chosen & (tasks == task)], axis=-1) for task in sorted(set(records.tasks))]
        curves[name] = np.where(was_read, np.mean(own, axis=0), np.nan)
    return curves


def rows_of(records: Records, model: str, *, with_shipped: bool) -> list[int]:
    """Places of a model's runs by seed. with_shipped: seed 0 too, which was read after its last step alone."""
    own = {seed: row for row, (name, seed) in enumerate(records.runs) if name == model}
    return [own[seed] for seed in sorted(own) if seed or with_shipped]


def differences(records: Records, values: Float[np.ndarray, "run step"], step: int) -> list[float]:
    """Of each seed that was read then: the differential model's value minus the plain one's."""
    at = records.steps.index(step)
    first, second = (values[rows_of(records, model, with_shipped=True), at] for model in (FIRST, SECOND))
    return [float(value) for value in second - first if np.isfinite(value)]


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over seeds with its t interval; NaN for what no run has."""
    known = np.array([value for value in values if np.isfinite(value)])
    return t_test(known).estimates[0] if len(known) > 1 else Estimate(np.nan, np.nan, np.nan)


def passes(levels: Sequence[float], rising: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """What `levels` are where `rising` first reaches each wanted value, on straight lines; NaN where it never does."""
    reached = []
    for value in wanted:
        above = np.flatnonzero(np.asarray(rising) >= value)
        if not len(above):
            reached.append(np.nan)
            continue
        i = max(int(above[0]), 1)
        share = (value - rising[i - 1]) / (rising[i] - rising[i - 1])
        reached.append(float(levels[i - 1] + min(max(share, 0.0), 1.0) * (levels[i] - levels[i - 1])))
    return reached


def trained_rows(records: Records) -> dict[str, list[int]]:
    """Places of the runs that were read along the way, by model, in the order of their seeds."""
    return {model: rows_of(records, model, with_shipped=False) for model in (FIRST, SECOND)}


if __name__ == "__main__":
    write()
