"""What of a text a lens is trained on, and what of it is held out to measure the lens: three ways to split.

    "run"      the text is this run's alone. Its documents stand in an order that their texts and the seed decide. The
               first are held out: as many as hold min(eval_tokens, a tenth of the text) tokens, and at least eight.
               Where these would be more than a fifth of the text (one book, a few documents), the end of every document
               is held out instead, as many tokens in all. The lens is trained on everything else.
    "hash"     the splits of the demo chain, by hash of each document (`splits`): 10 % train the lens, 5 % are held
               out, and 85 % are left to the training of the model itself.
    "whole"    nothing is trained: the lens is measured on all of the text.

Equal texts, white space aside, are never on both sides.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diffmamba_interp.lens.evaluation import HeldOutDocument
from diffmamba_interp.lens.recipe import LensRecipe
from diffmamba_interp.text import DataError, TextSource, TokenStream, bos_tokens, cached_tokens
from diffmamba_interp.text.documents import text_hash
from diffmamba_interp.text.token_stream import TokenArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Fewer documents say little about others of their kind.
MIN_DOCUMENTS = 8
# One part in so many of the text: the most that is held out, and the most that whole documents may take for it.
HELD_OUT_PART, DOCUMENTS_PART = 10, 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class LensText:
    """training: a run of tokens; None where it was not asked for. held_out: what the lens is measured on."""

    training: TokenArray | None
    held_out: list[HeldOutDocument]


def lens_text(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    recipe: LensRecipe,
    *,
    folder: str | Path,
    for_training: bool = True,
) -> LensText:
    """The two parts of a text as the recipe, whose schedule and split are resolved, splits it.

    folder: cache of tokens. for_training: False leaves out what only training needs.
    Raises DataError if there is too little text to train on or to hold out.
    """
    assert recipe.eval_tokens is not None
    options: dict[str, Any] = {"folder": folder, "seed": recipe.seed, "bos": recipe.bos}
    training: TokenArray | None = None
    if recipe.split == "hash":
        try:
            stream = cached_tokens(source, tokenizer, split="eval", **options)
            training = cached_tokens(source, tokenizer, split="lens_train", **options).tokens if for_training else None
        except DataError as error:
            hint = " By hash, 85 % of the documents are left to language-model training; --split run uses all of them."
            raise DataError(f"{error}{hint if 'there are no documents' in str(error) else ''}") from error
        stretches, what = _documents(stream, len(stream.ends)), "documents chosen by their hash"
    else:
        stream = cached_tokens(source, tokenizer, split=None, **options)
        n_tokens = min(recipe.eval_tokens, len(stream.tokens) // HELD_OUT_PART)
        n_documents = len(stream.ends) if recipe.split == "whole" else _n_held_out(stream, n_tokens, tokenizer)
        if n_documents:
            stretches, what = _documents(stream, n_documents), f"{n_documents:,} of {len(stream.ends):,} documents"
            training = stream.tokens[stream.ends[n_documents - 1] :] if for_training else None
        else:
            stretches = _ends(stream, n_tokens)
            what = f"the ends of {len(stretches):,} of {len(stream.ends):,} documents"
            training = _without(stream, stretches) if for_training else None
    held_out = _pieces(stream, stretches, tokenizer, recipe)
    if not held_out:
        raise DataError(
            f"{source.location} has {len(stream.tokens)} tokens, too few to hold any out for measuring the lens: give "
            "more text."
        )
    n_held_out = sum(len(piece.tokens) for piece in held_out)
    if training is not None:
        logger.info("training on %s tokens; held out are %s", f"{len(training):,}", what)
    logger.info("the lens is measured on %s held-out tokens in %d pieces", f"{n_held_out:,}", len(held_out))
    return LensText(training=training, held_out=held_out)


@dataclass(frozen=True)
class _Stretch:
    """Tokens [first, last) of a document of the stream, its end-of-text left out."""

    document: int
    first: int
    last: int


def _n_held_out(stream: TokenStream, n_tokens: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many of the first documents are held out to have `n_tokens`; 0 if that would take too much of the text."""
    n = max(int(np.searchsorted(stream.ends, n_tokens)) + 1, MIN_DOCUMENTS)
    # Equal texts stand beside each other.
    while n < len(stream.ends) and _hash(stream, n, tokenizer) == _hash(stream, n - 1, tokenizer):
        n += 1
    is_small = n < len(stream.ends) and stream.ends[n - 1] * DOCUMENTS_PART <= len(stream.tokens)
    return n if is_small else 0


def _hash(stream: TokenStream, document: int, tokenizer: PreTrainedTokenizerBase) -> str:
    return text_hash(str(tokenizer.decode(stream.document(document)[:-1].tolist())))


def _documents(stream: TokenStream, n: int) -> list[_Stretch]:
    """The first `n` documents."""
    firsts = [0, *stream.ends[: n - 1].tolist()]
    return [
        _Stretch(i, first, last - 1)
        for i, (first, last) in enumerate(zip(firsts, stream.ends[:n].tolist(), strict=True))
    ]


def _ends(stream: TokenStream, n_tokens: int) -> list[_Stretch]:
    """The end of every document, about `n_tokens` in all; none of a document that is too short for two tokens."""
    share = n_tokens / len(stream.tokens)
    stretches = []
    for whole in _documents(stream, len(stream.ends)):
        n = round(share * (whole.last - whole.first))
        if n >= 2:
            stretches.append(_Stretch(whole.document, whole.last - n, whole.last))
    return stretches


def _without(stream: TokenStream, stretches: Sequence[_Stretch]) -> TokenArray:
    """The stream's tokens less those of the stretches; every document keeps its end-of-text."""
    keep = np.ones(len(stream.tokens), dtype=bool)
    for stretch in stretches:
        keep[stretch.first : stretch.last] = False
    return stream.tokens[keep]


def _pieces(
    stream: TokenStream, stretches: Sequence[_Stretch], tokenizer: PreTrainedTokenizerBase, recipe: LensRecipe
) -> list[HeldOutDocument]:
    """About `eval_tokens` tokens of the stretches, in pieces of `sequence_length`: of each its first, then its second.

    By hash, of each its first alone: the demo chain's lenses were measured so.
    """
    assert recipe.eval_tokens is not None
    assert recipe.sequence_length is not None
    pieces: list[HeldOutDocument] = []
    n_tokens = 0
    # Before the first token that is predicted, something must stand.
    before = [] if bos_tokens(tokenizer, recipe.bos) else [tokenizer.eos_token_id]
    for turn in range(1) if recipe.split == "hash" else itertools.count():
        n_before_turn = len(pieces)
        for stretch in stretches:
            if n_tokens >= recipe.eval_tokens:
                return pieces
            piece = _piece(stream, stretch, turn, recipe.sequence_length, before, tokenizer)
            if piece is not None:
                pieces.append(piece)
                n_tokens += len(piece.tokens)
        if len(pieces) == n_before_turn:
            break
    return pieces


def _piece(
    stream: TokenStream,
    stretch: _Stretch,
    turn: int,
    length: int,
    before: list[int],
    tokenizer: PreTrainedTokenizerBase,
) -> HeldOutDocument | None:
    """Piece number `turn` of a stretch; its first token is the last one of the piece before. None if there is none."""
    document_first = int(stream.ends[stretch.document - 1]) if stretch.document else 0
    is_from_start = stretch.first == document_first
    before = before if is_from_start else []
    # Position 0 of a stretch is the first of `before`, where there is one.
    start = turn * (length - 1)
    first = max(stretch.first + start - len(before), stretch.first)
    kept = before if start == 0 else []
    ids = [*kept, *stream.tokens[first : min(first + length - len(kept), stretch.last)].tolist()]
    if len(ids) < 2:
        return None
    is_document = is_from_start and len(ids) == len(before) + stretch.last - stretch.first
    # A token may be part of a character, which then counts as the one that stands for what cannot be read.
    n_bytes = (
        int(stream.n_bytes[stretch.document]) if is_document else len(str(tokenizer.decode(ids[1:])).encode("utf-8"))
    )
    return HeldOutDocument(tokens=torch.tensor(ids), n_bytes=n_bytes)
