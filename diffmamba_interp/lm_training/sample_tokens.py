"""Tokens of what retrieval rows are put together from: stories and questions, each piece tokenised once, and filler.

    <context>F1 F2 ... Fn</context> Question: Q Answer: A Question: Q2 Answer: A2

The evaluation's prompt and answer, then further pairs. A piece is cut only before a space, where the
tokenizer starts a new word, so the joined tokens are those of the whole text.

Filler is token arrays only: sentences with one space before each, as `needle.Filler` has them. That one also keeps
every token's place in the text, which training has no use for and which would take gigabytes for the tens of millions
of tokens that training hides stories in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt32
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle.filler import splices_at_spaces, split_sentences
from diffmamba_interp.needle.haystack import CONTEXT_CLOSE, CONTEXT_OPEN, answer_text
from diffmamba_interp.text import DataError, TokenStream, encode_texts

MAX_KEPT = 300_000

_EDGES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.:?>")
# A run of filler is decoded in pieces of about this many tokens, so that one long novel needs little memory.
_PIECE_TOKENS = 20_000


class PieceTokens:
    """Token ids of pieces of text. Raises ValueError for a tokenizer that joins words across a space."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not splices_at_spaces(tokenizer, _EDGES, _EDGES):
            raise ValueError(
                "this tokenizer may join words across a space, so training samples cannot be put together from "
                "tokens: train one with diffmamba_interp.text.train_tokenizer, or choose one that splits at spaces."
            )
        # A copy of our own: special tokens' names in the text are only letters here.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True
        self._kept: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece that comes again and again: kept, so do not change the list."""
        ids = self._kept.get(text)
        if ids is None:
            ids = self.ids_once(text)
            if len(self._kept) < MAX_KEPT:
                self._kept[text] = ids
        return ids

    def ids_once(self, text: str) -> list[int]:
        """Token ids of a piece that will hardly come again."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def opening(self, first: str, *, once: bool = False) -> list[int]:
        """`<context>` and the context's first sentence."""
        return (self.ids_once if once else self.ids)(f"{CONTEXT_OPEN}{first}")

    def closing(self, last: str, *, once: bool = False) -> list[int]:
        """The context's last sentence, if it is not also the first, and `</context>`."""
        return (self.ids_once if once else self.ids)(f" {last}{CONTEXT_CLOSE}")

    def only(self, sentence: str) -> list[int]:
        """A context of one sentence, with both tags."""
        return self.ids(f"{CONTEXT_OPEN}{sentence}{CONTEXT_CLOSE}")

    def fact(self, sentence: str) -> list[int]:
        """A sentence between others."""
        return self.ids(f" {sentence}")

    def question(self, question: str) -> list[int]:
        """What stands between the context, or an earlier answer, and the answer."""
        return self.ids(f" Question: {question} Answer:")

    def answer(self, label: str) -> list[int]:
        """The answer."""
        return self.ids(answer_text(label))

    def bare_context(self, facts: Sequence[str]) -> list[int]:
        """A context of facts alone, with both tags."""
        if len(facts) == 1:
            return self.only(facts[0])
        ids = [*self.opening(facts[0])]
        for fact in facts[1:-1]:
            ids += self.fact(fact)
        return ids + self.closing(facts[-1])


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
