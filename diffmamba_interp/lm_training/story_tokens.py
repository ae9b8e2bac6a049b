"""Tokens of stories and questions, each piece tokenised once and kept, spliced at spaces.

    <context>F1 F2 ... Fn</context> Question: Q Answer: A Question: Q2 Answer: A2

The evaluation's prompt and answer, then further pairs. A piece is cut only before a space, where the
tokenizer starts a new word, so the joined tokens are those of the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle.filler import splices_at_spaces
from diffmamba_interp.needle.prompts import CONTEXT_CLOSE, CONTEXT_OPEN, answer_text

MAX_KEPT = 300_000

_EDGES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.:?>")


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
        found = self._kept.get(text)
        if found is None:
            found = self.ids_once(text)
            if len(self._kept) < MAX_KEPT:
                self._kept[text] = found
        return found

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
