"""Does the loss keep falling, or even survive, far beyond the trained length? (Fig. 6 of arXiv 2507.06204, small.)

    python analyses/long_context/run.py --recipe builtin      generated text, 16k tokens
    python analyses/long_context/run.py --recipe paper        held-out novels from --data, 64k tokens

Both models read long pieces of text token by token through their recurrent state, and again with the past cut off.
Writes records.parquet, results.json and figures into a folder named after the recipe, then README.md.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from analyses.long_context import report, summary
from diffmamba_interp.analysis.results import provenance, read_recipe, write_records, write_results
from diffmamba_interp.lm_training.position_loss import binned, position_bins, position_losses, windowed_losses
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, load_demo, load_demo_tokenizer
from diffmamba_interp.text import Document, TextSource, documents_of_split, encode_texts
from diffmamba_interp.text.generated_text import generated_documents

HERE = Path(__file__).parent
BATCH_TOKENS = {"cpu": 8_192, "cuda": 131_072}
# Generated text has about so many characters per token; twice as many serve any tokenizer.
CHARS_PER_TOKEN = 8


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """text: "generated" or "novels" (of `splits`). length, window: tokens. n: pieces, 0 for all of the novels."""

    text: str
    length: int
    n: int
    window: int
    seed: int
    splits: tuple[str, ...] = ()


def main(
    recipe: str = "builtin",
    data: Path = Path("../shared/data"),
    out: Path = HERE,
    n: int | None = None,
    length: int | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    jobs: int = 2,
) -> None:
    """Measure both models, then write records, results, figures and README.

    data: holds novels/ (recipe "paper" alone reads it). n: pieces, 0 for all; length: tokens of each, both instead of
    the recipe's. jobs: models measured at a time.
    """
    settings = read_recipe(HERE / "recipe.toml", recipe, Recipe)
    settings = replace(settings, n=settings.n if n is None else n, length=length or settings.length)
    sources, tokens = pieces(settings, data)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(measure, name, settings, tokens, device) for name in DEMO_NAMES]
        found = dict(zip(DEMO_NAMES, (one.result() for one in running), strict=True))
    bounds = position_bins(settings.length)
    records: dict[str, list[Any]] = defaultdict(list)
    for name, kinds in found.items():
        for index, source in enumerate(sources):
            records["model"].append(name)
            records["source"].append(source)
            records["piece"].append(index)
            for kind, losses in kinds.items():
                for place, end in enumerate(bounds[1:]):
                    records[f"{kind}_{end}"].append(float(losses[index, place]))
    folder = out / recipe
    write_records(folder / "records.parquet", records, decimals=5)
    read = {"novels": data / "novels"} if settings.text == "novels" else {}
    write_results(
        folder / "results.json",
        provenance(recipe, settings, device=device, data=read),
        {
            "bounds": bounds.tolist(),
            "n_pieces": len(sources),
            "n_sources": len(set(sources)),
            "curves": summary.summarise(summary.read(folder / "records.parquet")),
        },
    )
    report.write(out)


def measure(name: DemoName, recipe: Recipe, tokens: np.ndarray, device: str) -> dict[str, np.ndarray]:
    """[piece, bin] mean losses of one model: with the whole past ("full"), and with the past cut off ("windowed")."""
    if device == "cpu":
        torch.set_num_threads(1)
    model, _ = load_demo(name, device=device)
    size, bounds = BATCH_TOKENS[torch.device(device).type], position_bins(recipe.length)
    full, windowed = [], []
    n_rows = max(size // recipe.window, 1)
    for start in range(0, len(tokens), n_rows):
        rows = torch.from_numpy(tokens[start : start + n_rows].astype(np.int64))
        full.append(binned(position_losses(model, rows, chunk=recipe.window), bounds))
        windowed.append(binned(windowed_losses(model, rows, window=recipe.window, batch_tokens=size), bounds))
        print(f"{name}: {min(start + n_rows, len(tokens))} of {len(tokens)} pieces", flush=True)
    return {"full": np.concatenate(full), "windowed": np.concatenate(windowed)}


def pieces(recipe: Recipe, data: Path) -> tuple[list[str], np.ndarray]:
    """Pieces of `length` + 1 tokens that do not overlap, and the source of each; every source's first piece first."""
    if recipe.text == "generated":
        n_chars = CHARS_PER_TOKEN * recipe.length
        sources = [
            Document("\n\n".join(generated_documents(n_chars=n_chars, seed=recipe.seed + index)), f"seed {index}")
            for index in range(recipe.n)
        ]
    else:
        novels = list(TextSource(location=str(data / "novels")).documents())
        sources = [one for split in recipe.splits for one in documents_of_split(novels, split)]  # type: ignore[arg-type]
    encoded = encode_texts(load_demo_tokenizer(), [source.text for source in sources])
    found = [
        (number, source.hash[:16], tokens[start : start + recipe.length + 1])
        for source, tokens in zip(sources, encoded, strict=True)
        for number, start in enumerate(range(0, len(tokens) - recipe.length, recipe.length))
        if number == 0 or recipe.text == "novels"
    ]
    if not found:
        raise ValueError(f"no text has {recipe.length + 1} tokens: give a smaller --length.")
    kept = sorted(found, key=lambda one: one[0])[: recipe.n or None]
    return [source for _, source, _ in kept], np.array([tokens for *_, tokens in kept], dtype=np.uint16)


if __name__ == "__main__":
    tyro.cli(main)
