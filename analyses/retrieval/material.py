"""What every model is asked, in one file: the prompts of a recipe and its held-out text, as tokens.

Making them takes a CPU a minute, which a machine lent with its GPU need not spend:

    python analyses/retrieval/material.py --recipe paper --data FOLDER --out FILE       beforehand
    python analyses/retrieval/run.py --recipe paper --material FILE --device cuda       without FOLDER
"""

from __future__ import annotations

import io
import json
import lzma
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from analyses.retrieval import text
from analyses.retrieval.prompts import Recipe, cell_samples
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import TASKS, NeedleSample
from diffmamba_interp.text import TextSource, TokenStream

# Filler recurs from prompt to prompt, so even a low level of compression makes the file ten times smaller.
LZMA_PRESET = 3
_OF_STREAM = ("tokens", "ends", "n_bytes")


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """cells: prompts of each task and length. text: held-out text by name. data_sha256: of what both are made of."""

    recipe: Recipe
    cells: tuple[tuple[NeedleSample, ...], ...]
    text: dict[str, TokenStream]
    data_sha256: dict[str, str]

    def save(self, path: Path) -> None:
        """Write one compressed file. The text of a prompt is left out: its tokens hold it."""
        samples = [sample for cell in self.cells for sample in cell]
        about = {
            "recipe": asdict(self.recipe),
            "data_sha256": self.data_sha256,
            "cells": [len(cell) for cell in self.cells],
            "text": list(self.text),
        }
        no_tokens = np.empty(0, dtype=np.int32)
        records = [replace(sample, prompt="", tokens=no_tokens).to_record() for sample in samples]
        arrays: dict[str, np.ndarray] = {
            "about": _from_json(about),
            "records": _from_json(records),
            "tokens": np.concatenate([sample.tokens for sample in samples]).astype(np.uint16),
            "n_tokens": np.array([sample.n_tokens for sample in samples], dtype=np.int64),
        }
        arrays |= {f"{name} {part}": getattr(s, part) for name, s in self.text.items() for part in _OF_STREAM}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes(path, lzma.compress(buffer.getvalue(), preset=LZMA_PRESET))

    @classmethod
    def load(cls, path: Path, recipe: Recipe | None = None, *, with_prompts: bool = True) -> Material:
        """The inverse of `save`. Raises ValueError if the file was made for another recipe than `recipe`.

        with_prompts: False leaves the prompts' text empty, which scoring does not need and decoding takes long to make.
        """
        with np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False) as arrays:
            about = _to_json(arrays["about"])
            made_for = Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in about["recipe"].items()})
            if recipe is not None and made_for != recipe:
                raise ValueError(f"{path} was made for {made_for}, not for {recipe}: make it again, or take that n.")
            streams = {name: [arrays[f"{name} {part}"] for part in _OF_STREAM] for name in about["text"]}
            tokens = np.split(arrays["tokens"].astype(np.int32), np.cumsum(arrays["n_tokens"])[:-1])
            samples = list(_samples(_to_json(arrays["records"]), tokens, with_prompts))
        bounds = np.cumsum([0, *about["cells"]])
        return cls(
            recipe=made_for,
            cells=tuple(tuple(samples[first:last]) for first, last in pairwise(bounds)),
            text={name: TokenStream(**dict(zip(_OF_STREAM, s, strict=True))) for name, s in streams.items()},
            data_sha256=about["data_sha256"],
        )


def prepare(recipe: Recipe, data: Path, jobs: int = os.cpu_count() or 1) -> Material:
    """Hide the stories, cut the held-out text (stories "babi" only). jobs: processes."""
    wanted = [(task, length, n) for task in TASKS for length, n in zip(recipe.lengths, recipe.n, strict=True)]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        cells = list(pool.map(cell_samples, *zip(*((recipe, data, *cell) for cell in wanted), strict=True)))
    streams, sha256 = {}, {}
    if recipe.stories == "babi":
        streams = text.held_out_streams(data, load_demo_tokenizer(), recipe.text_chars, recipe.seed)
        sha256 = {"babi_tasks_v1-2.tar.gz": file_sha256(data / "babi_tasks_v1-2.tar.gz")}
        sha256 |= {part: TextSource(location=str(data / part)).sha256() for part in ("novels", "pile_test")}
    return Material(recipe=recipe, cells=tuple(map(tuple, cells)), text=streams, data_sha256=sha256)


def main(recipe: str = "paper", data: Path = Path("../shared/data"), *, out: Path, n: tuple[int, ...] = ()) -> None:
    """Write the material of a recipe. n: prompts per cell instead of the recipe's, for each length or for all."""
    material = prepare(Recipe.read(recipe, n or None), data)
    material.save(out)
    n_tokens = sum(sample.n_tokens for cell in material.cells for sample in cell)
    print(f"{sum(map(len, material.cells)):,} prompts of {n_tokens:,} tokens; {out} has {out.stat().st_size:,} bytes")


def _samples(records: list[dict[str, Any]], tokens: Sequence[np.ndarray], with_prompts: bool) -> Iterator[NeedleSample]:
    prompts = [""] * len(records)
    if with_prompts:
        decode = load_demo_tokenizer().backend_tokenizer.decode_batch
        prompts = decode([own.tolist() for own in tokens], skip_special_tokens=False)
    for record, own, prompt in zip(records, tokens, prompts, strict=True):
        yield NeedleSample.from_record({**record, "tokens": own, "prompt": prompt})


def _from_json(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _to_json(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())


if __name__ == "__main__":
    tyro.cli(main)
