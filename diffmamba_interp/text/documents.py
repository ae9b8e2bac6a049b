"""`Document`, its split, and what may be done with a stream of them: keep a split, shuffle, fingerprint.

Who may see which text is decided by hash, the same for every seed, file order and machine:

    u(text) = first 64 bits of sha256(text) / 2^64,  uniform in [0, 1)
    u <  0.85          lm_train     language-model training
    u <  0.95          lens_train   lens training
    otherwise          eval         evaluation

A document is hashed as its text; a story as its facts and question without filler. White space is
collapsed before hashing, so that a copy with other line breaks falls into the same split.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from diffmamba_interp.text.stable_random import StableRandom

Split = Literal["lm_train", "lens_train", "eval"]
SPLITS: tuple[Split, ...] = get_args(Split)
SPLIT_SHARES: dict[Split, float] = {"lm_train": 0.85, "lens_train": 0.10, "eval": 0.05}

Bos = Literal["auto", "always", "never"]
"""Whether a document begins with the tokenizer's beginning-of-text token; see `tokenizer.bos_tokens`."""

# No text holds this character after white space is collapsed, so facts cannot run into each other.
_SEPARATOR = "\n"


class DataError(ValueError):
    """Data that cannot be read or does not suffice; the message says what to do."""


@dataclass(frozen=True)
class Document:
    """One text and where it comes from (a file and line, a hub id and row, or a generator)."""

    text: str
    source: str

    @cached_property
    def hash(self) -> str:
        """Sha256 of the text, white space collapsed: what decides the split."""
        return text_hash(self.text)


def documents_of_split(documents: Iterable[Document], split: Split) -> Iterator[Document]:
    """Those documents whose hash falls into `split`, in order."""
    require_split(split)
    return (document for document in documents if split_of_hash(document.hash) == split)


def shuffle_documents(
    documents: Iterable[Document], *, seed: int, buffer_size: int | None = None
) -> Iterator[Document]:
    """All documents in an order that `seed` decides, the same on every machine.

    buffer_size: `None` reads all before the first is given (any order is possible); a number keeps so many
        in memory and gives a random one of them each time, for streams that are too long to hold.
    """
    rng = StableRandom("documents", seed)
    stream = iter(documents)
    if buffer_size is None:
        yield from rng.shuffled(list(stream))
        return
    if buffer_size < 1:
        raise ValueError(f"buffer_size is {buffer_size}: it must be positive, or None to hold everything.")
    buffer = list(itertools.islice(stream, buffer_size))
    for document in stream:
        slot = rng.integer(len(buffer))
        yield buffer[slot]
        buffer[slot] = document
    yield from rng.shuffled(buffer)


def order_by_hash(documents: Iterable[Document], *, seed: int) -> list[Document]:
    """All documents in an order that only their texts and `seed` decide; equal texts stand beside each other."""
    return sorted(documents, key=lambda document: hashlib.sha256(f"{seed} {document.hash}".encode()).digest())


def documents_sha256(documents: Iterable[Document]) -> str:
    """Sha256 over the documents' texts in order: what a result that was made with them records."""
    total = hashlib.sha256()
    for document in documents:
        encoded = document.text.encode("utf-8", "surrogatepass")
        total.update(len(encoded).to_bytes(8, "big"))
        total.update(encoded)
    return total.hexdigest()


def text_hash(text: str) -> str:
    """Sha256 of a document's text, white space collapsed: 64 hexadecimal digits."""
    return _sha256(_collapse(text))


def story_hash(facts: Iterable[str], question: str) -> str:
    """Sha256 of a story's facts, in order, and its question: 64 hexadecimal digits."""
    return _sha256(_SEPARATOR.join([*map(_collapse, facts), _collapse(question)]))


def split_of_hash(digest: str) -> Split:
    """The split of a document or story whose hash is `digest` (hexadecimal, 16 digits or more)."""
    u = int(digest[:16], 16) / 2**64
    if u < SPLIT_SHARES["lm_train"]:
        return "lm_train"
    if u < SPLIT_SHARES["lm_train"] + SPLIT_SHARES["lens_train"]:
        return "lens_train"
    return "eval"


def require_split(split: str) -> Split:
    """`split` itself if it names one; ValueError, with the names, if not."""
    for known in SPLITS:
        if split == known:
            return known
    raise ValueError(f"split is {split!r}: it must be one of {', '.join(SPLITS)}.")


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _sha256(text: str) -> str:
    # JSON may hold half of a surrogate pair, which plain UTF-8 refuses.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
