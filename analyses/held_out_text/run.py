"""How many bits per byte does each of the bundled pair need for text that was held out, document by document?

    python analyses/held_out_text/run.py --recipe builtin      generated documents
    python analyses/held_out_text/run.py --recipe paper        held-out documents of The Pile, from --data

Every document is read by itself, from an end-of-text token on. Writes records.parquet, results.json and figures into a
folder named after the recipe, then README.md.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.held_out_text import report
from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.question import Asked, Options, Parts, Question, joined
from diffmamba_interp.analysis.results import data_sha256, write_records
from diffmamba_interp.files.archives import arrays_from_bytes, arrays_to_bytes
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.json_files import json_text
from diffmamba_interp.lm_training.evaluation import document_bits
from diffmamba_interp.models.demo import DemoName, load_demo_tokenizer
from diffmamba_interp.text import Document, TextSource, documents_of_split, encode_texts
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.sources import GENERATED

BATCH_TOKENS = {"cpu": 8_192, "cuda": 131_072}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """text: "generated" (`n_chars` characters), or a folder of `--data`. length: tokens of a row."""

    text: str
    length: int
    seed: int
    n_chars: int = 0


def measure(asked: Asked, name: DemoName) -> dict[str, Any]:
    """One line per document: where it is from, its bytes and tokens, and the bits that the model needs for it."""
    held = read_documents(asked)
    documents = np.split(held["tokens"], np.cumsum(held["n_tokens"])[:-1])
    bits = document_bits(
        asked.load(name),
        documents,
        before=load_demo_tokenizer().eos_token_id,
        length=asked.recipe.length,
        batch_tokens=asked.by_device(BATCH_TOKENS),
    )
    about = {key: held[key] for key in ("source", "document", "n_bytes", "n_tokens")}
    return {"model": np.full(len(bits), name), **about, "bits": bits}


def write_documents(recipe: Recipe, options: Options, path: Path) -> None:
    """Tokens, sources and sizes of the documents, the recipe and the sums of the text in a file."""
    if recipe.text == GENERATED:
        texts = generated_documents(n_chars=recipe.n_chars, seed=recipe.seed)
        by_source, sums = {GENERATED: [Document(text, f"{place}") for place, text in enumerate(texts)]}, {}
    else:
        files = sorted((options.data / recipe.text).glob("*.jsonl.gz"))
        by_source = {
            file.name.split(".")[0]: list(documents_of_split(TextSource(location=str(file)).documents(), "eval"))
            for file in files
        }
        sums = data_sha256({recipe.text: options.data / recipe.text})
    documents = [(source, document) for source, own in by_source.items() for document in own]
    if not documents:
        raise ValueError(f"{options.data / recipe.text} holds no held-out document: give --data the folder above it.")
    encoded = list(encode_texts(load_demo_tokenizer(), [document.text for _, document in documents]))
    arrays = {
        "tokens": np.concatenate([np.asarray(ids, dtype=np.uint16) for ids in encoded]),
        "n_tokens": np.array([len(ids) for ids in encoded]),
        "n_bytes": np.array([len(document.text.encode("utf-8")) for _, document in documents]),
        "source": np.array([source for source, _ in documents]),
        "document": np.array([document.hash[:16] for _, document in documents]),
        "recipe": np.array(json_text(asdict(recipe))),
        "sums": np.array(list(sums.values()), dtype=str),
    }
    write_bytes(path, arrays_to_bytes(arrays))


def read_documents(asked: Asked) -> dict[str, np.ndarray]:
    """What `write_documents` wrote. Raises ValueError for another recipe's."""
    path = asked.material
    assert path is not None
    held = arrays_from_bytes(path.read_bytes(), source=path, remedy="Prepare it again.", kind="file of documents")
    if held["recipe"].item() != json_text(asdict(asked.recipe)):
        raise ValueError(f"{path} was made for {held['recipe']}, not for {asked.recipe}: prepare it again.")
    return held


def sums_of_documents(asked: Asked) -> dict[str, str]:
    return dict(zip([asked.recipe.text], read_documents(asked)["sums"].tolist(), strict=False))


def keep(folder: Path, recipe: Recipe, parts: Parts) -> None:
    """Bits to a tenth, of thousands a document."""
    write_records(folder / RECORDS, joined(parts), decimals=1)


QUESTION = Question(
    recipe=Recipe,
    prepare=write_documents,
    sums=sums_of_documents,
    measure=measure,
    keep=keep,
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
