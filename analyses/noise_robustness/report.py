"""README.md and figures of the noise analysis, written from its results alone.

python analyses/noise_robustness/report.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.noise_robustness.summary import KINDS, MODELS
from diffmamba_interp.analysis_conditions import ALL, CLEAN, MEASURES
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
NOISES = {
    "gaussian": ("Gaussian noise in the residual stream", "dB of the stream over the noise, at every block"),
    "tokens": ("random tokens among the filler", "share of the filler's tokens that is random"),
}
NAMES = {"right": "accuracy", "snr_db": "SNR"}
DECIMALS = {"right": 3, "share": 3, "log_prob": 2, "snr_db": 1}

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
    write_text(out / "README.md", "\n".join([*HEAD, *findings, *HOW, *sections, *LIMITS]) + "\n")


def write_figures(folder: Path, results: dict[str, Any], title: str) -> None:
    for kind, (noise, axis) in NOISES.items():
        for measure, name in MEASURES.items():
            panels = [dose_panel(cell, kind, measure) for cell in of_all_tasks(results) if cell[kind]]
            if panels:
                drawing = curves_drawing(panels, title=f"{title}: {noise}", x_axis=axis, y_axis=name)
                write_text(folder / f"{kind}_{measure}.svg", to_svg(drawing))


def dose_panel(cell: Cell, kind: str, measure: str) -> Curves:
    levels = [cell[CLEAN], *cell[kind]]
    return Curves(
        title=f"{length_name(cell['length'])}, n = {cell['n']}",
        ticks=["none", *(f"{level['dose']:g}" for level in cell[kind])],
        points={model: [point(level[model][measure]) for level in levels] for model in MODELS},
    )


def finding(name: str, results: dict[str, Any]) -> list[str]:
    cells = of_all_tasks(results)
    lines = [f"{TITLES[name]}, all tasks together: {verdict(cells)}", ""]
    lines += [
        f"- {count_line(cell, kind, noise)}" for kind, (noise, _) in NOISES.items() for cell in cells if cell[kind]
    ]
    for kind, (noise, axis) in NOISES.items():
        own = [cell for cell in cells if cell[kind]]
        if own:
            lines += ["", f"{noise[0].upper()}{noise[1:]} ({axis}):", "", *table(own, kind)]
    return [*lines, ""]


def table(cells: Sequence[Cell], kind: str) -> list[str]:
    heads = [f"{measure}, {model}" for measure in ("accuracy", "SNR (dB)") for model in MODELS]
    lines = [
        f"| length | n | noise | {' | '.join(heads)} | Diff-Mamba-2's loss less Mamba-2's: accuracy | p | SNR, dB | p |"
    ]
    lines.append("| --- " * (7 + len(heads)) + "|")
    for cell in cells:
        for level in [cell[CLEAN], *cell[kind]]:
            dose = "none" if "loss" not in level else f"{level['dose']:g}"
            values = [text(level[model], measure) for measure in NAMES for model in MODELS]
            losses = ["" for _ in range(4)]
            if "loss" in level:
                losses = [
                    part
                    for measure in NAMES
                    for part in (text(level["less_loss"], measure, signed=True), f"{level['less_loss_p'][measure]:.2g}")
                ]
            start = f"| {length_name(cell['length'])} | {cell['n']} | {dose} |"
            lines.append(f"{start} {' | '.join(values)} | {' | '.join(losses)} |")
    return lines


def verdict(cells: Sequence[Cell]) -> str:
    """In words, which model bears noise better, by what it loses from its own clean answers."""
    parts = []
    for kind, (noise, _) in NOISES.items():
        for measure, name in NAMES.items():
            signs = [sign_of(level, measure, cell["n"]) for cell in cells for level in cell[kind]]
            if signs:
                parts.append(f"under {noise}, {winner(signs, name)}")
    return "; ".join(parts) + "."


def winner(signs: Sequence[int], name: str) -> str:
    if {1, -1} <= set(signs):
        return f"it is **mixed**, by level or length, which model loses less {name}"
    if set(signs) == {0}:
        return f"it is **undecided** at every level which model loses less {name}"
    model = "diff-mamba2" if 1 in signs else "mamba2"
    n_told = len(signs) - signs.count(0)
    rest = "" if n_told == len(signs) else ", undecided at the others"
    seldom = "" if 2 * n_told >= len(signs) else "where they can be told apart, "
    return f"{seldom}**`{model}` loses less** {name} (at {n_told} of {len(signs)} levels{rest})"


def count_line(cell: Cell, kind: str, noise: str) -> str:
    """At how many levels each model loses less, and is better."""
    levels, n = cell[kind], cell["n"]
    parts = []
    for measure, name in NAMES.items():
        loses = [sign_of(level, measure, n) for level in levels]
        better = [estimate_from(level["difference"][measure]).sign(n) for level in [cell[CLEAN], *levels]]
        parts.append(
            f"{name}: `diff-mamba2` loses less at {loses.count(1)}, `mamba2` at {loses.count(-1)} of {len(levels)} "
            "levels; "
            f"`diff-mamba2` stands higher at {better.count(1)}, `mamba2` at {better.count(-1)} of {len(better)}, none "
            f"({text(cell[CLEAN]['difference'], measure, signed=True)}) included"
        )
    return f"{noise[0].upper()}{noise[1:]}, {length_name(cell['length'])}, n = {n}. {'. '.join(parts)}."


def section(name: str, results: dict[str, Any]) -> list[str]:
    made = results["provenance"]
    cells = of_all_tasks(results)
    drawn = [f"{kind}_{measure}" for kind in KINDS for measure in MEASURES if any(cell[kind] for cell in cells)]
    weights = ", ".join(f"{model} `{digest}`" for model, digest in made["models"].items())
    lenses = ", ".join(f"{model} `{digest}`" for model, digest in made["lenses"].items())
    return [
        f"## {TITLES[name]} (recipe `{name}`)",
        "",
        *(line for figure in drawn for line in (f"![{figure}]({name}/{figure}.svg)", "")),
        *task_table(results),
        *lens_table(cells),
        f"Seed {made['seed']}, on {made['device']}, torch {made['versions']['torch']}. Weights: {weights}. "
        + (f"Tuned lenses: {lenses}." if lenses else "Read with the logit lens."),
        "",
    ]


def task_table(results: dict[str, Any]) -> list[str]:
    lines = ["Task by task, accuracy and what each model loses of it:", ""]
    lines.append("| task | length | n | noise | mamba2 | diff-mamba2 | loss, mamba2 | loss, diff-mamba2 | loss less |")
    lines.append("| --- " * 9 + "|")
    for cell in results["cells"]:
        start = f"| {cell['task']} | {length_name(cell['length'])} | {cell['n']} |"
        for kind in KINDS:
            for level in cell[kind]:
                values = [text(level[model], "right") for model in MODELS]
                losses = [text(level["loss"][model], "right", signed=True) for model in MODELS]
                less = text(level["less_loss"], "right", signed=True)
                lines.append(f"{start} {kind} {level['dose']:g} | {' | '.join([*values, *losses, less])} |")
    return [*lines, ""]


def lens_table(cells: Sequence[Cell]) -> list[str]:
    names = [name for name in cells[0][CLEAN][MODELS[0]] if name.startswith("snr_db_")]
    if not names:
        return []
    heads = " | ".join(name.removeprefix("snr_db_") for name in names)
    lines = ["SNR (dB) as the lens reads it on the way, all tasks:", ""]
    lines += [f"| length | noise | model | entering block {heads} | output |", "| --- " * (4 + len(names)) + "|"]
    for cell in cells:
        levels = {f"{kind} {one['dose']:g}": one for kind in KINDS for one in cell[kind]}
        for noise, level in {CLEAN: cell[CLEAN], **levels}.items():
            for model in MODELS:
                parts = [estimate_from(level[model][name]).text(1) for name in (*names, "snr_db")]
                lines.append(f"| {length_name(cell['length'])} | {noise} | {model} | {' | '.join(parts)} |")
    return [*lines, ""]


def of_all_tasks(results: dict[str, Any]) -> list[Cell]:
    return [cell for cell in results["cells"] if cell["task"] == ALL]


def sign_of(level: dict[str, Any], measure: str, n: int) -> int:
    """1 if the differential model loses less."""
    return estimate_from(level["less_loss"][measure]).sign(n)


def text(values: dict[str, Any], measure: str, *, signed: bool = False) -> str:
    return estimate_from(values[measure]).text(DECIMALS[measure], signed=signed)


def point(values: Sequence[float]) -> Point:
    estimate = estimate_from(values)
    return estimate.value, estimate.low, estimate.high


HEAD = [
    "# Which model bears noise better?",
    "",
    "A model that takes noise away should bear more of it, and taking noise away is what Diff-Mamba (arXiv 2507.06204)",
    "is for. Both bundled models answer the same prompts under rising noise of two kinds: Gaussian noise, added to the",
    "residual stream where it enters every block, and random tokens in place of the prompts' filler.",
    "",
    "## Finding",
    "",
]
HOW = [
    "## How it was measured",
    "",
    "Gaussian noise has, at every position and block, the power of the stream there divided by the given ratio.",
    "Random tokens are drawn uniformly, never a label's, the same for both models; facts and question stay. At the",
    "last prompt position: accuracy over the task's labels; `snr_db = 10 log10(p(answer) / mean p(distractor))` with",
    "the other labels as distractors; the answer's share among the labels; its log-probability (nats).",
    "",
    "A model's loss is its change from its own clean answers, prompt by prompt; `loss less` is Diff-Mamba-2's less",
    "Mamba-2's, so above zero Diff-Mamba-2 bears the noise better. Means over prompts; intervals are 95 % percentile",
    f"bootstraps over prompts; a side is taken where the interval of at least {MIN_SAMPLES} prompts excludes zero,",
    "one in twenty by luck. p: paired sign-flip tests, two-sided, not corrected for the number of comparisons; of",
    "2,000 flips, so that none is below 0.0005.",
    "All tasks: those of the recipe at that length, prompts pooled; longer prompts are asked for fewer tasks.",
    "",
    "    python analyses/noise_robustness/run.py --recipe builtin",
    "    python analyses/noise_robustness/run.py --recipe paper --data FOLDER --device cuda",
    "",
    "`records.parquet` holds every prompt at every level; a prompt is known by task, length and story, as in",
    "`analyses/retrieval`. This page is written by `report.py` from `results.json`, and that by `summary.py` from the",
    "records.",
    "",
]
LIMITS = [
    "## Limits",
    "",
    "- One training seed of each model, and one draw of the noise: the intervals are over prompts.",
    "- A model that stands higher has more to lose, and at chance there is nothing left: read losses by the values.",
    "- Noise is measured against the stream's power, of which the models may use different parts.",
]


if __name__ == "__main__":
    write()
