"""Filler: running text cut into sentences and tokenised once, from which prompts take runs of sentences.

Each sentence is kept with one space before it and no other run of white space. Where the tokenizer always
starts a new word at such a space, the tokens of " A." followed by those of " B." are the tokens of
" A. B.", so prompts can be spliced together from token arrays (`splices_at_spaces` decides).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32, Int64

from diffmamba_interp.argument_checks import checked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Text without full stops (tables, code) is cut at spaces into chunks of at most this many characters.
MAX_SENTENCE_CHARS = 320

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'\u2019\u201d)\]]*\s+(?=[\"'\u2018\u201c(\[]*[A-Z0-9])|\n\s*\n")
_ENCODE_CHARS = 50_000


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenisedText:
    """A text with its tokens; token i covers the characters [starts[i], ends[i])."""

    text: str
    tokens: Int32[np.ndarray, " pos"]
    starts: Int64[np.ndarray, " pos"]
    ends: Int64[np.ndarray, " pos"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Filler:
    """Sentences of filler, tokenised.

    text: all sentences, each with one space before it.
    tokens, starts, ends: its tokens and the characters that each covers.
    sentence_chars, sentence_tokens: sentence i is text[sentence_chars[i]:sentence_chars[i + 1]] and
        tokens[sentence_tokens[i]:sentence_tokens[i + 1]].
    """

    text: str
    tokens: Int32[np.ndarray, " pos"]
    starts: Int64[np.ndarray, " pos"]
    ends: Int64[np.ndarray, " pos"]
    sentence_chars: Int64[np.ndarray, " sentence_bounds"]
    sentence_tokens: Int64[np.ndarray, " sentence_bounds"]

    @classmethod
    @checked
    def from_texts(cls, tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str]) -> Filler:
        """Cut `texts` into sentences and tokenise them.

        Raises ValueError if they hold no sentence, or if the tokenizer reports no character offsets.
        """
        sentences = [
            sentence for text in ([texts] if isinstance(texts, str) else texts) for sentence in split_sentences(text)
        ]
        if not sentences:
            raise ValueError("the filler holds no sentence: give at least one text that is not blank.")
        lengths = np.array([0, *(len(sentence) + 1 for sentence in sentences)], dtype=np.int64)
        sentence_chars = np.cumsum(lengths)
        text = "".join(f" {sentence}" for sentence in sentences)
        parts = []
        first = 0
        while first < len(sentences):
            until = np.searchsorted(sentence_chars, sentence_chars[first] + _ENCODE_CHARS, side="right") - 1
            last = max(int(until), first + 1)
            parts.append((int(sentence_chars[first]), int(sentence_chars[last])))
            first = last
        encoded = tokenise(tokenizer, [text[start:end] for start, end in parts])
        starts = np.concatenate([part.starts + start for part, (start, _) in zip(encoded, parts, strict=True)])
        ends = np.concatenate([part.ends + start for part, (start, _) in zip(encoded, parts, strict=True)])
        return cls(
            text=text,
            tokens=np.concatenate([part.tokens for part in encoded]),
            starts=starts,
            ends=ends,
            sentence_chars=sentence_chars,
            sentence_tokens=np.searchsorted(starts, sentence_chars, side="left").astype(np.int64),
        )

    def run(self, first: int, last: int) -> TokenisedText:
        """Sentences `first` up to, not including, `last`."""
        chars = slice(self.sentence_chars[first], self.sentence_chars[last])
        tokens = slice(self.sentence_tokens[first], self.sentence_tokens[last])
        return TokenisedText(
            text=self.text[chars],
            tokens=self.tokens[tokens],
            starts=self.starts[tokens] - chars.start,
            ends=self.ends[tokens] - chars.start,
        )

    @cached_property
    def edge_characters(self) -> tuple[frozenset[str], frozenset[str]]:
        """The characters that sentences start and end with."""
        firsts = frozenset(self.text[index + 1] for index in self.sentence_chars[:-1])
        lasts = frozenset(self.text[index - 1] for index in self.sentence_chars[1:])
        return firsts, lasts


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, white space collapsed to single spaces.

    A sentence ends at a full stop, question or exclamation mark before a capital or digit, or at a blank
    line. Longer stretches are cut at spaces into chunks of at most 320 characters.
    """
    sentences = []
    start = 0
    for match in [*_SENTENCE_END.finditer(text), None]:
        # Quotes and brackets that close the sentence stay with it: strip() drops only white space.
        end = match.end() if match else len(text)
        sentence = " ".join(text[start:end].split())
        start = end
        if sentence:
            sentences.extend(_chunks(sentence))
    return sentences


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[TokenisedText]:
    """Tokens and character offsets of each text; no special token is added or recognised.

    Raises ValueError if the tokenizer is not a fast one, which alone knows offsets.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} reports no character offsets, which the spans need: load the "
            "tokenizer as a PreTrainedTokenizerFast."
        )
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=True,
        verbose=False,
    )
    result = []
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        tokens = np.asarray(ids, dtype=np.int32)
        # Some tokenizers leave the space out of every token's characters except the first one's.
        if text.startswith(" "):
            bounds[:1] = bounds[:1].clip(min=1)
        result.append(TokenisedText(text=text, tokens=tokens, starts=bounds[:, 0], ends=bounds[:, 1]))
    return result


def splices_at_spaces(tokenizer: PreTrainedTokenizerBase, firsts: frozenset[str], lasts: frozenset[str]) -> bool:
    """Does every token stop before a single space that stands between `lasts` and `firsts`?

    Asked of the tokenizer's own splitter into words, for every pair of the two characters. A tokenizer
    without one may join anything, so the answer is no.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    splitter = getattr(backend, "pre_tokenizer", None)
    if splitter is None:
        return False
    for last in sorted(lasts):
        for first in sorted(firsts):
            words = splitter.pre_tokenize_str(f"a{last} {first}a")
            if not any(start == 2 for _, (start, _) in words):
                return False
    one, two = (part.tokens for part in tokenise(tokenizer, [" Go.", " Go. Go."]))
    return bool(np.array_equal(np.concatenate([one, one]), two))


def _chunks(sentence: str) -> list[str]:
    if len(sentence) <= MAX_SENTENCE_CHARS:
        return [sentence]
    chunks: list[str] = []
    chunk = ""
    for word in sentence.split(" "):
        if chunk and len(chunk) + 1 + len(word) > MAX_SENTENCE_CHARS:
            chunks.append(chunk)
            chunk = word
        else:
            chunk = f"{chunk} {word}" if chunk else word
    return [*chunks, chunk]
