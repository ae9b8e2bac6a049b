"""README.md and figures of the cancellation analysis, written from its results alone.

python analyses/cancellation/report.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyses.cancellation.summary import ALL_TASKS
from diffmamba_interp.analysis.results import estimate_from, read_results
from diffmamba_interp.drawing.colours import SPANS
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Point
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.allocation import head_map_drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.statistics import MIN_SAMPLES

HERE = Path(__file__).parent
TITLES = {
    "paper": "Held-out bAbI stories in held-out novels",
    "builtin": "Generated stories in generated text",
}
CLAIMS = {
    "removed_noise": "The subtraction shrinks noise (removed share of filler and distractors above 0)",
    "removed_noise_less_needle": "It removes more of the noise than of the needle (removed shares, difference)",
    "cancelled_less_chance_noise": "The branches cancel on noise more than independent signs would",
    "cancelled_less_chance_needle": "They cancel on the needle more than independent signs would",
    "cancelled_noise_less_needle": "They cancel more on noise than on the needle (cancelled shares, difference)",
}
VERDICTS = {1: "yes", -1: "no, the opposite", 0: "undecided"}
DIRECTIONS = {"answer": "the answer's logit", "contrast": "the answer's logit less the other labels' mean"}
CURVES = (
    ("removed share of minuend", "removed", (("noise", "removed_noise"), ("needle", "removed_needle"))),
    (
        "cancelled share of both branches",
        "cancelled",
        (
            ("noise", "cancelled_noise"),
            ("needle", "cancelled_needle"),
            ("noise, by chance", "chance_noise"),
            ("needle, by chance", "chance_needle"),
        ),
    ),
    ("subtrahend's part of what both write", "part", (("noise", "part_noise"), ("needle", "part_needle"))),
)
BY_CHANCE = {f"{name}, by chance": replace(SPANS[name], dash="dot", symbol="x") for name in ("noise", "needle")}

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
    for axis, file, named in CURVES:
        panels = [
            Curves(
                title=f"{length_name(line['length'])}, all tasks",
                ticks=[str(block) for block in range(len(line["cosine"]))],
                points={name: [point(one) for one in line[measure]] for name, measure in named},
            )
            for line in results["blocks"]
        ]
        # A block that writes next to nothing has removed shares without bound; they would flatten all others.
        limits = (-3.0, 1.0) if file == "removed" else None
        drawing = curves_drawing(panels, title=title, x_axis="block", y_axis=axis, y_limits=limits, styles=BY_CHANCE)
        write_text(folder / f"{file}.svg", to_svg(drawing))
    longest = results["heads"][-1]
    values = [
        [estimate[0] if counts else float("nan") for estimate, counts in zip(row, kept, strict=True)]
        for row, kept in zip(longest["removed_noise"], longest["counts"], strict=True)
    ]
    note = "share of the minuend head's noise that its namesake removes; heads left empty write next to nothing"
    heading = f"{title}, {length_name(longest['length'])}: by head"
    heads = head_map_drawing(values, title=heading, note=note, what="removed")
    write_text(folder / "heads.svg", to_svg(heads))


def point(values: Sequence[float]) -> Point:
    estimate = estimate_from(values)
    return estimate.value, estimate.low, estimate.high


def finding(name: str, results: dict[str, Any]) -> list[str]:
    cells = [cell for cell in results["cells"] if cell["task"] == ALL_TASKS]
    lines = [f"{TITLES[name]}: {verdict([cell for cell in cells if cell['direction'] == 'answer'])}", ""]
    lines += [head_line(line) for line in results["heads"]]
    for direction, words in DIRECTIONS.items():
        own = [cell for cell in cells if cell["direction"] == direction]
        ticks = [f"{length_name(cell['length'])} (n {cell['n']})" for cell in own]
        lines += ["", f"Contributions to {words}, all blocks and tasks together:", ""]
        lines += [f"| claim | {' | '.join(ticks)} |", "| --- " * (len(own) + 1) + "|"]
        for measure, claim in CLAIMS.items():
            lines.append(f"| {claim} | {' | '.join(judged(cell, measure) for cell in own)} |")
        for measure, words_ in (("part_needle", "the needle"), ("part_noise", "noise")):
            shares = " | ".join(estimate_from(cell[measure]).text() for cell in own)
            lines.append(f"| The subtrahend's part of what both branches write from {words_} | {shares} |")
    return [*lines, ""]


def verdict(cells: Sequence[Cell]) -> str:
    """In words, whether the subtraction is noise cancelling: it shrinks noise, and noise more than the needle."""
    shrinks, selective, cancels = (
        {estimate_from(cell[measure]).sign(cell["n"]) for cell in cells}
        for measure in ("removed_noise", "removed_noise_less_needle", "cancelled_less_chance_noise")
    )
    if shrinks == selective == {1}:
        return "**the subtraction cancels noise**, at every length, and spares the needle in comparison."
    if shrinks == {-1} and 1 not in cancels:
        return (
            "**the subtraction does not cancel noise**: at every length the difference writes more of it than the "
            "minuend alone, for the branches read different things or add up, no less than parts with independent "
            "signs would."
        )
    if 1 not in shrinks and 1 not in cancels:
        return (
            "**the subtraction is not seen to cancel noise** at any length: token by token, the branches read "
            "different things or add up, no less than parts with independent signs would."
        )
    if shrinks == {1}:
        return (
            "**the subtraction shrinks noise**, at every length, but not shown to be more than it shrinks the needle."
        )
    return "**mixed**: whether the subtraction shrinks noise depends on the measure and the length; see the table."


def judged(cell: Cell, measure: str) -> str:
    estimate = estimate_from(cell[measure])
    return f"{VERDICTS[estimate.sign(cell['n'])]}: {estimate.text(signed=True)}"


def head_line(line: dict[str, Any]) -> str:
    kept = [
        (estimate_from(own), estimate_from(namesake))
        for rows in zip(line["removed_noise"], line["namesake_less_strangers"], line["counts"], strict=True)
        for own, namesake, counts in zip(*rows, strict=True)
        if counts
    ]
    removing, better, worse = (
        sum(part[place].sign(line["n"]) == sign for part in kept) for place, sign in ((0, 1), (1, 1), (1, -1))
    )
    return (
        f"- {length_name(line['length'])}, n = {line['n']}: of {len(kept)} heads that write enough noise to count, "
        f"{removing} remove some of it (interval above 0; about {0.025 * len(kept):.0f} would by luck). With their "
        f"namesake {better} do better than with other partners, {worse} worse."
    )


def section(name: str, results: dict[str, Any]) -> list[str]:
    made = results["provenance"]
    longest = results["blocks"][-1]
    measures = ("removed_noise", "removed_needle", "cancelled_noise", "chance_noise", "part_needle", "part_noise")
    rows = [
        f"| {block} | {results['lambda'][block]:.3f} | "
        + " | ".join(estimate_from(longest[measure][block]).text(2, signed=True) for measure in measures)
        + f" | {estimate_from(longest['snr_db_gained'][block]).text(1, signed=True)} "
        f"| {longest['cosine'][block]:+.2f} |"
        for block in range(len(results["lambda"]))
    ]
    return [
        f"## {TITLES[name]} (recipe `{name}`)",
        "",
        *(
            line
            for figure in ("removed", "cancelled", "part", "heads")
            for line in (f"![{figure}]({name}/{figure}.svg)", "")
        ),
        f"By block at {length_name(longest['length'])}, all tasks, n = {longest['n']}, to the answer's logit:",
        "",
        "| block | λ | removed of noise | of needle | cancelled of noise | by chance | subtrahend's part of needle "
        "| of noise | SNR gained, dB | cosine |",
        "| --- " * 10 + "|",
        *rows,
        "",
        f"Seed {made['seed']}, on {made['device']}, torch {made['versions']['torch']}. Weights: "
        + ", ".join(f"{model} `{digest}`" for model, digest in made["models"].items())
        + ".",
        "",
    ]


HEAD = [
    "# What does the subtrahend take away?",
    "",
    "A differential block writes the difference of two branches. If the subtrahend cancels noise, as the design hopes,",
    "the difference must write less from filler and distractors than the minuend alone, and lose less of the needle.",
    "Asked of the bundled Diff-Mamba-2; `analyses/implicit_attention` asks it step by step, with few prompts.",
    "",
    "## Finding",
    "",
]
HOW = [
    "## How it was measured",
    "",
    "K1 and λ K2 are what minuend and subtrahend add from each source token to a logit at the last prompt position,",
    "exact with gates, norm scales and λ frozen. The needle is the facts that the answer follows from; noise is the",
    "other facts and the filler. Over the tokens of each:",
    "",
    "- removed share `1 - sum |K1 - λ K2| / sum |K1|`: 1 if all is gone, negative if the subtrahend added. It takes",
    "  the minuend for the reader; where the subtrahend is the one that reads, it says little.",
    "- cancelled share `1 - sum |K1 - λ K2| / sum (|K1| + |λ K2|)`: takes no side; beside it, what independent signs",
    "  would cancel (`by chance`).",
    "- the subtrahend's part `sum |λ K2| / sum (|K1| + |λ K2|)`.",
    "",
    "Sizes are summed over prompts before the ratio is taken. Intervals are 95 % percentile bootstraps over prompts;",
    f"a side is taken where the interval of at least {MIN_SAMPLES} prompts excludes zero, one in twenty by luck. The",
    "branches' heads are paired by index, which no weight makes a pair: so each namesake is set against the mean over",
    "the other partners. A head counts if it writes at least a quarter of what the mean head writes from the noise.",
    "SNR gained is the needle's signal-to-noise ratio per token in the difference less that in the minuend. Shares are",
    "drawn from -3 upward; a block that writes next to nothing can lie far below.",
    "",
    "    python analyses/cancellation/run.py --recipe builtin",
    "    python analyses/cancellation/run.py --recipe paper --data FOLDER --device cuda",
    "",
    "`records.parquet` holds every prompt's sizes over all blocks (logits); a prompt is known by task, length and",
    "story, as in `analyses/retrieval`. `results.json` has blocks and heads too. This page is written by `report.py`.",
    "",
]
LIMITS = [
    "## Limits",
    "",
    "- One training seed: the intervals hold for these weights.",
    "- The model was trained on contexts of at most 1,024 tokens.",
    "- Contributions account for one forward pass with everything else frozen; what the model would do without its",
    "  subtrahend is a question for an intervention.",
    "- What an early block writes for later blocks to use is credited to the later blocks.",
]


if __name__ == "__main__":
    write()
