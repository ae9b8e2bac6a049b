"""Bits per byte of held-out text: every subset of The Pile's held-out documents, and held-out novels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.lm_training.evaluation import bits_per_byte
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.text import TextSource, TokenStream
from diffmamba_interp.text.documents import documents_of_split, shuffle_documents
from diffmamba_interp.text.token_stream import encode_texts

ROW_TOKENS = 1024
# A sample of a subset is made of pieces of about so many documents.
N_DOCUMENTS = 8
_OF_STREAM = {"tokens": np.uint16, "ends": np.int64, "n_bytes": np.int64}


def measure(
    model: HookedMamba, streams: dict[str, TokenStream], batch_tokens: int
) -> dict[str, dict[str, float | int]]:
    """Per text and for "pile" (all but the novels together): bits_per_byte, n_bytes, n_tokens, n_documents."""
    by_text: dict[str, dict[str, float | int]] = {}
    for name, stream in streams.items():
        by_text[name] = {
            "bits_per_byte": bits_per_byte(model, stream, length=ROW_TOKENS, batch_tokens=batch_tokens),
            "n_bytes": int(stream.n_bytes.sum()),
            "n_tokens": len(stream.tokens),
            "n_documents": len(stream.ends),
        }
    subsets = [values for name, values in by_text.items() if name != "novels"]
    total = {key: int(sum(one[key] for one in subsets)) for key in ("n_bytes", "n_tokens", "n_documents")}
    bits = sum(one["bits_per_byte"] * one["n_bytes"] for one in subsets)
    return {**by_text, "pile": {"bits_per_byte": bits / total["n_bytes"], **total}}


def held_out_streams(
    data: Path, tokenizer: PreTrainedTokenizerBase, n_chars: int | None, seed: int
) -> dict[str, TokenStream]:
    """Held-out documents of every subset of The Pile and of the novels."""
    paths = [*sorted((data / "pile_test").glob("*.jsonl.gz")), data / "novels"]
    return {path.name.split(".")[0]: held_out_stream(path, tokenizer, n_chars, seed) for path in paths}


def held_out_stream(path: Path, tokenizer: PreTrainedTokenizerBase, n_chars: int | None, seed: int) -> TokenStream:
    """Held-out documents of one source; with `n_chars`, a piece of each of several, from its middle."""
    documents = list(documents_of_split(TextSource(location=str(path)).documents(), "eval"))
    texts = [document.text for document in shuffle_documents(documents, seed=seed)]
    if n_chars is not None:
        texts = _pieces(texts, n_chars)
    tokens = [[*ids, tokenizer.eos_token_id] for ids in encode_texts(tokenizer, texts)]
    return TokenStream(
        tokens=np.concatenate([np.asarray(ids, dtype=np.uint16) for ids in tokens]),
        ends=np.cumsum([len(ids) for ids in tokens]).astype(np.int64),
        n_bytes=np.array([len(text.encode("utf-8")) for text in texts], dtype=np.int64),
    )


def to_json(streams: dict[str, TokenStream]) -> dict[str, dict[str, list[int]]]:
    """Streams as JSON has them, for the file of prompts."""
    return {name: {part: getattr(stream, part).tolist() for part in _OF_STREAM} for name, stream in streams.items()}


def from_json(values: dict[str, dict[str, list[int]]]) -> dict[str, TokenStream]:
    """The inverse of `to_json`."""
    return {
        name: TokenStream(**{part: np.array(numbers, dtype=_OF_STREAM[part]) for part, numbers in parts.items()})
        for name, parts in values.items()
    }


def _pieces(texts: list[str], n_chars: int) -> list[str]:
    """About `n_chars` characters in all, from the middle of documents that are longer than their share."""
    share = n_chars // min(len(texts), N_DOCUMENTS)
    pieces: list[str] = []
    for text in texts:
        if sum(map(len, pieces)) >= n_chars:
            break
        start = max(len(text) - share, 0) // 2
        pieces.append(text[start : start + share])
    return pieces
