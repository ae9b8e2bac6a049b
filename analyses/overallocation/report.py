"""README.md and figures of the over-allocation analysis, written from its results alone.

python analyses/overallocation/report.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.overallocation.summary import ALL_TASKS, COMPARED, PICTURES
from diffmamba_interp.analysis.results import estimate_from, read_results
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Point
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.allocation import ShareBar, share_bars_drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.implicit_attention.allocation import CLASSES
from diffmamba_interp.statistics import MIN_SAMPLES, Estimate

HERE = Path(__file__).parent
TITLES = {
    "paper": "Held-out bAbI stories in held-out novels",
    "builtin": "Generated stories in generated text",
}
SHOWN = {
    "plain": "Mamba-2",
    "difference": "Diff-Mamba-2",
    "minuend": "minuend",
    "lambda_subtrahend": "λ · subtrahend",
}
DRAWN = {name: {"plain": "mamba2", "difference": "diff-mamba2"}.get(name, name) for name in PICTURES}

Cell = dict[str, Any]


def write(out: Path = HERE) -> None:
    """Figures beside each results.json, and README.md over those that there are."""
    found = {
        name: read_results(out / name / "results.json") for name in TITLES if (out / name / "results.json").exists()
    }
    for name, results in found.items():
        write_figures(out / name, results, TITLES[name])
    findings = [line for name, results in found.items() for line in finding(name, results["cells"])]
    sections = [line for name, results in found.items() for line in section(name, results)]
    write_text(out / "README.md", "\n".join([*HEAD, *findings, *HOW, *sections, *LIMITS]) + "\n")


def write_figures(folder: Path, results: dict[str, Any], title: str) -> None:
    cells = [cell for cell in results["cells"] if cell["task"] == ALL_TASKS]
    bars = [
        ShareBar(
            group=length_name(cell["length"]),
            name=DRAWN[picture],
            shares={name: cell["shares"][picture][name][0] for name in CLASSES},
        )
        for cell in cells
        for picture in PICTURES
    ]
    shares = share_bars_drawing(bars, title=title, x_axis="context length, tokens; all tasks")
    write_text(folder / "shares.svg", to_svg(shares))
    tasks = list(dict.fromkeys(cell["task"] for cell in results["cells"]))
    panels = [panel([cell for cell in results["cells"] if cell["task"] == task], task) for task in tasks]
    noise = curves_drawing(
        panels,
        title=title,
        x_axis="context length, tokens",
        y_axis="share on filler and distractors",
        y_limits=(0.0, 1.0),
    )
    write_text(folder / "noise.svg", to_svg(noise))
    for measure, axis in (("noise", "share on filler and distractors, %"), ("snr_db", "needle over the rest, dB")):
        by_block = [block_panel(results["blocks"], length, measure) for length in sorted({c["length"] for c in cells})]
        drawing = curves_drawing(by_block, title=title, x_axis="block", y_axis=axis)
        write_text(folder / f"{measure}_by_block.svg", to_svg(drawing))


def panel(cells: Sequence[Cell], task: str) -> Curves:
    return Curves(
        title=f"{task} tasks" if task == ALL_TASKS else task,
        ticks=[length_name(c["length"]) for c in cells],
        points={DRAWN[name]: [point(cell["shares"][name]["noise"]) for cell in cells] for name in PICTURES},
    )


def block_panel(blocks: Sequence[dict[str, Any]], length: int, measure: str) -> Curves:
    own = {line["picture"]: line[measure] for line in blocks if line["length"] == length}
    points = {DRAWN[name]: [point(one) for one in own[name]] for name in PICTURES}
    ticks = [str(block) for block in range(len(own["plain"]))]
    return Curves(title=f"{length_name(length)}, all tasks", ticks=ticks, points=points)


def point(values: Sequence[float]) -> Point:
    estimate = estimate_from(values)
    return estimate.value, estimate.low, estimate.high


def finding(name: str, cells: Sequence[Cell]) -> list[str]:
    whole = [cell for cell in cells if cell["task"] == ALL_TASKS]
    single = [cell for cell in cells if cell["task"] != ALL_TASKS and cell["n"] >= MIN_SAMPLES]
    less, more = (sum(sign_of(cell, "difference - plain", "noise") == sign for cell in single) for sign in (-1, 1))
    return [
        f"{TITLES[name]}, all tasks together: {verdict(whole)}",
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
        *table(whole),
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


def table(cells: Sequence[Cell]) -> list[str]:
    lines = [
        f"| length | n | {' | '.join(f'noise, {SHOWN[name]}' for name in PICTURES)} | Diff-Mamba-2 less Mamba-2 "
        "| p | difference less minuend | p | SNR, dB: Mamba-2 | Diff-Mamba-2 |",
        "| --- " * (len(PICTURES) + 8) + "|",
    ]
    for cell in cells:
        shares = [estimate_from(cell["shares"][name]["noise"]).text() for name in PICTURES]
        differences = []
        for name in (f"{a} - {b}" for a, b in COMPARED):
            p = cell["p_values"][name]["noise"]
            differences.append(f"{difference(cell, name, 'noise').text(signed=True)} | {p:.2g}")
        snr = [estimate_from(cell["shares"][name]["snr_db"]).text(1, signed=True) for name in ("plain", "difference")]
        lines.append(f"| {length_name(cell['length'])} | {cell['n']} | {' | '.join([*shares, *differences, *snr])} |")
    return lines


def lengths(cells: Sequence[Cell], measure: str, sign: int, which: str = "difference - plain") -> str:
    """The lengths at which the paired difference has this sign beyond its interval."""
    return listed([length_name(cell["length"]) for cell in cells if sign_of(cell, which, measure) == sign])


def sign_of(cell: Cell, which: str, measure: str) -> int:
    return difference(cell, which, measure).sign(cell["n"])


def difference(cell: Cell, which: str, measure: str) -> Estimate:
    return estimate_from(cell["differences"][which][measure])


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no length"


def section(name: str, results: dict[str, Any]) -> list[str]:
    made = results["provenance"]
    rows = [
        f"| {cell['task']} | {length_name(cell['length'])} | {cell['n']} | {SHOWN[picture]} | "
        + " | ".join(estimate_from(cell["shares"][picture][measure]).text() for measure in CLASSES)
        + f" | {estimate_from(cell['shares'][picture]['contrast_noise']).text()} |"
        for cell in results["cells"]
        if cell["task"] == ALL_TASKS
        for picture in PICTURES
    ]
    figures = ("shares", "noise", "noise_by_block", "snr_db_by_block")
    return [
        f"## {TITLES[name]} (recipe `{name}`)",
        "",
        *(line for figure in figures for line in (f"![{figure}]({name}/{figure}.svg)", "")),
        f"| task | length | n | what | {' | '.join(CLASSES)} | noise, answer less other labels |",
        "| --- " * (len(CLASSES) + 5) + "|",
        *rows,
        "",
        f"Seed {made['seed']}, on {made['device']}, torch {made['versions']['torch']}. Weights: "
        + ", ".join(f"{model} `{digest}`" for model, digest in made["models"].items())
        + ".",
        "",
    ]


HEAD = [
    "# Does the subtraction spare irrelevant context?",
    "",
    "The Diff-Mamba paper (arXiv 2507.06204) supposes that Mamba allocates too much of its reading to irrelevant",
    "context, and that the difference of two branches allocates less. This measures it on the bundled pair.",
    "",
    "## Finding",
    "",
]
HOW = [
    "## How it was measured",
    "",
    "What each source token adds to the answer's logit at the last prompt position, in each block, is known exactly",
    "with gates, norm scales and λ frozen (`implicit_attention`). Its sizes are summed over the tokens of the needle",
    "(the facts that the answer follows from), the question, the distractors (the other facts), the filler, and the",
    "rest (the prompt's frame and the last position itself), over all blocks, and divided by the sum over all tokens.",
    "Noise is distractors and filler together. `minuend` and `λ · subtrahend` are the two branches of Diff-Mamba-2,",
    "whose difference is what it really writes. `SNR` is the mean size on a needle token over that on any other token:",
    "unlike a share, it does not fall merely because there is more filler. At 0k the noise is distractors alone.",
    "",
    "Shares are means over prompts; intervals are 95 % percentile bootstraps over prompts; differences are paired by",
    "prompt. A side is taken where the interval of at least 10 prompts excludes zero; one in twenty would by luck",
    "alone. p: paired sign-flip test of 10,000 flips (none is below 0.0001), two-sided, not corrected for the number",
    "of comparisons. A lower noise share speaks of sizes, not of better answers: for those see `analyses/retrieval`.",
    "",
    "    python analyses/overallocation/run.py --recipe builtin",
    "    python analyses/overallocation/run.py --recipe paper --data FOLDER --device cuda",
    "",
    "`records.parquet` holds every prompt's shares over all blocks; `blocks.parquet`, for up to 100 prompts of a cell,",
    "every block's noise share (%) and SNR (dB) of what the models write. A prompt is known by task, length and story,",
    "as in `analyses/retrieval`. This page is written by `report.py` from `results.json`.",
    "",
]
LIMITS = [
    "## Limits",
    "",
    "- One training seed of each model: the intervals hold for these weights.",
    "- Both models were trained on contexts of at most 1,024 tokens; 2k and beyond ask for more than they saw.",
    "- A noise share is of all that is written, the prompt's frame and last position (`other`) included. It can fall",
    "  together with the needle's share: read it beside that one and the SNR, which need not name the same model.",
    "- Contributions are direct: what an early block writes for later blocks to use is credited to the later blocks.",
    "- A contribution is an account of one forward pass and not a cause. The answer's first token stands for it.",
]


if __name__ == "__main__":
    write()
