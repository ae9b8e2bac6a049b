"""Filler as token arrays only: sentences with one space before each, as `needle.Filler` has them, without text.

`needle.Filler` also keeps every token's place in the text, which training has no use for and which would
take gigabytes for the tens of millions of tokens that training hides stories in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt32
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle.filler import split_sentences
from diffmamba_interp.text import DataError, TokenStream, encode_texts

# A run of filler is decoded in pieces of about this many tokens, so that one long novel needs little memory.
_PIECE_TOKENS = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class FillerTokens:
    """Sentence i is tokens[bounds[i]:bounds[i + 1]]."""

    tokens: UInt32[np.ndarray, " token"]
    bounds: Int64[np.ndarray, " sentence_bounds"]

    @classmethod
    def from_streams(
        cls, tokenizer: PreTrainedTokenizerBase, streams: Sequence[TokenStream], max_tokens: int | None
    ) -> FillerTokens:
        """The text of the streams, cut into sentences; about `max_tokens` of each stream, spread over it.

        Raises DataError if there is no sentence in them.
        """
        sentences = (sentence for stream in streams for sentence in _sentences(tokenizer, stream, max_tokens))
        parts = [np.asarray(ids, dtype=np.uint32) for ids in encode_texts(tokenizer, sentences)]
        if not parts:
            raise DataError("the filler holds no sentence: name token streams with running text.")
        bounds = np.cumsum([0, *map(len, parts)])
        return cls(tokens=np.concatenate(parts), bounds=bounds)

    def stretch(self, start: int, budget: int) -> tuple[int, int]:
        """The sentences [start, end) from `start` on that have at most `budget` tokens together."""
        end = int(np.searchsorted(self.bounds, self.bounds[start] + budget, side="right")) - 1
        return start, end

    def n_starts(self, budget: int) -> int:
        """How many sentences are followed by at least `budget` tokens."""
        return int(np.searchsorted(self.bounds, self.bounds[-1] - budget, side="right"))


def _sentences(tokenizer: PreTrainedTokenizerBase, stream: TokenStream, max_tokens: int | None) -> Iterator[str]:
    for ids in _pieces(stream, max_tokens):
        text = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
        # The cut-off ends of a piece are no sentences.
        for sentence in split_sentences(text)[1:-1]:
            yield f" {sentence}"


def _pieces(stream: TokenStream, max_tokens: int | None) -> Iterable[list[int]]:
    """Pieces of documents, all of them or every n-th."""
    spans = []
    start = 0
    for end in stream.ends.tolist():
        spans += [(at, min(at + _PIECE_TOKENS, end - 1)) for at in range(start, end - 1, _PIECE_TOKENS)]
        start = end
    total = sum(end - begin for begin, end in spans)
    keep = 1.0 if max_tokens is None else min(1.0, max_tokens / max(total, 1))
    for index, (begin, end) in enumerate(spans):
        if int((index + 1) * keep) > int(index * keep):
            yield stream.tokens[begin:end].tolist()
