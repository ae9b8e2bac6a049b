"""README.md and figures of the conversion analysis, written from its results and records alone.

python analyses/conversion/report.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.conversion.measure import AFTER, BEFORE, NAMES, model_name
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.plotly_figure import to_plotly
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.retrieval import accuracy_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.needle.accuracy_grid import Cell, PromptRow, read_rows, summarise
from diffmamba_interp.statistics import PairedDifference, paired_difference

HERE = Path(__file__).parent
TITLE = "Held-out bAbI stories, before and after fine-tuning"


DRAWN = (model_name("plain", BEFORE), *(model_name(name, AFTER) for name in NAMES))
PAIRS = (
    (model_name("plain", BEFORE), model_name("published", BEFORE)),
    (model_name("plain", BEFORE), model_name("by_component", BEFORE)),
    (model_name("plain", BEFORE), model_name("plain", AFTER)),
    (model_name("plain", AFTER), model_name("published", AFTER)),
    (model_name("plain", AFTER), model_name("by_component", AFTER)),
    (model_name("published", AFTER), model_name("by_component", AFTER)),
)


def write(out: Path = HERE) -> None:
    """Figures and README.md beside results.json."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    rows = read_rows(out / "records.csv.xz")
    drawing = accuracy_drawing(summarise([row for row in rows if row.model in DRAWN], DRAWN), title=TITLE)
    write_text(out / "accuracy.svg", to_svg(drawing))
    write_text(out / "accuracy.plotly.json", to_plotly(drawing).to_json())
    cells = [Cell.from_dict(values) for values in results["cells"]]
    lines = [*HEAD, *finding(results, rows), *method(results), *by_task(cells), *limits(results)]
    write_text(out / "README.md", "\n".join(lines) + "\n")


def finding(results: dict[str, Any], rows: Sequence[PromptRow]) -> list[str]:
    """Every model in a line, then who is better than whom, all tasks together."""
    lengths = sorted({row.length for row in rows})
    texts = list(next(iter(results["models"].values()))["bits_per_byte"])
    lines = [
        "| model | parameters | lambda | " + " | ".join(f"bits per byte, {text_name(name)}" for name in texts) + " | "
        + " | ".join(f"accuracy {length_name(length)}" for length in lengths) + " |",
        "| --- |" + " --- |" * (2 + len(texts) + len(lengths)),
    ]  # fmt: skip
    for name, one in results["models"].items():
        bits = " | ".join(f"{one['bits_per_byte'][text]:.3f}" for text in texts)
        shares = " | ".join(f"{share(rows, name, length):.3f}" for length in lengths)
        lambdas = ", ".join(f"{value:.2f}" for value in one["lambda"].values()) or "-"
        lines.append(f"| {name.replace('_', ' ')} | {one['n_parameters']:,} | {lambdas} | {bits} | {shares} |")
    lines += [
        "",
        "Paired by story, all tasks together:",
        "",
        "| first | second | length | n | second minus first (95 %) | better |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for first, second in PAIRS:
        for length in lengths:
            found = compare(rows, first, second, length)
            better = {True: second, False: first}[found.value > 0] if found.excludes_zero else "-"
            lines.append(
                f"| {first} | {second} | {length_name(length)} | {found.n} | {found.value:+.3f} [{found.low:+.3f}, "
                f"{found.high:+.3f}] | {better} |".replace("_", " ")
            )
    return [*lines, "", *(sentence(rows, name, lengths) for name in NAMES[1:]), ""]


def sentence(rows: Sequence[PromptRow], name: str, lengths: Sequence[int]) -> str:
    """What the conversion costs at once, and whether fine-tuning makes up for it."""
    words = []
    for length in lengths:
        before, after = (
            compare(rows, model_name("plain", stage), model_name(name, stage), length) for stage in (BEFORE, AFTER)
        )
        words.append(f"at {length_name(length)} {verdict(before)} before and {verdict(after)} after fine-tuning")
    return f"- Converted by the alignment `{name}`, against the plain model treated the same: {'; '.join(words)}."


def verdict(found: PairedDifference) -> str:
    if not found.excludes_zero:
        return "not told apart"
    return f"{'better' if found.value > 0 else 'worse'} by {abs(found.value):.3f}"


def compare(rows: Sequence[PromptRow], first: str, second: str, length: int) -> PairedDifference:
    a, b = ([row.is_right for row in rows if row.model == name and row.length == length] for name in (first, second))
    return paired_difference(a, b)


def share(rows: Sequence[PromptRow], name: str, length: int) -> float:
    own = [row.is_right for row in rows if row.model == name and row.length == length]
    return sum(own) / len(own)


def text_name(stream: str) -> str:
    """Of the token stream's file: "pile_eval" is held-out Pile."""
    return stream.removesuffix("_eval")


def method(results: dict[str, Any]) -> list[str]:
    made = results["provenance"]
    training, recipe = made["training"], made["training"]["recipe"]
    optimiser, n_converted = recipe["optimiser"], len(results["models"][model_name("published", BEFORE)]["lambda"])
    state = "" if made["is_complete"] else " (stopped before the recipe's last step)"
    data = ", ".join(f"{Path(key).name} `{value}`" for key, value in training["data_sha256"].items())
    return [
        "![accuracy](accuracy.svg)",
        "",
        "## How it was measured",
        "",
        f"Start: the demo Mamba-2, as it is shipped. Its last {n_converted} blocks become differential "
        "(`convert_to_differential`, placement `quarter`); lambda_q1 is drawn small, sub-norm gains are 1. `published` "
        "cuts the rows of each projection in the middle, whatever component a row belongs to, as the published code "
        "does; `by_component` gives each branch its own half of z, x and out_proj and all of B, C and dt, with every "
        "head split. Neither keeps the function that was trained: one half's output is subtracted, lambda times, where "
        "it was added, and the sub-norm rescales the result.",
        "",
        f"Fine-tuning, the same for all three, whole model: {training['step']:,} steps{state} of "
        f"{recipe['batch_size']} rows of {recipe['data']['length']:,} tokens ({training['tokens']:,} tokens, the demo "
        f"pair's mixture of text and stories, same rows in the same order), AdamW, lr {optimiser['lr']:g} with "
        f"{optimiser['warmup']} steps of warm-up and a cosine to {optimiser['floor']:g}, {recipe['precision']}, seed "
        f"{training['seed']}, on {training['device'].split(':')[0]}, torch {training['versions']['torch']}.",
        "",
        "Prompts: bAbI's en-10k test stories that occur in none of its training files, bare and spread through "
        "held-out novels; a model is right if the answer is the most probable label. Intervals: Wilson for one model, "
        "bootstrap over stories (95 %) for paired differences. The converted models have more parameters than the "
        "plain one: each branch has B, C and dt of its own. Bits per byte are of the training recipe's evaluation "
        "streams; those of the model's card are of another sample of the same split, so the two differ.",
        "",
        "    for name in plain published by_component; do",
        "        python -m diffmamba_interp.train_lm --recipe recipes/conversion_$name.toml",
        "    done",
        "    python analyses/conversion/run.py",
        "",
        f"Measured on {made['device']}, seed of the prompts {made['seed']}, torch {made['versions']['torch']}. sha256 "
        f"of the start `{made['start']['sha256']}`; of the fine-tuned weights (not shipped) "
        + ", ".join(f"{name} `{digest}`" for name, digest in made["fine_tuned"].items())
        + f"; of the training data {data}.",
        "",
    ]


def by_task(cells: Sequence[Cell]) -> list[str]:
    lines = [
        "## By task",
        "",
        "| task | length | n | chance | " + " | ".join(m.model.replace("_", " ") for m in cells[0].models) + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(cells[0].models),
    ]
    for cell in cells:
        shares = " | ".join(f"{m.accuracy:.3f} [{m.low:.3f}, {m.high:.3f}]" for m in cell.models)
        lines.append(f"| {cell.task} | {length_name(cell.length)} | {cell.n} | {cell.chance:.3f} | {shares} |")
    return [*lines, ""]


def limits(results: dict[str, Any]) -> list[str]:
    tokens = results["provenance"]["training"]["tokens"]
    return [
        "## Limits",
        "",
        "- One start and one seed of fine-tuning: intervals are over stories, not over trainings.",
        f"- {tokens / 1e6:.1f} million tokens of fine-tuning at one learning rate, chosen for none of the three; a "
        "model that has to find its way back may need more than one that only goes on.",
        "- The start was trained on the same kinds of text and story, which the paper's 370M model was not.",
    ]


HEAD = [
    "# Does a plain Mamba-2 retrieve better once its last quarter is differential?",
    "",
    "The Diff-Mamba paper (arXiv 2507.06204, appendix A.3) does not train its 370M retrieval model from scratch: it",
    "turns the last quarter of a trained Mamba-2 into differential blocks and fine-tunes. Here with the demo Mamba-2:",
    "retrieval and held-out text before (zero-shot) and after fine-tuning, for two ways of sharing the weights out.",
    "",
    "## Finding",
    "",
]


if __name__ == "__main__":
    write()
