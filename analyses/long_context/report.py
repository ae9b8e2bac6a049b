"""README.md and figures of the long-context analysis, written from its results alone.

python analyses/long_context/report.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.long_context.summary import FIRST, SECOND
from diffmamba_interp.analysis.results import estimate_from, read_results
from diffmamba_interp.drawing.panels import Point, minus
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.statistics import MIN_SAMPLES

HERE = Path(__file__).parent
TITLES = {"paper": "Held-out novels", "builtin": "Generated text"}
TRAINED = 1024


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
    curves, ticks = results["curves"], [position(end) for end in results["bounds"][1:]]

    def points(values: Sequence[Sequence[float]]) -> list[Point]:
        return [(one.value, one.low, one.high) for one in map(estimate_from, values)]

    def both(kind: str, heading: str) -> Curves:
        return Curves(title=heading, ticks=ticks, points={name: points(curves[kind][name]) for name in (FIRST, SECOND)})

    difference = {minus(SECOND, FIRST): points(curves["difference"])}
    figures = {
        "loss": [both("full", "loss given the whole past"), both("windowed", "loss with the past cut off")],
        "gain": [both("gain", "what the older past gains")],
        "difference": [Curves(title="difference of the losses", ticks=ticks, points=difference)],
    }
    for name, panels in figures.items():
        drawing = curves_drawing(panels, title=title, x_axis="position up to, tokens", y_axis="nats per token")
        write_text(folder / f"{name}.svg", to_svg(drawing))


def finding(name: str, results: dict[str, Any]) -> list[str]:
    curves, ends, n = results["curves"], results["bounds"][1:], results["n_pieces"]
    signs = [estimate_from(one).sign(n) for one in curves["difference"]]
    beyond = [sign for sign, end in zip(signs, ends, strict=True) if end > TRAINED]
    p_beyond = [p for p, end in zip(curves["p_values"], ends, strict=True) if end > TRAINED]
    tested = f" Sign-flip p beyond it: {min(p_beyond):.2g} to {max(p_beyond):.2g}." if p_beyond else ""
    lines = [
        f"{TITLES[name]} ({n} pieces of {results['bounds'][-1]:,} tokens from {results['n_sources']} sources): "
        f"{verdict(beyond)}{tested}",
        "",
        "- Lower loss, by the end of the bin of positions: "
        + listed(ends, signs, {-1: f"in `{SECOND}` at", 1: f"in `{FIRST}` at", 0: "undecided at"}),
    ]
    for model in (FIRST, SECOND):
        gains = [estimate_from(one).sign(n) for one in curves["gain"][model]]
        older = [(end, gain) for end, gain in zip(ends, gains, strict=True) if end > TRAINED]
        if older:
            words = {1: "helps at", -1: "harms at", 0: "undecided at"}
            lines.append(f"- `{model}`, past older than {TRAINED:,} tokens: {listed(*zip(*older, strict=True), words)}")
    return [*lines, "", *table(results), ""]


def verdict(beyond: Sequence[int]) -> str:
    if not beyond:
        return "nothing beyond the trained length was measured."
    if set(beyond) == {-1}:
        return f"**beyond the trained length `{SECOND}` has the lower loss**, in every bin."
    if set(beyond) == {1}:
        return f"**beyond the trained length `{FIRST}` has the lower loss**, in every bin."
    if set(beyond) == {0}:
        return "**undecided**, beyond the trained length the models' losses cannot be told apart at this n."
    return "**mixed**, which model has the lower loss beyond the trained length depends on the position."


def listed(ends: Sequence[int], signs: Sequence[int], words: Mapping[int, str]) -> str:
    """The bins of each sign after its words, without the signs that no bin has."""
    kept = {sign: [position(end) for end, one in zip(ends, signs, strict=True) if one == sign] for sign in words}
    return "; ".join(f"{words[sign]} {', '.join(own)}" for sign, own in kept.items() if own) + "."


def table(results: dict[str, Any]) -> list[str]:
    curves = results["curves"]
    lines = [
        f"| position | loss, {FIRST} | {SECOND} | {SECOND} less {FIRST} | p | older past gains, {FIRST} | {SECOND} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, (start, end) in enumerate(zip(results["bounds"], results["bounds"][1:], strict=False)):
        values = [estimate_from(curves["full"][model][number]).text() for model in (FIRST, SECOND)]
        difference = estimate_from(curves["difference"][number]).text(signed=True)
        gains = [estimate_from(curves["gain"][model][number]).text(signed=True) for model in (FIRST, SECOND)]
        if end <= TRAINED:
            gains = ["–", "–"]
        p = curves["p_values"][number]
        lines.append(f"| {start:,}–{end:,} | {' | '.join([*values, difference, f'{p:.3g}', *gains])} |")
    return lines


def position(end: int) -> str:
    return f"{end // 1024}k" if end % 1024 == 0 else str(end)


def section(name: str, results: dict[str, Any]) -> list[str]:
    made = results["provenance"]
    return [
        f"## {TITLES[name]} (recipe `{name}`)",
        "",
        *(line for figure in ("loss", "gain", "difference") for line in (f"![{figure}]({name}/{figure}.svg)", "")),
        f"Seed {made['seed']}, on {made['device']}, torch {made['versions']['torch']}. Weights: "
        + ", ".join(f"{model} `{digest}`" for model, digest in made["models"].items())
        + ".",
        "",
    ]


HEAD = [
    "# What happens to the loss far beyond the trained length?",
    "",
    "The question of Fig. 6 of the Diff-Mamba paper (arXiv 2507.06204), asked of the bundled pair, which was trained",
    f"on contexts of {TRAINED:,} tokens: loss by position in long text, and whether older context is of any use.",
    "",
    "## Finding",
    "",
]
HOW = [
    "## How it was measured",
    "",
    "Each model reads a piece of text from its first to its last token in chunks, carried by the recurrent state, so",
    "that every token is predicted from all tokens before it. Losses are means over the positions of a bin, in nats",
    "per token; both models have one tokenizer, so their losses compare. Text is not equally hard everywhere: so the",
    f"same tokens are predicted again with the past cut off, from the last {TRAINED // 2:,} to {TRAINED:,} tokens.",
    "What the older past gains is that loss less the loss with the whole past: below zero the state has come to harm.",
    "",
    "`paper` takes the novels of the evaluation and the lens-training split, which the language models never saw, in",
    "pieces that do not overlap. `builtin` takes text from a grammar, which has little to remember.",
    "Intervals are 95 % percentile bootstraps over novels, each with all of its pieces (generated text: over pieces).",
    f"A side is taken where the interval excludes zero and there are at least {MIN_SAMPLES} pieces. p: paired sign-",
    "flip test of the difference by novel, not corrected for the number of bins.",
    "",
    "    python analyses/long_context/run.py --recipe builtin",
    "    python analyses/long_context/run.py --recipe paper --data FOLDER --device cuda",
    "",
    "`records.parquet` holds every piece's loss in every bin. This page is written by `report.py` from `results.json`.",
    "",
]
LIMITS = [
    "## Limits",
    "",
    "- One training seed of each model: the intervals hold for these weights.",
    "- Few novels: intervals over fewer than ten sources come out too narrow.",
    "- Neither model was trained to carry anything beyond its trained length; the paper's Fig. 6 is of larger models.",
]


if __name__ == "__main__":
    write()
