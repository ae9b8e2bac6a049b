"""Tokens of many documents in one memory-mapped array, and a cache of such arrays.

    document 0, end-of-text, document 1, end-of-text, ...

Where it is asked for, each document begins with the tokenizer's beginning-of-text token (see `tokenizer.bos_tokens`).

Tokens are uint16 where the vocabulary allows, else uint32. A stream is three files beside each other:
`<name>.npy` (tokens), `<name>.ends.npy` and `<name>.bytes.npy`. Each is written under a temporary name and
renamed when complete, the tokens last, and has its sha256 beside it, which is compared when the stream is opened.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int64, UInt16, UInt32

from diffmamba_interp.files.checksums import DamagedFileError, check_sum, replacing_with_sum
from diffmamba_interp.text.documents import (
    Bos,
    DataError,
    Document,
    Split,
    documents_of_split,
    order_by_hash,
    require_split,
    shuffle_documents,
)
from diffmamba_interp.text.locations import kind_of_file
from diffmamba_interp.text.sources import TextSource
from diffmamba_interp.text.tokenizer import bos_tokens, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TokenArray = UInt16[np.ndarray, " token"] | UInt32[np.ndarray, " token"]

REMEDY = "Make it with diffmamba_interp.text.write_tokens."
_DOCUMENTS_PER_CALL = 64
# Part of the name of a cached stream: another number where the same files are read otherwise than before.
_READING = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenStream:
    """Documents as one run of tokens.

    tokens: all documents, each followed by end-of-text (and behind a beginning-of-text token if one was asked for).
    ends: index in `tokens` after each document's end-of-text.
    n_bytes: UTF-8 bytes of each document (end-of-text counts none), for losses in bits per byte.
    """

    tokens: TokenArray
    ends: Int64[np.ndarray, " document"]
    n_bytes: Int64[np.ndarray, " document"]

    @classmethod
    def load(cls, path: str | Path, *, remedy: str = REMEDY) -> TokenStream:
        """A stream written by `write_tokens`, mapped into memory.

        remedy: what to do about a damaged one, for the error.
        Raises FileNotFoundError if there is none; DataError or DamagedFileError (both ValueErrors), with the file and
        what to do, if a part is missing, damaged, or does not agree with the others.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "there is no token stream", str(path))
        tokens = _load(path, remedy, mmap_mode="r")
        ends, n_bytes = (_load(part, remedy) for part in _parts(path))
        if len(ends) != len(n_bytes) or (ends[-1] if len(ends) else 0) != len(tokens) or (np.diff(ends) < 0).any():
            raise DataError(f"{path} and its .ends and .bytes files do not belong together. {remedy}")
        return cls(tokens=tokens, ends=ends, n_bytes=n_bytes)

    def document(self, index: int) -> TokenArray:
        """The tokens of one document, end-of-text included."""
        start = self.ends[index - 1] if index % len(self.ends) else 0
        return self.tokens[start : self.ends[index]]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Iterator[list[int]]:
    """Token ids of each text as plain text: nothing is added, and special tokens' names are only letters.

    What the tokenizer would put before a text is `tokenizer.bos_tokens`.
    """
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
    bos: Bos = "never",
) -> TokenStream:
    """Tokenise documents into `path` (ending in .npy) and its two neighbours; existing ones are replaced.

    max_tokens: stop after the document that reaches it; `None` takes all.
    bos: whether each document begins with the tokenizer's beginning-of-text token (see `tokenizer.bos_tokens`).
    Raises DataError if there are no documents or the tokenizer has no end-of-text token.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"{path}: a token stream's name must end in .npy.")
    end_of_text = tokenizer.eos_token_id
    if end_of_text is None:
        raise DataError("the tokenizer has no end-of-text token (eos_token), which must separate documents.")
    before = bos_tokens(tokenizer, bos)
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    ends, n_bytes, total = [], [], 0
    with replacing_with_sum(path, several_writers=True) as file:
        _write_header(file, dtype, 0)
        for document, ids in _encode_documents(documents, tokenizer):
            file.write(np.asarray([*before, *ids, end_of_text], dtype=dtype).tobytes())
            total += len(before) + len(ids) + 1
            ends.append(total)
            n_bytes.append(len(document.text.encode("utf-8")))
            if max_tokens is not None and total >= max_tokens:
                break
        if not ends:
            raise DataError("there are no documents to tokenise: give more text, or another split.")
        _write_header(file, dtype, total)
        for part, values in zip(_parts(path), (ends, n_bytes), strict=True):
            with replacing_with_sum(part, several_writers=True) as part_file:
                np.save(part_file, np.asarray(values, dtype=np.int64))
    return TokenStream.load(path)


def cached_tokens(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: Split | None,
    folder: str | Path,
    seed: int = 0,
    max_tokens: int | None = None,
    bos: Bos = "never",
) -> TokenStream:
    """The tokens of one split of a source, its documents shuffled by `seed`; made once, then mapped.

    split: `None` takes all documents, in an order that only they and the seed decide, equal ones beside each other.
    folder: the cache. The file's name is a hash of the text's sha256 and the kinds of its files, the tokenizer, split,
        seed, `max_tokens` and what begins a document, so a change of any of them makes another file.
    bos: see `write_tokens`.
    """
    parts = (source.sha256(), tokenizer_hash(tokenizer), split and require_split(split), seed, max_tokens)
    # The same bytes are other text in a file of another kind.
    kinds = [kind_of_file(path) for path in source.files()]
    key = "\n".join(map(str, (_READING, *parts, bos_tokens(tokenizer, bos), *kinds)))
    path = Path(folder) / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if path.is_file():
        logger.info("tokens of %s (%s) from the cache: %s", source.location, split, path)
        return TokenStream.load(path, remedy=f"Delete {path.stem}* in {path.parent}: the next run makes it again.")
    documents: Iterable[Document]
    if split is None:
        documents = order_by_hash(source.documents(), seed=seed)
    else:
        documents = shuffle_documents(documents_of_split(source.documents(), split), seed=seed)
    try:
        stream = write_tokens(documents, tokenizer, path, max_tokens=max_tokens, bos=bos)
    except DataError as error:
        # What is wrong with a file says where; what is wrong with a split does not.
        raise DataError(f"{source.location}, split {split!r}: {error}" if split else str(error)) from error
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


def _load(path: Path, remedy: str, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    try:
        check_sum(path, remedy=remedy)
        values = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. {remedy}") from error
    except DamagedFileError:
        raise
    except (EOFError, ValueError) as error:
        raise DataError(f"{path} is no token stream, or was cut off ({error}). {remedy}") from error
    if values.ndim != 1 or values.dtype.kind not in "iu":
        kind = f"{values.dtype} of shape {values.shape}"
        raise DataError(f"{path} is no token stream: it holds {kind}, not a run of whole numbers. {remedy}")
    return values


def _parts(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".ends.npy"), path.with_suffix(".bytes.npy")


def _write_header(file: IO[bytes], dtype: np.dtype, n_tokens: int) -> None:
    """The .npy header at the file's start; numpy pads it so that a longer shape takes no more room."""
    file.seek(0)
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n_tokens,)}
    np.lib.format.write_array_header_1_0(file, description)
