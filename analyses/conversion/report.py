"""README.md and figures of the conversion analysis, written from its results and records alone.

python analyses/conversion/report.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffmamba_interp.analysis.page import table, write_figures, write_page
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.figures.retrieval import accuracy_drawing
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.needle.accuracy_grid import Cell, PromptRow, read_rows, summarise
from diffmamba_interp.statistics import PairedDifference, paired_difference

HERE = Path(__file__).parent
TITLE = "Held-out bAbI stories, before and after fine-tuning"
NAMES = ("plain", "published", "by_component")
BEFORE, AFTER = "before", "after"


def model_name(name: str, stage: str) -> str:
    """What records call a model: such as "published before"."""
    return f"{name} {stage}"


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
    results = read_json_object(out / "results.json")
    rows = read_rows(out / "records.csv.xz")
    drawing = accuracy_drawing(summarise([row for row in rows if row.model in DRAWN], DRAWN), title=TITLE)
    write_figures(out, {"accuracy": drawing})
    cells = [Cell.from_dict(values) for values in results["cells"]]
    blocks = {"findings": finding(results, rows), "method": method(results), "results": by_task(cells)}
    write_page(HERE, out, {**blocks, "limits": limits(results)})


def finding(results: dict[str, Any], rows: Sequence[PromptRow]) -> list[str]:
    """Every model in a line, then who is better than whom, all tasks together."""
    lengths = sorted({row.length for row in rows})
    texts = list(next(iter(results["models"].values()))["bits_per_byte"])
    models = []
    for name, about in results["models"].items():
        lambdas = ", ".join(f"{value:.2f}" for value in about["lambda"].values()) or "-"
        bits = [f"{about['bits_per_byte'][text]:.3f}" for text in texts]
        shares = [f"{share(rows, name, length):.3f}" for length in lengths]
        models.append([shown(name), f"{about['n_parameters']:,}", lambdas, *bits, *shares])
    compared = []
    for first, second in PAIRS:
        for length in lengths:
            difference = compare(rows, first, second, length)
            better = {True: second, False: first}[difference.value > 0] if difference.excludes_zero else "-"
            interval = difference.text(signed=True)
            compared.append([shown(first), shown(second), length_name(length), difference.n, interval, shown(better)])
    accuracies = [f"accuracy {length_name(length)}" for length in lengths]
    # Of the token streams' files: "pile_eval" is held-out Pile.
    bits = [f"bits per byte, {name.removesuffix('_eval')}" for name in texts]
    return [
        *table(["model", "parameters", "lambda", *bits, *accuracies], models),
        "",
        "Paired by story, all tasks together:",
        "",
        *table(["first", "second", "length", "n", "second minus first (95 %)", "better"], compared),
        "",
        *(sentence(rows, name, lengths) for name in NAMES[1:]),
    ]


def shown(name: str) -> str:
    return name.replace("_", " ")


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


def method(results: dict[str, Any]) -> list[str]:
    made = results["provenance"]
    training, recipe = made["training"], made["training"]["recipe"]
    optimiser, n_converted = recipe["optimiser"], len(results["models"][model_name("published", BEFORE)]["lambda"])
    state = "" if made["is_complete"] else " (stopped before the recipe's last step)"
    data = ", ".join(f"{Path(key).name} `{value}`" for key, value in training["data_sha256"].items())
    return [
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
    ]


def by_task(cells: Sequence[Cell]) -> list[str]:
    rows = [
        [
            *(cell.task, length_name(cell.length), cell.n, f"{cell.chance:.3f}"),
            *(f"{m.accuracy:.3f} [{m.low:.3f}, {m.high:.3f}]" for m in cell.models),
        ]
        for cell in cells
    ]
    return table(["task", "length", "n", "chance", *(shown(m.model) for m in cells[0].models)], rows)


def limits(results: dict[str, Any]) -> list[str]:
    tokens = results["provenance"]["training"]["tokens"]
    return [
        "- One start and one seed of fine-tuning: intervals are over stories, not over trainings.",
        f"- {tokens / 1e6:.1f} million tokens of fine-tuning at one learning rate, chosen for none of the three; a "
        "model that has to find its way back may need more than one that only goes on.",
        "- The start was trained on the same kinds of text and story, which the paper's 370M model was not.",
    ]


if __name__ == "__main__":
    write()
