"""README.md and figures of the lambda analysis, written from its results alone.

python analyses/lambda_causality/report.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffmamba_interp.analysis_conditions import ALL, MEASURES
from diffmamba_interp.analysis_results import estimate_from, read_results
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Point
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.statistics import MIN_SAMPLES

HERE = Path(__file__).parent
TITLES = {
    "paper": "Held-out bAbI stories in held-out novels",
    "builtin": "Generated stories in generated text",
}
WORDS = {1: "raised", -1: "lowered", 0: "undecided"}
NAMES = {"right": "accuracy", "snr_db": "SNR"}
DECIMALS = {"right": 3, "share": 3, "log_prob": 2, "snr_db": 1}
ALONE = 100.0
"""From this factor on the minuend counts for nothing beside the subtrahend."""
FACTORS = {0.0: "0 (minuend alone)", 1000.0: "∞ (subtrahend alone)"}

Cell = dict[str, Any]


def write(out: Path = HERE) -> None:
    """Figures beside each results.json, and README.md over those that there are."""
    found = {
        name: read_results(out / name / "results.json") for name in TITLES if (out / name / "results.json").exists()
    }
    for name, results in found.items():
        write_figures(out / name, results, TITLES[name])
    findings = [line for name, results in found.items() for line in finding(name, results)]
    sections = [line for name, results in found.items() for line in section(name, results)]
    limits = limits_of(list(found.values()))
    write_text(out / "README.md", "\n".join([*HEAD, *findings, *HOW, *sections, *limits]) + "\n")


def write_figures(folder: Path, results: dict[str, Any], title: str) -> None:
    for measure, axis in MEASURES.items():
        drawing = curves_drawing(
            [dose_panel(cell, measure) for cell in of_all_tasks(results)],
            title=f"{title}: every λ scaled at once",
            x_axis="factor of every λ (1: as trained; ∞: the subtrahend alone)",
            y_axis=axis,
        )
        write_text(folder / f"{measure}.svg", to_svg(drawing))
    for measure, name in NAMES.items():
        drawing = curves_drawing(
            [block_panel(cell, measure) for cell in of_all_tasks(results)],
            title=f"{title}: one block's λ scaled",
            x_axis="block",
            y_axis=f"change of {MEASURES[measure]}",
        )
        write_text(folder / f"{name.lower()}_by_block.svg", to_svg(drawing))


def dose_panel(cell: Cell, measure: str) -> Curves:
    """All tasks together: the scaled model, and the plain one, which has no λ, as a level."""
    own = [*cell["all"], {"factor": 1.0, "value": cell["clean"]}]
    own.sort(key=lambda dose: dose["factor"])
    return Curves(
        title=f"{length_name(cell['length'])}, n = {cell['n']}",
        ticks=[short(dose["factor"]) for dose in own],
        points={
            "diff-mamba2": [point(dose["value"][measure]) for dose in own],
            "mamba2": [point(cell["plain"][measure])] * len(own),
        },
    )


def block_panel(cell: Cell, measure: str) -> Curves:
    factors = sorted({dose["factor"] for dose in cell["blocks"]})
    by_factor = {factor: [dose for dose in cell["blocks"] if dose["factor"] == factor] for factor in factors}
    return Curves(
        title=f"{length_name(cell['length'])}, n = {cell['n']}",
        ticks=[dose["where"] for dose in by_factor[factors[0]]],
        points={
            f"λ x {short(factor)}": [point(dose["change"][measure]) for dose in own]
            for factor, own in by_factor.items()
        },
    )


def finding(name: str, results: dict[str, Any]) -> list[str]:
    cells = of_all_tasks(results)
    lines = [f"{TITLES[name]}, all tasks together: {verdict(cells)}", ""]
    for cell in cells:
        lines.append(f"- {length_name(cell['length'])}, n = {cell['n']}: {block_line(cell)}")
    lines += [dose_line(cell) for cell in cells]
    lines += [filler_line(one) for one in results["with_filler"]]
    heads = "accuracy | SNR, dB | change of accuracy | change of SNR, dB | p: accuracy; SNR"
    lines += ["", f"| length | n | factor of λ | {heads} |", "| --- " * 8 + "|"]
    for cell in cells:
        start = f"| {length_name(cell['length'])} | {cell['n']} |"
        for dose in cell["all"]:
            p = "; ".join(f"{dose['p'][measure]:.2g}" for measure in NAMES)
            changed = [text(dose["change"], measure, signed=True) for measure in NAMES]
            values = [text(dose["value"], measure) for measure in NAMES]
            factor = FACTORS.get(dose["factor"], short(dose["factor"]))
            lines.append(f"{start} {factor} | {' | '.join([*values, *changed, p])} |")
        clean, plain = cell["clean"], cell["plain"]
        lines.append(f"{start} 1 (as trained) | {text(clean, 'right')} | {text(clean, 'snr_db')} | | | |")
        lines.append(f"{start} Mamba-2, as it is | {text(plain, 'right')} | {text(plain, 'snr_db')} | | | |")
    return [*lines, ""]


def verdict(cells: Sequence[Cell]) -> str:
    """In words, whether taking the subtrahend away lowers SNR and accuracy, and more than overdoing it does."""
    signs = {measure: {sign_at_zero(cell, measure) for cell in cells} for measure in NAMES}
    said = "; ".join(f"{name} {by_length(cells, measure)}" for measure, name in NAMES.items())
    if signs["snr_db"] == signs["right"] == {-1}:
        return f"**taking the subtrahend away (λ -> 0) lowers both SNR and accuracy**, at every length. {mirror(cells)}"
    if -1 not in signs["snr_db"] | signs["right"]:
        return f"**taking the subtrahend away (λ -> 0) is not seen to do harm** at any length ({said}). {mirror(cells)}"
    return f"**taking the subtrahend away (λ -> 0) does harm in part**: {said}. {mirror(cells)}"


def by_length(cells: Sequence[Cell], measure: str) -> str:
    return ", ".join(f"{WORDS[sign_at_zero(cell, measure)]} at {length_name(cell['length'])}" for cell in cells)


def mirror(cells: Sequence[Cell]) -> str:
    """Whether 2 λ, as far from training on the other side, does less harm."""
    own = [cell for cell in cells if "doubled_less_removed" in cell]
    if not own:
        return ""
    words = {1: "less harm", -1: "more harm", 0: "neither more nor less harm that could be told"}
    parts = []
    for measure, name in NAMES.items():
        signs = [estimate_from(cell["doubled_less_removed"][measure]).sign(cell["n"]) for cell in own]
        said = [f"{words[sign]} at {length_name(cell['length'])}" for sign, cell in zip(signs, own, strict=True)]
        parts.append(f"to {name} {', '.join(said)}")
    return f"The control, twice λ, as against λ = 0: {'; '.join(parts)}."


def filler_line(found: dict[str, Any]) -> str:
    """Whether the harm is greater where there is filler, and so more noise to restore."""
    words = {1: "less harm", -1: "more harm", 0: "no more or less harm that could be told"}
    parts = [
        f"{words[estimate_from(found['change'][measure]).sign(found['n'])]} to {name} "
        f"({text(found['change'], measure, signed=True)}, p {found['p'][measure]:.2g})"
        for measure, name in NAMES.items()
    ]
    return (
        f"- λ at 0, the same stories in filler ({length_name(found['length'])}) as against alone, n = {found['n']}: "
        f"{', '.join(parts)}."
    )


def dose_line(cell: Cell) -> str:
    """Whether the response to the dose is graded, and what the other branch does alone."""
    at = {dose["factor"]: dose for dose in cell["all"]}
    parts = []
    for measure, name in NAMES.items():
        some = [
            f"{factor:g}: {text(at[factor]['change'], measure, signed=True)}"
            for factor in (0.5, 0.25, 0.0)
            if factor in at
        ]
        parts.append(f"change of {name} at λ x {', '.join(some)}")
    line = f"- {length_name(cell['length'])}: {'; '.join(parts)}."
    alone = [dose for dose in cell["all"] if dose["factor"] >= ALONE]
    if alone:
        said = [f"{name} {text(alone[0]['value'], measure)}" for measure, name in NAMES.items()]
        left = [f"{name} {text(at[0.0]['value'], measure)}" for measure, name in NAMES.items()]
        line += f" The minuend alone has {' and '.join(left)}, the subtrahend alone {' and '.join(said)}."
    return line


def block_line(cell: Cell) -> str:
    """How many blocks alone matter, and which one most."""
    removed = [dose for dose in cell["blocks"] if dose["factor"] == 0]
    parts = []
    for measure, name in NAMES.items():
        found = [(estimate_from(dose["change"][measure]), dose["where"]) for dose in removed]
        signs = [one.sign(cell["n"]) for one, _ in found]
        lowest, where = min(found, key=lambda one: one[0].value)
        decimals = DECIMALS[measure]
        parts.append(
            f"{name} falls in {signs.count(-1)} and rises in {signs.count(1)} of {len(signs)} blocks (most in block "
            f"{where}: {lowest.text(decimals, signed=True)})"
        )
    return f"with one block's λ at 0, {'; '.join(parts)}."


def section(name: str, results: dict[str, Any]) -> list[str]:
    made = results["provenance"]
    figures = [*MEASURES, *(f"{one.lower()}_by_block" for one in NAMES.values())]
    weights = ", ".join(f"{model} `{digest}`" for model, digest in made["models"].items())
    lenses = ", ".join(f"{model} `{digest}`" for model, digest in made["lenses"].items())
    return [
        f"## {TITLES[name]} (recipe `{name}`)",
        "",
        *(line for figure in figures for line in (f"![{figure}]({name}/{figure}.svg)", "")),
        *task_table(results),
        *block_table(results),
        *lens_table(results),
        f"Seed {made['seed']}, on {made['device']}, torch {made['versions']['torch']}. Weights: {weights}. "
        + (f"Tuned lenses: {lenses}." if lenses else "Read with the logit lens."),
        "",
    ]


def task_table(results: dict[str, Any]) -> list[str]:
    lines = [
        "Task by task, every λ at 0:",
        "",
        "| task | length | n | accuracy as trained | change | SNR as trained, dB ",
    ]
    lines[-1] += "| change | label share, change | log p(answer), change |"
    lines.append("| --- " * 9 + "|")
    for cell in results["cells"]:
        removed, clean = at_zero(cell), cell["clean"]
        change = removed["change"]
        lines.append(
            f"| {cell['task']} | {length_name(cell['length'])} | {cell['n']} | {text(clean, 'right')} "
            f"| {text(change, 'right', signed=True)} | {text(clean, 'snr_db')} | {text(change, 'snr_db', signed=True)} "
            f"| {text(change, 'share', signed=True)} | {text(change, 'log_prob', signed=True)} |"
        )
    return [*lines, ""]


def block_table(results: dict[str, Any]) -> list[str]:
    cell = of_all_tasks(results)[-1]
    factors = sorted({dose["factor"] for dose in cell["blocks"]})
    heads = " | ".join(f"λ x {short(factor)}: accuracy | SNR, dB" for factor in factors)
    lines = [f"Change with one block's λ scaled, {length_name(cell['length'])}, all tasks, n = {cell['n']}:", ""]
    lines += [f"| block | λ | {heads} |", "| --- " * (2 + 2 * len(factors)) + "|"]
    for block, lambda_ in enumerate(results["lambda"]):
        own = {dose["factor"]: dose["change"] for dose in cell["blocks"] if dose["where"] == str(block)}
        parts = [text(own[factor], measure, signed=True) for factor in factors for measure in NAMES]
        lines.append(f"| {block} | {lambda_:.3f} | {' | '.join(parts)} |")
    return [*lines, ""]


def lens_table(results: dict[str, Any]) -> list[str]:
    lines = ["SNR (dB) as the lens reads it on the way, all tasks:", "", "| length | factor of λ | entering block "]
    cells = of_all_tasks(results)
    names = [name for name in cells[0]["clean"] if name.startswith("snr_db_")]
    if not names:
        return []
    lines[-1] += " | ".join(name.removeprefix("snr_db_") for name in names) + " | output |"
    lines.append("| --- " * (3 + len(names)) + "|")
    for cell in cells:
        rows = [("1", cell["clean"]), *((short(dose["factor"]), dose["value"]) for dose in cell["all"])]
        for factor, values in [*sorted(rows, key=lambda row: row[0]), ("Mamba-2", cell["plain"])]:
            parts = [estimate_from(values[name]).text(1) for name in (*names, "snr_db")]
            lines.append(f"| {length_name(cell['length'])} | {factor} | {' | '.join(parts)} |")
    return [*lines, ""]


def of_all_tasks(results: dict[str, Any]) -> list[Cell]:
    return [cell for cell in results["cells"] if cell["task"] == ALL]


def at_zero(cell: Cell) -> dict[str, Any]:
    return next(dose for dose in cell["all"] if dose["factor"] == 0)


def sign_at_zero(cell: Cell, measure: str) -> int:
    return estimate_from(at_zero(cell)["change"][measure]).sign(cell["n"])


def short(factor: float) -> str:
    """The factor; infinity where the minuend is drowned."""
    return "∞" if factor >= ALONE else f"{factor:g}"


def text(values: dict[str, Any], measure: str, *, signed: bool = False) -> str:
    return estimate_from(values[measure]).text(DECIMALS[measure], signed=signed)


def point(values: Sequence[float]) -> Point:
    estimate = estimate_from(values)
    return estimate.value, estimate.low, estimate.high


def limits_of(results: Sequence[dict[str, Any]]) -> list[str]:
    return [
        "## Limits",
        "",
        "- One training seed of each model: the intervals hold for these weights.",
        "- The weights were trained with their own λ, so any other is a surprise to every later block; that is what",
        "  twice λ is beside λ = 0 for. Neither is a model that was trained without the subtrahend: that is Mamba-2.",
        "- The sub-norm rescales what is left, so with λ = 0 a block does not write more, it writes something else.",
        "  For the same reason a great λ (1000 times, drawn as ∞) shows the subtrahend alone. Where that one reads the",
        "  answer by itself, harm at λ = 0 speaks of a lost reader, not of noise that came back.",
    ]


HEAD = [
    "# Does the subtraction cause the signal-to-noise ratio?",
    "",
    "Diff-Mamba (arXiv 2507.06204) supposes that its subtrahend takes noise away. If it does, restoring the noise",
    "(λ -> 0, the minuend alone) must lower the signal-to-noise ratio of the answer, and accuracy with it. The bundled",
    "Diff-Mamba-2 reads the same prompts with its λ scaled, in all blocks at once and in one block at a time.",
    "",
    "## Finding",
    "",
]
HOW = [
    "## How it was measured",
    "",
    "At the last prompt position: accuracy over the task's labels; `snr_db = 10 log10(p(answer) / mean p(distractor))`",
    "with the other labels as distractors; the answer's share among the labels; its log-probability (nats). Means over",
    "prompts; changes are paired by prompt, against the model as it is (factor 1). Intervals are 95 % percentile",
    f"bootstraps over prompts; a side is taken where the interval of at least {MIN_SAMPLES} prompts excludes zero,",
    "one in twenty by luck. p: paired sign-flip tests, two-sided, not corrected for the number of comparisons; of",
    "2,000 flips, so that none is below 0.0005. Twice λ is as far from training as λ = 0, on the other side.",
    "All tasks: those of the recipe at that length, prompts pooled; longer prompts are asked for fewer tasks.",
    "",
    "    python analyses/lambda_causality/run.py --recipe builtin",
    "    python analyses/lambda_causality/run.py --recipe paper --data FOLDER --device cuda",
    "",
    "`records.parquet` holds every prompt under every condition (one block's: `right` and `snr_db` alone); a prompt is",
    "known by task, length and story, as in `analyses/retrieval`. This page is written by `report.py` from",
    "`results.json`, and that by `summary.py` from the records.",
    "",
]


if __name__ == "__main__":
    write()
