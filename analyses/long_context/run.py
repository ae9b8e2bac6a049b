"""Does the loss keep falling, or even survive, far beyond the trained length? (Fig. 6 of arXiv 2507.06204, small.)

    python analyses/long_context/run.py --recipe builtin      generated text, 16k tokens
    python analyses/long_context/run.py --recipe unseen       20 novels from --data that no training saw, 64k tokens
    python analyses/long_context/run.py --recipe paper        held-out novels from --data, 64k tokens

Both models read long pieces of text token by token through their recurrent state, and again with the past cut off.
Writes records.parquet, results.json and figures into a folder named after the recipe, then README.md.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.long_context import report
from diffmamba_interp.analysis.question import Asked, Options, Question
from diffmamba_interp.analysis.results import data_sha256
from diffmamba_interp.files.archives import arrays_from_bytes, arrays_to_bytes
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.json_files import json_text
from diffmamba_interp.lm_training.position_loss import binned, position_bins, position_losses, windowed_losses
from diffmamba_interp.models.demo import DemoName, load_demo_tokenizer
from diffmamba_interp.text import Document, TextSource, documents_of_split, encode_texts
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.sources import GENERATED

BATCH_TOKENS = {"cpu": 8_192, "cuda": 131_072}
# Generated text has about so many characters per token; twice as many serve any tokenizer.
CHARS_PER_TOKEN = 8


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which text to read.

    text: "generated", or a folder of `--data`: of its documents those of `splits`, or all where none is named.
    length, window: tokens. n: pieces, 0 for all there are.
    """

    text: str
    length: int
    n: int
    window: int
    seed: int
    splits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LengthOptions(Options):
    """Of this question."""

    n: int | None = None
    """Pieces instead of the recipe's; 0 for all."""
    length: int | None = None
    """Tokens of each piece instead of the recipe's."""


def measure(asked: Asked, name: DemoName) -> dict[str, Any]:
    """One line per piece: mean losses by bin, with the whole past ("full"), and with the past cut off ("windowed")."""
    held = read_pieces(asked)
    losses = losses_of(asked, name, held["tokens"])
    columns: dict[str, Any] = {"model": [name] * len(held["source"]), "source": held["source"]}
    columns["piece"] = np.arange(len(held["source"]))
    for kind, by_bin in losses.items():
        for place, end in enumerate(position_bins(asked.recipe.length)[1:]):
            columns[f"{kind}_{end}"] = by_bin[:, place].astype(float)
    return columns


def losses_of(asked: Asked, name: DemoName, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """[piece, bin] of both kinds."""
    recipe, model, size = asked.recipe, asked.load(name), asked.by_device(BATCH_TOKENS)
    bounds = position_bins(recipe.length)
    full, windowed = [], []
    n_rows = max(size // recipe.window, 1)
    for start in range(0, len(tokens), n_rows):
        rows = torch.from_numpy(tokens[start : start + n_rows].astype(np.int64))
        full.append(binned(position_losses(model, rows, chunk=recipe.window), bounds))
        windowed.append(binned(windowed_losses(model, rows, window=recipe.window, batch_tokens=size), bounds))
    return {"full": np.concatenate(full), "windowed": np.concatenate(windowed)}


def write_pieces(recipe: Recipe, options: Options, path: Path) -> None:
    """The pieces, their sources, the recipe and the sum of the text in a file."""
    sources, tokens = pieces(recipe, options.data)
    sums = {} if recipe.text == GENERATED else data_sha256({recipe.text: options.data / recipe.text})
    about = {"recipe": np.array(json_text(asdict(recipe))), "sums": np.array(list(sums.values()), dtype=str)}
    write_bytes(path, arrays_to_bytes({"source": np.array(sources), "tokens": tokens, **about}))


def read_pieces(asked: Asked) -> dict[str, np.ndarray]:
    """What `write_pieces` wrote. Raises ValueError for another recipe's."""
    path = asked.material
    held = arrays_from_bytes(path.read_bytes(), source=path, remedy="Prepare it again.", kind="file of pieces")
    if held["recipe"].item() != json_text(asdict(asked.recipe)):
        raise ValueError(f"{path} was made for {held['recipe']}, not for {asked.recipe}: prepare it again.")
    return held


def sums_of_pieces(asked: Asked) -> dict[str, str]:
    return dict(zip([asked.recipe.text], read_pieces(asked)["sums"].tolist(), strict=False))


def pieces(recipe: Recipe, data: Path) -> tuple[list[str], np.ndarray]:
    """Pieces of `length` + 1 tokens that do not overlap, and the source of each; every source's first piece first."""
    if recipe.text == GENERATED:
        n_chars = CHARS_PER_TOKEN * recipe.length
        sources = [
            Document("\n\n".join(generated_documents(n_chars=n_chars, seed=recipe.seed + index)), f"seed {index}")
            for index in range(recipe.n)
        ]
    else:
        novels = list(TextSource(location=str(data / recipe.text)).documents())
        of_splits = [one for split in recipe.splits for one in documents_of_split(novels, split)]  # type: ignore[arg-type]
        sources = of_splits if recipe.splits else novels
    encoded = encode_texts(load_demo_tokenizer(), [source.text for source in sources])
    cut = [
        (number, source.hash[:16], tokens[start : start + recipe.length + 1])
        for source, tokens in zip(sources, encoded, strict=True)
        for number, start in enumerate(range(0, len(tokens) - recipe.length, recipe.length))
        if number == 0 or recipe.text != GENERATED
    ]
    if not cut:
        raise ValueError(f"no text has {recipe.length + 1} tokens: give a smaller --length.")
    kept = sorted(cut, key=lambda one: one[0])[: recipe.n or None]
    return [source for _, source, _ in kept], np.array([tokens for *_, tokens in kept], dtype=np.uint16)


QUESTION = Question(
    recipe=Recipe,
    options=LengthOptions,
    prepare=write_pieces,
    sums=sums_of_pieces,
    measure=measure,
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
