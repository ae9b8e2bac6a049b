"""Who may see which text: splits by hash, the same for every seed, file order and machine.

    u(text) = first 64 bits of sha256(text) / 2^64,  uniform in [0, 1)
    u <  0.85          lm_train     language-model training
    u <  0.95          lens_train   lens training
    otherwise          eval         evaluation

A document is hashed as its text; a story as its facts and question without filler. White space is
collapsed before hashing, so that a copy with other line breaks falls into the same split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal, get_args

Split = Literal["lm_train", "lens_train", "eval"]
SPLITS: tuple[Split, ...] = get_args(Split)
SPLIT_SHARES: dict[Split, float] = {"lm_train": 0.85, "lens_train": 0.10, "eval": 0.05}

# No text holds this character after white space is collapsed, so facts cannot run into each other.
_SEPARATOR = "\n"


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


def split_of_text(text: str) -> Split:
    """The split of a document."""
    return split_of_hash(text_hash(text))


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
