"""`Document`, and what may be done with a stream of them: keep a split, shuffle, fingerprint."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from diffmamba_interp.splits import Split, require_split, split_of_hash, text_hash
from diffmamba_interp.stable_random import StableRandom


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
