"""results.json, figures and README.md of the training analysis, from its records alone.

python analyses/training/report.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyses.training.curves import (
    FIRST,
    SECOND,
    THRESHOLDS_DB,
    differences,
    measures,
    over_seeds,
    passes,
    rows_of,
    trained_rows,
)
from analyses.training.records import Records
from diffmamba_interp.analysis.results import write_results
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.stages import formation_stage
from diffmamba_interp.statistics import Estimate

HERE = Path(__file__).parent
LENGTH_NAMES = {0: "0k", 1024: "1k"}
ACCURACIES = (0.4, 0.5, 0.6, 0.7)
BITS = (2.2, 2.1, 2.0, 1.9, 1.8)
NEAR = 0.1
STAGES = ("on top", *(f"{db} dB" for db in THRESHOLDS_DB))
SHOWN_STEPS = (300, 600, 1000, 1500, 2000, 3000, 5000, 7300)


def write(out: Path = HERE) -> None:
    """Everything beside `records.npz.xz`."""
    records = Records.load(out / "records.npz.xz")
    found = results(records)
    made = {"records": file_sha256(out / "records.npz.xz"), "runs": [list(run) for run in records.runs]}
    write_results(out / "results.json", made, found)
    for name, panels, axis in figures(records):
        drawing = curves_drawing(panels, title=f"{len(seeds_of(records))} training seeds", x_axis="step", y_axis=axis)
        write_text(out / f"{name}.svg", to_svg(drawing))
    write_text(out / "README.md", "\n".join(page(records, found)) + "\n")


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


def figures(records: Records) -> list[tuple[str, list[Curves], str]]:
    """Name, panels and y axis of each figure: mean over the seeds that were read along the way, with t intervals."""
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
    return [
        ("lambda", by_block, "lambda"),
        ("accuracy", panels("accuracy"), "accuracy"),
        ("output_snr", panels("output SNR"), "SNR at the output, dB"),
        ("formation", panels("7 dB"), "median stage from which SNR stays above 7 dB"),
    ]


def page(records: Records, found: dict[str, Any]) -> list[str]:
    lines = [*HEAD, *findings(records, found), *HOW, "## Over training", ""]
    lines += [f"![{name}]({name}.svg)\n" for name in ("accuracy", "output_snr", "formation")]
    for length in sorted(set(records.lengths)):
        lines += [f"### {LENGTH_NAMES[length]}", "", *over_training(records, found["lengths"][str(length)]), ""]
    lines += ["## After the last step, seed by seed", "", *last_step(records), ""]
    lines += ["## Lambda and the branches", "", "![lambda](lambda.svg)", "", *lambda_text(records), ""]
    lines += ["After the last step:", "", *lambda_table(records), ""]
    return [*lines, *LIMITS]


def findings(records: Records, found: dict[str, Any]) -> list[str]:
    last = records.steps[-1]
    lines = []
    for length in sorted(set(records.lengths)):
        own, curves, where = found["lengths"][str(length)], measures(records, length), LENGTH_NAMES[length]
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
    head = " | ".join(f"{name}: {FIRST} | {SECOND} | difference" for name in names)
    lines = [f"| step | {head} |", "| --- |" + " --- |" * 3 * len(names)]
    for step in (step for step in SHOWN_STEPS if step in records.steps):
        at = records.steps.index(step)
        cells = [f"{step:,}"]
        for name in names:
            values = np.array(own["runs"][name])
            cells += [f"{values[rows[model], at].mean():.2f}" for model in (FIRST, SECOND)]
            cells.append(own["difference"][name][at].text(2, signed=True))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Where both have come to the same bits per byte of The Pile, accuracy (mean over seeds):", ""]
    lines += [f"| bits per byte | {FIRST} | {SECOND} | difference |", "| --- | --- | --- | --- |"]
    for bits, by_model in own["at_bits"].items():
        first, second = (np.array(by_model[model]) for model in (FIRST, SECOND))
        if np.isfinite(first).all() and np.isfinite(second).all():
            difference = over_seeds((second - first).tolist()).text(2, signed=True)
            lines.append(f"| {bits} | {first.mean():.2f} | {second.mean():.2f} | {difference} |")
    return lines


def last_step(records: Records) -> list[str]:
    at = len(records.steps) - 1
    curves = {length: measures(records, length) for length in sorted(set(records.lengths))}
    names = [(length, name) for length in curves for name in ("accuracy", "output SNR", "inner SNR", *STAGES)]
    lines = ["| model | seed | " + " | ".join(f"{LENGTH_NAMES[n]} {LABELS[name]}" for n, name in names) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(names))
    for model in (FIRST, SECOND):
        for row in rows_of(records, model, with_shipped=True):
            cells = [f"{curves[length][name][row, at]:.2f}" for length, name in names]
            lines.append(f"| {model} | {records.runs[row][1]} | {' | '.join(cells)} |")
    return lines


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
    lines = ["| block | " + " | ".join(f"seed {records.runs[row][1]}: lambda | cosine" for row in rows) + " |"]
    lines.append("| --- |" + " --- |" * 2 * len(rows))
    for block in range(records.lambda_.shape[-1]):
        cells = [(records.lambda_[row, at, block], records.branch_cosine[row, at, block]) for row in rows]
        lines.append(f"| {block} | " + " | ".join(f"{lam:.2f} | {cosine:+.2f}" for lam, cosine in cells) + " |")
    return lines


def seeds_of(records: Records) -> Sequence[int]:
    return [records.runs[row][1] for row in trained_rows(records)[SECOND]]


LABELS = {
    "accuracy": "accuracy",
    "output SNR": "SNR at the output",
    "inner SNR": "SNR over the inner stages",
    "on top": "stage: on top",
    **{f"{db} dB": f"stage: {db} dB" for db in THRESHOLDS_DB},
}
HEAD = [
    "# How does retrieval form during training?",
    "",
    "The demo pair is one training seed of each model. Four more pairs were trained by the same recipes on the same",
    "rows, seed by seed, and read along the way: at eighteen steps, what the logit lens says at every stage about",
    "the same held-out bAbI prompts. A claim about the architecture has to hold over seeds; one about the demo pair",
    "holds for its weights.",
    "",
    "## Finding",
    "",
    "Differences are the differential model less the plain one, with a t interval over seeds (seed 0 is the bundled",
    "pair, which was read after its last step alone).",
    "",
]
HOW = [
    "## How it was measured",
    "",
    "Per task 60 prompts of facts alone (0k) and 30 hidden in held-out novels (1k), the same for every run and step.",
    "SNR is 10 log10 of the answer's probability over the mean of the other labels', through the logit lens, at",
    "every stage: the embedding (0), after each block, the output (12). The formation stage is the first from which",
    "SNR stays above 3, 7 or 10 dB, or from which the answer stays the most probable label, to the output; 13 where",
    "it is not even so at the output. Medians within a task, then the mean over tasks; accuracy and SNR are means",
    "over prompts, then tasks. Inner stages are all but the embedding and the output. Bits per byte are of the whole",
    "held-out streams, in rows of 1,024 tokens. Cosine: of the two branches' outputs at a prompt's last token, mean",
    "over prompts. Where a level is passed between two readings, the place is on the straight line between them.",
    "",
    "    python -m diffmamba_interp.train_lm --recipe recipes/demo_mamba2.toml --seed 1     and so on, eight runs",
    "    python analyses/training/run.py --runs RUN ...",
    "",
    "`records.npz.xz` holds every prompt's SNR in whole dB and whether the answer is on top, by run, step and stage",
    "(`records.py` reads it); `results.json` the curves; each run's results and thinned log are in",
    "`analyses/retrieval/training`. This page is written by `report.py` from the records.",
    "",
]
LIMITS = [
    "## Limits",
    "",
    "- Five seeds of models of 4.1 million parameters: an interval over so few is wide, and other sizes are unseen.",
    "- The logit lens: where a block writes in another basis than the output's, a stage looks later than it is.",
    "- SNR is not calibrated: a model that is more certain has more of it, right or wrong.",
]


if __name__ == "__main__":
    write()
