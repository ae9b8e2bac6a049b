"""Hiding the facts of a story in filler, after BABILong (Kuratov et al. 2024, arXiv 2406.10149).

A prompt is `<context>` + pieces + `</context> Question: ... Answer:`, as in the Diff-Mamba paper (arXiv 2507.06204,
section 4.3). The pieces are one stretch of
consecutive filler sentences, cut at sentence boundaries, with the facts put in between in their order. The
stretch is chosen so that the whole prompt has at most `length` tokens and close to that.

Departures from BABILong: tokens and spans are those of the final text, not of parts that are decoded later;
and of several candidate stretches the one that fills the prompt best is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from diffmamba_interp.argument_checks import Natural, checked
from diffmamba_interp.needle.filler import Filler, TokenisedText, splices_at_spaces, tokenise
from diffmamba_interp.needle.records import Depth, Mention, NeedleSample
from diffmamba_interp.needle.stories import Story
from diffmamba_interp.spans import Span
from diffmamba_interp.text.documents import Bos
from diffmamba_interp.text.stable_random import StableRandom
from diffmamba_interp.text.tokenizer import bos_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT_OPEN = "<context>"
CONTEXT_CLOSE = "</context>"

# Stretches of filler that are tried for each prompt; the one that leaves the fewest tokens unused wins.
N_STRETCHES = 8

_CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class StoryTooLongError(ValueError):
    """The story alone, without filler, has more tokens than the prompt may have."""


class Haystack:
    """Makes prompts with one tokenizer and one filler; facts that it has tokenised it keeps.

    filler: `None` serves only prompts of length 0.
    bos: whether prompts begin with the tokenizer's beginning-of-text token (see `data.bos_tokens`).
    before: its ids, which no character of the prompt belongs to; spans count them.
    splices: are prompts put together from tokens made before? If not, each is tokenised as a whole, which
        is slower and gives the same samples.
    """

    @checked
    def __init__(self, tokenizer: PreTrainedTokenizerBase, filler: Filler | None = None, *, bos: Bos = "auto") -> None:
        self.tokenizer = tokenizer
        self.before = np.asarray(bos_tokens(tokenizer, bos), dtype=np.int32)
        self.filler = filler
        firsts, lasts = filler.edge_characters if filler else (frozenset(), frozenset())
        self.splices = splices_at_spaces(tokenizer, firsts | _CAPITALS, lasts | {"."})
        self._kept: dict[str, TokenisedText] = {}

    @checked
    def hide(self, story: Story, *, length: Natural, depth: Depth = None, seed: int = 0) -> NeedleSample:
        """One prompt of at most `length` tokens; 0 for the facts alone.

        depth: where in the filler the facts lie, 0 before it and 1 after it: one number for all facts
            together, one for each fact (never falling), or `None` to spread them at random.
        seed: decides, with the story, which stretch of filler is taken and where facts are spread.
        Raises StoryTooLongError if the story alone is longer, ValueError for a wrong depth or too little
        filler.
        """
        rng = StableRandom("haystack", seed, story.hash, length)
        shares = _fact_shares(story, depth, rng)
        if length < 0:
            raise ValueError(f"length is {length}: give a number of tokens, or 0 for no filler.")
        if length == 0:
            return self._sample(story, self._lay_out(story, (0, 0), shares), length, depth, seed)
        alone = self._assemble(story, self._lay_out(story, (0, 0), shares))
        budget = length - len(alone.tokens)
        if budget < 0:
            raise StoryTooLongError(
                f"the story has {len(alone.tokens)} tokens without filler, more than length {length}: give a "
                "greater length, or stories with fewer facts."
            )
        while True:
            layout = self._lay_out(story, self._stretch(budget, rng), shares)
            sample = self._sample(story, layout, length, depth, seed)
            if sample.n_tokens <= length:
                return sample
            # Where a prompt's edge meets a sentence, tokens may merge otherwise than they did in the filler.
            budget -= max(1, sample.n_tokens - length)

    def _stretch(self, budget: int, rng: StableRandom) -> tuple[int, int]:
        """First and last (not included) sentence of a stretch of at most `budget` tokens."""
        if self.filler is None:
            raise ValueError("a length above 0 needs filler: give the Haystack a Filler.")
        if budget <= 0:
            return 0, 0
        bounds = self.filler.sentence_tokens
        n_starts = int(np.searchsorted(bounds, bounds[-1] - budget, side="right"))
        if n_starts == 0:
            raise ValueError(
                f"the filler has {bounds[-1]} tokens, but this prompt needs {budget}: give more text, or a "
                "smaller length."
            )
        starts = np.array([rng.integer(n_starts) for _ in range(N_STRETCHES)])
        ends = np.searchsorted(bounds, bounds[starts] + budget, side="right") - 1
        best = int(np.argmax(bounds[ends] - bounds[starts]))
        return int(starts[best]), int(ends[best])

    def _lay_out(self, story: Story, stretch: tuple[int, int], shares: Sequence[float]) -> list[_Piece]:
        """Filler and facts in the order in which they appear."""
        first, last = stretch
        pieces: list[_Piece] = []
        for index, (fact, share) in enumerate(zip(story.facts, shares, strict=True)):
            cut = self._sentence_at(first, last, share) if last > first else first
            if cut > stretch[0]:
                pieces.extend(self._filler_pieces(stretch[0], cut))
                stretch = (cut, last)
            pieces.append(_Piece(self._keep(f" {fact}"), index))
        pieces.extend(self._filler_pieces(*stretch))
        return pieces

    def _sentence_at(self, first: int, last: int, share: float) -> int:
        """The sentence boundary closest to `share` of the stretch's tokens."""
        assert self.filler is not None
        bounds = self.filler.sentence_tokens[first : last + 1]
        wanted = bounds[0] + share * (bounds[-1] - bounds[0])
        return first + int(np.abs(bounds - wanted).argmin())

    def _filler_pieces(self, first: int, last: int) -> list[_Piece]:
        """Sentences [first, last); the outer ones apart, since a prompt's edge is tokenised again."""
        if first == last or self.filler is None:
            return []
        cuts = sorted({first, first + 1, last - 1, last})
        return [_Piece(self.filler.run(a, b), None) for a, b in zip(cuts, cuts[1:], strict=False)]

    def _assemble(self, story: Story, pieces: list[_Piece]) -> TokenisedText:
        """The whole prompt, its tokens and their offsets; what stands before the text covers no character."""
        prompt = self._assemble_text(story, pieces)
        if not len(self.before):
            return prompt
        nowhere = np.zeros(len(self.before), dtype=np.int64)
        return TokenisedText(
            text=prompt.text,
            tokens=np.concatenate([self.before, prompt.tokens]),
            starts=np.concatenate([nowhere, prompt.starts]),
            ends=np.concatenate([nowhere, prompt.ends]),
        )

    def _assemble_text(self, story: Story, pieces: list[_Piece]) -> TokenisedText:
        texts = [piece.text.text for piece in pieces]
        prompt = format_prompt("".join(texts)[1:], story.question)
        if len(pieces) == 1 or not self.splices:
            return tokenise(self.tokenizer, [prompt])[0]
        edges = (f"{CONTEXT_OPEN}{texts[0][1:]}", f"{texts[-1]}{prompt_tail(story.question)}")
        head, tail = tokenise(self.tokenizer, edges)
        parts = [head, *(piece.text for piece in pieces[1:-1]), tail]
        offsets = np.cumsum([0, *(len(part.text) for part in parts[:-1])])
        return TokenisedText(
            text=prompt,
            tokens=np.concatenate([part.tokens for part in parts]),
            starts=np.concatenate([part.starts + at for part, at in zip(parts, offsets, strict=True)]),
            ends=np.concatenate([part.ends + at for part, at in zip(parts, offsets, strict=True)]),
        )

    def _sample(self, story: Story, pieces: list[_Piece], length: int, depth: Depth, seed: int) -> NeedleSample:
        prompt = self._assemble(story, pieces)
        facts, filler = _intervals(pieces)
        context = (len(CONTEXT_OPEN), max(end for _, end in (*facts, *filler)))
        question = len(prompt.text) - len(f"{story.question} Answer:")
        matches = list(re.finditer(_whole_words(story.labels), prompt.text[: context[1]]))
        mentions = _spans(prompt, [match.span() for match in matches])
        labels = [self._keep(answer_text(label)).tokens for label in story.labels]
        label_tokens = tuple(tuple(tokens.tolist()) for tokens in labels)
        return NeedleSample(
            task=story.task,
            prompt=prompt.text,
            tokens=prompt.tokens,
            question=story.question,
            answer=story.answer,
            labels=story.labels,
            answer_tokens=label_tokens[story.labels.index(story.answer)],
            label_tokens=label_tokens,
            context_span=_spans(prompt, [context])[0],
            fact_spans=tuple(_spans(prompt, facts)),
            supporting=story.supporting,
            question_span=_spans(prompt, [(question, question + len(story.question))])[0],
            filler_spans=tuple(_spans(prompt, filler)),
            mentions=tuple(Mention(match[0], span) for match, span in zip(matches, mentions, strict=True)),
            length=length,
            depth=depth,
            seed=seed,
            story_hash=story.hash,
            source=story.source,
        )

    def _keep(self, text: str) -> TokenisedText:
        kept = self._kept.get(text)
        if kept is None:
            kept = self._kept[text] = tokenise(self.tokenizer, [text])[0]
        return kept


@checked
def format_prompt(context: str, question: str) -> str:
    """`<context>{context}</context> Question: {question} Answer:`, without a space at the end."""
    return f"{CONTEXT_OPEN}{context}{prompt_tail(question)}"


def prompt_tail(question: str) -> str:
    """What follows the context."""
    return f"{CONTEXT_CLOSE} Question: {question} Answer:"


@checked
def answer_text(label: str) -> str:
    """What a model that answers `label` continues the prompt with: the space belongs to the answer."""
    return f" {label}"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Filler, or fact number `fact`; the text begins with its space."""

    text: TokenisedText
    fact: int | None


def _fact_shares(story: Story, depth: Depth, rng: StableRandom) -> list[float]:
    """Where in the filler each fact lies, in [0, 1] and never falling."""
    n_facts = len(story.facts)
    if depth is None:
        return sorted(rng.uniform() for _ in range(n_facts))
    shares = list(depth) if isinstance(depth, tuple) else [float(depth)] * n_facts
    if len(shares) != n_facts:
        raise ValueError(
            f"depth has {len(shares)} numbers, but the story has {n_facts} facts: give one for each fact, "
            "or one number for all of them."
        )
    if any(not 0 <= share <= 1 for share in shares) or shares != sorted(shares):
        raise ValueError(f"depth is {depth}: give numbers in [0, 1] that never fall, since facts keep order.")
    return shares


def _intervals(pieces: Sequence[_Piece]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Characters of the prompt that each fact, and each run of filler between facts, takes up."""
    facts: list[tuple[int, int]] = []
    filler: list[tuple[int, int]] = []
    # The first piece loses its space to the edge of the prompt.
    start = len(CONTEXT_OPEN) - 1
    for piece in pieces:
        end = start + len(piece.text.text)
        if piece.fact is not None:
            facts.append((start + 1, end))
        elif filler and filler[-1][1] == start:
            filler[-1] = (filler[-1][0], end)
        else:
            filler.append((start + 1, end))
        start = end
    return facts, filler


def _spans(prompt: TokenisedText, intervals: Sequence[tuple[int, int]]) -> list[Span]:
    """Character intervals with the tokens that overlap them."""
    chars: Int64[np.ndarray, "interval 2"] = np.asarray(intervals, dtype=np.int64).reshape(-1, 2)
    first = np.searchsorted(prompt.ends, chars[:, 0], side="right")
    last = np.searchsorted(prompt.starts, chars[:, 1], side="left")
    return [Span(*numbers) for numbers in np.stack([chars[:, 0], chars[:, 1], first, last], axis=1).tolist()]


def _whole_words(labels: Sequence[str]) -> str:
    return rf"\b(?:{'|'.join(re.escape(label) for label in labels)})\b"
