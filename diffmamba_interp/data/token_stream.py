"""Tokens of many documents in one memory-mapped array, and a cache of such arrays.

    document 0, end-of-text, document 1, end-of-text, ...

Tokens are uint16 where the vocabulary allows, else uint32. A stream is three files beside each other:
`<name>.npy` (tokens), `<name>.ends.npy` and `<name>.bytes.npy`. Each is written under a temporary name and
renamed when complete, the tokens last.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64, UInt16, UInt32
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.data.documents import DataError, Document, documents_of_split, shuffle_documents
from diffmamba_interp.data.sources import TextSource
from diffmamba_interp.data.tokenizer import tokenizer_hash
from diffmamba_interp.files.atomic import replacing
from diffmamba_interp.splits import Split, require_split

logger = logging.getLogger(__name__)

TokenArray = UInt16[np.ndarray, " token"] | UInt32[np.ndarray, " token"]

_DOCUMENTS_PER_CALL = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenStream:
    """Documents as one run of tokens.

    tokens: all documents, each followed by end-of-text.
    ends: index in `tokens` after each document's end-of-text.
    n_bytes: UTF-8 bytes of each document (end-of-text counts none), for losses in bits per byte.
    """

    tokens: TokenArray
    ends: Int64[np.ndarray, " document"]
    n_bytes: Int64[np.ndarray, " document"]

    @classmethod
    def load(cls, path: str | Path) -> TokenStream:
        """A stream written by `write_tokens`, mapped into memory.

        Raises FileNotFoundError if a part is missing, DataError if the parts do not agree.
        """
        path = Path(path)
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        ends, n_bytes = (np.load(part, allow_pickle=False) for part in _parts(path))
        if len(ends) != len(n_bytes) or (ends[-1] if len(ends) else 0) != len(tokens):
            raise DataError(f"{path} and its .ends and .bytes files do not belong together: make them again.")
        return cls(tokens=tokens, ends=ends, n_bytes=n_bytes)

    def document(self, index: int) -> TokenArray:
        """The tokens of one document, end-of-text included."""
        start = self.ends[index - 1] if index % len(self.ends) else 0
        return self.tokens[start : self.ends[index]]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Iterator[list[int]]:
    """Token ids of each text as plain text: nothing is added, and special tokens' names are only letters."""
    texts = iter(texts)
    while group := list(itertools.islice(texts, _DOCUMENTS_PER_CALL)):
        encoded = tokenizer(
            group,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        yield from encoded["input_ids"]


def write_tokens(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    *,
    max_tokens: int | None = None,
) -> TokenStream:
    """Tokenise documents into `path` (ending in .npy) and its two neighbours; existing ones are replaced.

    max_tokens: stop after the document that reaches it; `None` takes all.
    Raises DataError if there are no documents or the tokenizer has no end-of-text token.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"{path}: a token stream's name must end in .npy.")
    end_of_text = tokenizer.eos_token_id
    if end_of_text is None:
        raise DataError("the tokenizer has no end-of-text token (eos_token), which must separate documents.")
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    ends, n_bytes, total = [], [], 0
    with replacing(path, several_writers=True) as file:
        _write_header(file, dtype, 0)
        for document, ids in _encode_documents(documents, tokenizer):
            file.write(np.asarray([*ids, end_of_text], dtype=dtype).tobytes())
            total += len(ids) + 1
            ends.append(total)
            n_bytes.append(len(document.text.encode("utf-8")))
            if max_tokens is not None and total >= max_tokens:
                break
        if not ends:
            raise DataError("there are no documents to tokenise: give more text, or another split.")
        _write_header(file, dtype, total)
        for part, values in zip(_parts(path), (ends, n_bytes), strict=True):
            with replacing(part, several_writers=True) as part_file:
                np.save(part_file, np.asarray(values, dtype=np.int64))
    return TokenStream.load(path)


def cached_tokens(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: Split,
    folder: str | Path,
    seed: int = 0,
    max_tokens: int | None = None,
) -> TokenStream:
    """The tokens of one split of a source, its documents shuffled by `seed`; made once, then mapped.

    folder: the cache. The file's name is a hash of the text's sha256, the tokenizer, split, seed and
        `max_tokens`, so a change of any of them makes another file.
    """
    key = "\n".join(map(str, (source.sha256(), tokenizer_hash(tokenizer), require_split(split), seed, max_tokens)))
    path = Path(folder) / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if path.is_file():
        logger.info("tokens of %s (%s) from the cache: %s", source.location, split, path)
        return TokenStream.load(path)
    documents = shuffle_documents(documents_of_split(source.documents(), split), seed=seed)
    try:
        stream = write_tokens(documents, tokenizer, path, max_tokens=max_tokens)
    except DataError as error:
        raise DataError(f"{source.location}, split {split!r}: {error}") from error
    logger.info(
        "%d tokens of %d documents of %s (%s) written to %s",
        *(len(stream.tokens), len(stream.ends), source.location, split, path),
    )
    return stream


def _encode_documents(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Document, list[int]]]:
    documents = iter(documents)
    while group := list(itertools.islice(documents, _DOCUMENTS_PER_CALL)):
        texts = [document.text for document in group]
        yield from zip(group, encode_texts(tokenizer, texts), strict=True)


def _parts(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".ends.npy"), path.with_suffix(".bytes.npy")


def _write_header(file: IO[bytes], dtype: np.dtype, n_tokens: int) -> None:
    """The .npy header at the file's start; numpy pads it so that a longer shape takes no more room."""
    file.seek(0)
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n_tokens,)}
    np.lib.format.write_array_header_1_0(file, description)
