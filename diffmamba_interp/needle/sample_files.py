"""Prompts in a file, so that they are made where there are CPUs and text, and read where there is a GPU.

    lzma( npz( about: JSON, records: JSON without tokens and text, tokens, n_tokens ) )

The text of a prompt is left out, since its tokens hold it: a tokenizer that gives back every text is needed to read.
"""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.files.archives import arrays_from_bytes
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.checksums import DamagedFileError
from diffmamba_interp.files.json_files import parse_json
from diffmamba_interp.needle.records import NeedleSample

# Filler recurs from prompt to prompt, so even a low level of compression makes the file ten times smaller.
LZMA_PRESET = 3
REMEDY = "Delete it, and make the prompts again with `save_samples`."


def save_samples(path: str | Path, samples: Sequence[NeedleSample], about: Mapping[str, Any] | None = None) -> None:
    """Write prompts into one compressed file. about: JSON values that say how they were made."""
    no_tokens = np.empty(0, dtype=np.int32)
    records = [replace(sample, prompt="", tokens=no_tokens).to_record() for sample in samples]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        about=_from_json(dict(about or {})),
        records=_from_json(records),
        tokens=np.concatenate([no_tokens, *(sample.tokens for sample in samples)]),
        n_tokens=np.array([sample.n_tokens for sample in samples], dtype=np.int64),
    )
    write_bytes(path, lzma.compress(buffer.getvalue(), preset=LZMA_PRESET))


def load_samples(path: str | Path, tokenizer: PreTrainedTokenizerBase) -> tuple[list[NeedleSample], dict[str, Any]]:
    """The prompts that `save_samples` wrote, and what it was told about them.

    tokenizer: what the prompts were made with. Raises ValueError if it does not give back their text.
    """
    try:
        packed = lzma.decompress(Path(path).read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        raise DamagedFileError(f"{path} is no file of prompts, or a damaged one ({error}). {REMEDY}") from error
    arrays = arrays_from_bytes(packed, source=path, remedy=REMEDY, kind="file of prompts")
    missing = {"about", "records", "tokens", "n_tokens"} - arrays.keys()
    if missing:
        raise ValueError(f"{path} is no file of prompts: it lacks {', '.join(sorted(missing))}. {REMEDY}")
    about, records = (parse_json(arrays[name].tobytes(), source=path) for name in ("about", "records"))
    tokens = np.split(arrays["tokens"], np.cumsum(arrays["n_tokens"])[:-1]) if len(records) else []
    prompts = tokenizer.backend_tokenizer.decode_batch([own.tolist() for own in tokens], skip_special_tokens=False)
    samples = [
        NeedleSample.from_record({**record, "tokens": own, "prompt": prompt})
        for record, own, prompt in zip(records, tokens, prompts, strict=True)
    ]
    for sample in samples:
        # Spans were measured on the text that the prompt was made of.
        question = sample.question_span
        if sample.prompt[question.char_start : question.char_end] != sample.question:
            raise ValueError(f"the tokenizer does not give back the prompts of {path}: it is not the one they are of.")
    return samples, about


def _from_json(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
