"""CARD.md of each demo model, from how it was trained (training/) and what was measured (paper/, builtin/).

python analyses/retrieval/cards.py
python analyses/retrieval/cards.py --mamba2 RUN --diff-mamba2 RUN       after a new training, take its records first
"""

from __future__ import annotations

import gzip
import json
import math
import shutil
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

from analyses.retrieval import report
from analyses.retrieval.seeds import FIRST, SECOND, name_of, pooled
from diffmamba_interp.analysis.page import table
from diffmamba_interp.analysis.question import run_command
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.files.atomic import write_bytes, write_text
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, demo_folder
from diffmamba_interp.models.inspection import inspect_checkpoint
from diffmamba_interp.needle.accuracy_grid import Cell, read_rows
from diffmamba_interp.runs.provenance import weights_sha256

HERE = Path(__file__).resolve().parent


def main(mamba2: Path | None = None, diff_mamba2: Path | None = None) -> None:
    """Write both cards; given run folders of `train_lm`, copy their recipe, results and log first."""
    for name, run in zip(("mamba2", "diff-mamba2"), (mamba2, diff_mamba2), strict=True):
        if run is not None:
            kept = HERE / "training" / name
            kept.mkdir(parents=True, exist_ok=True)
            for file in ("recipe.toml", "results.json"):
                shutil.copy(run / file, kept / file)
            write_bytes(kept / "log.jsonl.gz", gzip.compress((run / "log.jsonl").read_bytes(), mtime=0))
    write()


def write(results: Path = HERE) -> None:
    """Write both cards from the results below `results`."""
    for name in DEMO_NAMES:
        write_text(demo_folder(name) / "CARD.md", card(name, results))


def write_shipped(out: Path) -> None:
    """Write both cards once there are results of every recipe, if `out` is where they are shipped."""
    if out.resolve() == HERE and all((out / recipe / "results.json").is_file() for recipe in report.PAGE.titles):
        write()


def card(name: DemoName, results: Path) -> str:
    """The card's text. Raises ValueError if results were measured on other weights than those shipped."""
    found = {recipe: read_results(results / recipe / "results.json", name) for recipe in report.PAGE.titles}
    trained = json.loads((HERE / "training" / name / "results.json").read_text(encoding="utf-8"))
    recipe = tomllib.loads((HERE / "training" / name / "recipe.toml").read_text(encoding="utf-8"))
    with gzip.open(HERE / "training" / name / "log.jsonl.gz", "rt", encoding="utf-8") as file:
        log = [line for line in map(json.loads, file) if "loss" in line]
    kind = "every block subtracts two Mamba-2 mixers" if name == "diff-mamba2" else "plain Mamba-2 blocks"
    config = recipe["model"]["config"]
    lines = [
        f"# {name}: one of the demo pair",
        "",
        f"A language model of {trained['n_parameters']:,} parameters ({config['n_layers']} blocks, d_model "
        f"{config['d_model']}; {kind}), for trying out the tools of this package. Its partner was trained on the same "
        "tokens in the same order. Both know simple prose and how to find facts in it; neither is meant for use.",
        "",
        f'    model, tokenizer = load_demo("{name}")',
        "",
        *training(recipe, trained, log),
        *(line for key, values in found.items() for line in retrieval(key, values, name)),
        *other_seeds(found["paper"], name),
        *text(found["paper"], name),
        *lambdas(name),
        *limits(trained, recipe, found, words(results / "builtin" / "records.csv.xz", name)),
        *provenance(name, trained, found),
    ]
    return "\n".join(lines) + "\n"


def read_results(path: Path, name: DemoName) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    measured, shipped = results["provenance"]["models"][name], weights_sha256(demo_folder(name))
    if measured != shipped:
        raise ValueError(f"{path} was measured on weights {measured}, but {shipped} are shipped: run it again.")
    return results


def training(recipe: dict[str, Any], trained: dict[str, Any], log: list[dict[str, Any]]) -> list[str]:
    optimiser, mixed, last = recipe["optimiser"], recipe["data"]["retrieval"], log[-1]
    text_shares = [f"{part['weight']:.0%} {source_name(part['tokens'])}" for part in recipe["data"]["text"]]
    hidden = sum(w for n, w in zip(mixed["lengths"], mixed["length_weights"], strict=True) if n)
    hidden /= sum(mixed["length_weights"])
    state = "complete" if trained["is_complete"] else "stopped before its last step"
    return [
        "## Training",
        "",
        f"- data: {', '.join(text_shares)}, {mixed['weight']:.0%} retrieval stories; training split only (documents by "
        "hash of the text, stories by hash of facts and question)",
        f"- stories: {mixed['babi_words']:.0%} generated in bAbI's words, {mixed['own_words']:.0%} in other words, "
        f"{mixed['real']:.0%} bAbI training stories; {hidden:.0%} of their rows hide them in novels and Pile text. "
        "Held-out bAbI test stories are in no sample.",
        f"- {trained['step']:,} steps ({state}) of {recipe['batch_size']} rows of {recipe['data']['length']:,} tokens: "
        f"{trained['tokens']:,} tokens; seed {trained['seed']}, {recipe['precision']}, "
        f"{trained['device'].split(':')[0]}, torch {trained['versions']['torch']}",
        f"- AdamW, lr {optimiser['lr']:g}, betas {optimiser['betas']}, weight decay {optimiser['weight_decay']:g}, "
        f"warm-up {optimiser['warmup']} steps, cosine to {optimiser['floor']:g} of it, clipping at "
        f"{optimiser['clip']:g}",
        f"- last losses, nats per token: text {last['text_loss']:.3f}, answers {last['answer_loss']:.3f}; answer "
        f"tokens weigh {mixed['answer_weight']:g}, the rest of a retrieval prompt {mixed['context_weight']:g}",
        "- the resolved recipe and the log are in `analyses/retrieval/training`",
        "",
    ]


def source_name(tokens: str) -> str:
    return {"pile": "The Pile's test split", "novels": "novels of 1930 or earlier"}[Path(tokens).name.split("_")[0]]


def retrieval(recipe: str, results: dict[str, Any], name: DemoName) -> list[str]:
    lines = [
        f"## Retrieval: {report.PAGE.titles[recipe].lower().replace('babi', 'bAbI')}",
        "",
        "Share of prompts whose answer is the most probable label, its 95 % Wilson interval, chance, and the share "
        f"whose first generated word is the answer (`analyses/retrieval`, recipe `{recipe}`).",
        "",
    ]
    rows = []
    for cell in (Cell.from_dict(values) for values in results["cells"]):
        model = next(model for model in cell.models if model.model == name)
        accuracy = f"{model.accuracy:.3f} [{model.low:.3f}, {model.high:.3f}]"
        start = [cell.task, length_name(cell.length), cell.n]
        rows.append([*start, accuracy, f"{cell.chance:.3f}", f"{model.generated:.3f}"])
    return [*lines, *table(["task", "length", "n", "accuracy", "chance", "generated"], rows), ""]


def other_seeds(results: dict[str, Any], name: DemoName) -> list[str]:
    """The same model from other training seeds, whose weights are not shipped; nothing if there are none."""
    made = results["provenance"]
    if not made["other_seeds"]:
        return []
    seeds = [{"seed": 0, "sha256": made["models"]}, *made["other_seeds"]]
    names, column = report.seed_names(results), (FIRST, SECOND).index(name)
    grids = [[Cell.from_dict(values) for values in cells] for cells in (results["cells"], *results["seeds"])]
    lengths = sorted({cell.length for cell in grids[0]})
    lines = [
        "## Other training seeds",
        "",
        "Accuracy on the same prompts, all tasks together, and bits per byte of the held-out Pile text. Seed 0 is this "
        "model; the others' weights are not shipped.",
        "",
    ]
    rows = []
    for seed, called, cells in zip(seeds, names, grids, strict=True):
        shares = [f"{pooled(cells, length)[1 + column]:.3f}" for length in lengths]
        bits = results["text"][name_of(name, seed["seed"])]["pile"]["bits_per_byte"]
        rows.append([called.removeprefix("seed "), *shares, f"{bits:.3f}", f"`{seed['sha256'][name]}`"])
    return [*lines, *table(["seed", *map(length_name, lengths), "Pile", "sha256 of the weights"], rows), ""]


def text(results: dict[str, Any], name: DemoName) -> list[str]:
    recipe = results["provenance"]["recipe"]
    cut = recipe["text_chars"]
    sample = f"a sample of about {cut:,} characters of each (from the middle of documents)" if cut else "all of each"
    lines = [
        "## Held-out text",
        "",
        f"Bits per UTF-8 byte, {sample}, in rows of 1,024 tokens from an empty state. `pile` is all subsets together, "
        "weighted by the bytes stated.",
        "",
    ]
    rows = [
        [subset, f"{values['bits_per_byte']:.3f}", f"{values['n_bytes']:,}", values["n_documents"]]
        for subset, values in results["text"][name].items()
    ]
    return [*lines, *table(["text", "bits per byte", "bytes", "documents"], rows), ""]


def lambdas(name: DemoName) -> list[str]:
    blocks = [block for block in inspect_checkpoint(demo_folder(name)).blocks if block.lambda_ is not None]
    if not blocks:
        return []
    lines = [
        "## Lambda",
        "",
        "lambda = sigmoid(sum of lambda_q1) + lambda_init; the sigmoid counts as saturated within 0.01 of its ends.",
        "",
    ]
    rows = []
    for block in blocks:
        assert block.lambda_ is not None
        init = 0.8 - 0.6 * math.exp(-0.3 * block.index)
        numbers = [f"{value:.3f}" for value in (block.lambda_, init, block.lambda_ - init)]
        rows.append([block.index, *numbers, "yes" if block.saturated else "no"])
    return [*lines, *table(["block", "lambda", "lambda_init", "sigmoid", "saturated"], rows), ""]


def words(path: Path, name: DemoName) -> str:
    """How facts in bAbI's words and in others are found, without filler."""
    right: dict[str, list[bool]] = defaultdict(list)
    for row in read_rows(path):
        if row.model == name and row.length == 0:
            right[report.words_of(row)].append(row.is_right)
    shares = {kind: sum(found) / len(found) for kind, found in right.items()}
    return (
        f"Of generated stories without filler it answers {shares[report.BABI_WORDS]:.0%} when they are told in bAbI's "
        f"words and {shares[report.OTHER_WORDS]:.0%} when in others (by task: `analyses/retrieval/README.md`)."
    )


def limits(
    trained: dict[str, Any], recipe: dict[str, Any], found: dict[str, dict[str, Any]], by_words: str
) -> list[str]:
    n_seeds, context = 1 + len(found["paper"]["seeds"]), recipe["data"]["length"]
    seeds = "one seed" if n_seeds == 1 else f"{n_seeds} seeds"
    few = sorted({c["length"] for one in found.values() for c in one["cells"] if c["n"] < report.FEW})
    rough = f", and cells at {report.listed_lengths(few)} with n below {report.FEW} are rough" if few else ""
    return [
        "## Limits",
        "",
        f"- A small model, trained on {trained['tokens'] / 1e6:.0f} million tokens. Differences between the pair hold "
        f"for the weights that were measured ({seeds} of each model), not for the architectures.",
        f"- {by_words}",
        f"- Trained on contexts of at most {context:,} tokens; cells beyond are extrapolation{rough}.",
        "- It answers the five task kinds in the words it was trained on; it follows no instruction and knows little "
        "of the world. Its text can be wrong or offensive, as its training text can.",
        "- The training text is not shipped; each subset of The Pile has its own terms, bAbI is CC BY 3.0.",
        "",
    ]


def provenance(name: DemoName, trained: dict[str, Any], found: dict[str, dict[str, Any]]) -> list[str]:
    made = found["paper"]["provenance"]
    measured = {f"evaluation data {key}": value for key, value in made["data"].items()}
    training_data = {f"training data {Path(key).name}": value for key, value in trained["data_sha256"].items()}
    digests = {"weights": made["models"][name], "tokenizer.json": made["tokenizer"], **training_data, **measured}
    versions = ", ".join(f"{package} {number}" for package, number in made["versions"].items())
    return [
        "## Provenance",
        "",
        *(f"- sha256 of {what}: `{digest}`" for what, digest in digests.items()),
        f"- evaluation: seed {made['seed']}, on {made['device']}; {versions}",
    ]


if __name__ == "__main__":
    sys.exit(run_command(main))
