"""Pairs of prompts for patching: a needle, and the same with the answer and another label exchanged in its facts.

    clean        Mary moved to the bathroom. John went to the hallway.  Where is Mary?      bathroom
    corrupted    Mary moved to the hallway. John went to the bathroom.  Where is Mary?      hallway

Every fact tells of the other label then, so the story stays one, and its answer is the other label: names of places are
exchanged, nothing else. Both prompts have the same number of tokens and differ at the labels' places alone. Where both
labels are mentioned equally often, the prompts hold the same words, and only who stands with whom tells the answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.needle.filler import TokenisedText, tokenise
from diffmamba_interp.needle.records import Mention, NeedleSample
from diffmamba_interp.spans import Span, positions_in, prompt_spans
from diffmamba_interp.text.documents import story_hash
from diffmamba_interp.text.stable_random import StableRandom

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACES = ("needle label", "rest of the needle", "other facts", "filler", "question", "end")
"""The classes of positions that `SwappedNeedle.places` tells apart."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class SwappedNeedle:
    """Two prompts of equally many tokens. clean: as it was. corrupted: with its answer and another label exchanged."""

    clean: NeedleSample
    corrupted: NeedleSample

    @property
    def differs_at(self) -> tuple[int, ...]:
        """The positions whose tokens differ."""
        return tuple(np.flatnonzero(self.clean.tokens != self.corrupted.tokens).tolist())

    @property
    def places(self) -> dict[str, tuple[int, ...]]:
        """The prompt's positions by class of `PLACES`, of which some may be empty; none is left out.

        needle label: where the facts that the answer follows from name it. end: what follows the question, whose last
        position gives the answer. The tags around the context count as filler.
        """
        spans = prompt_spans(self.clean)
        needle, facts, question = map(positions_in, (spans.needle, spans.distractors, spans.question))
        label = tuple(place for place in positions_in(self.clean.answer_spans) if place in needle)
        end = tuple(range(self.clean.question_span.token_end, self.clean.n_tokens))
        named = {*needle, *facts, *question, *end}
        rest = tuple(place for place in range(self.clean.n_tokens) if place not in named)
        of_class = (label, tuple(place for place in needle if place not in label), facts, rest, question, end)
        return dict(zip(PLACES, of_class, strict=True))


@checked
def swapped_needles(
    tokenizer: PreTrainedTokenizerBase, samples: Sequence[NeedleSample], *, seed: int = 0
) -> list[SwappedNeedle]:
    """A pair for each sample that has one, in the samples' order; the log says how many have none.

    The other label is drawn from those of the answer's kind (capitalised or not) that the question does not name and
    whose exchange leaves the number of tokens as it is: from those that the facts mention, where there are any.

    tokenizer: that made the samples. seed: of the draw.
    Raises ValueError if no sample has a fitting label, or for samples of another tokenizer.
    """
    pairs = [pair for sample in samples if (pair := _swapped(tokenizer, sample, seed)) is not None]
    if not pairs:
        raise ValueError(f"none of {len(samples)} samples has another label of as many tokens as its answer.")
    if len(pairs) < len(samples):
        logger.info("%d of %d samples have no label to exchange with", len(samples) - len(pairs), len(samples))
    return pairs


def _swapped(tokenizer: PreTrainedTokenizerBase, sample: NeedleSample, seed: int) -> SwappedNeedle | None:
    prompt = tokenise(tokenizer, [sample.prompt])[0]
    before = sample.tokens[: sample.n_tokens - len(prompt.tokens)]
    if not np.array_equal(sample.tokens[len(before) :], prompt.tokens):
        raise ValueError("samples were made with another tokenizer: give that one.")
    if _names(sample.question, sample.answer):
        return None
    rng = StableRandom("swapped needle", seed, sample.story_hash)
    in_facts = _mentions_in_facts(sample)
    mentioned = {mention.label for mention in in_facts}
    fitting = [
        label
        for label in sample.distractors
        if label[:1].isupper() == sample.answer[:1].isupper() and not _names(sample.question, label)
    ]
    for other in sorted(rng.shuffled(fitting), key=lambda label: label not in mentioned):
        exchanged = {sample.answer: other, other: sample.answer}
        edits = [mention for mention in in_facts if mention.label in exchanged]
        text = tokenise(tokenizer, [_exchanged(sample.prompt, edits, exchanged)])[0]
        if _same_places(prompt, text, edits, exchanged):
            return SwappedNeedle(clean=sample, corrupted=_corrupted(sample, text, before, edits, exchanged))
    return None


def _names(question: str, label: str) -> bool:
    return re.search(rf"\b{re.escape(label)}\b", question) is not None


def _mentions_in_facts(sample: NeedleSample) -> list[Mention]:
    facts = [(span.char_start, span.char_end) for span in sample.fact_spans]
    return [
        mention
        for mention in sample.mentions
        if any(start <= mention.span.char_start and mention.span.char_end <= end for start, end in facts)
    ]


def _exchanged(prompt: str, edits: Sequence[Mention], exchanged: dict[str, str]) -> str:
    parts, at = [], 0
    for mention in edits:
        parts += [prompt[at : mention.span.char_start], exchanged[mention.label]]
        at = mention.span.char_end
    return "".join([*parts, prompt[at:]])


def _same_places(
    prompt: TokenisedText, text: TokenisedText, edits: Sequence[Mention], exchanged: dict[str, str]
) -> bool:
    """Whether every token has its place, and those beside the edits their id, too."""
    if len(text.tokens) != len(prompt.tokens):
        return False
    shifted = [
        np.array([_moved(int(edge), edits, exchanged) for edge in edges]) for edges in (prompt.starts, prompt.ends)
    ]
    inside = np.zeros(len(text.tokens), dtype=bool)
    for mention in edits:
        inside |= (prompt.starts < mention.span.char_end) & (prompt.ends > mention.span.char_start)
    same_edges = (shifted[0] == text.starts) & (shifted[1] == text.ends)
    return bool(np.all(inside | (same_edges & (prompt.tokens == text.tokens))))


def _moved(character: int, edits: Sequence[Mention], exchanged: dict[str, str]) -> int:
    """Where a character that no edit replaces has gone, or the end of an edit."""
    longer = [len(exchanged[m.label]) - len(m.label) for m in edits if m.span.char_end <= character]
    return character + sum(longer)


def _corrupted(
    sample: NeedleSample,
    text: TokenisedText,
    before: np.ndarray,
    edits: Sequence[Mention],
    exchanged: dict[str, str],
) -> NeedleSample:
    def moved(span: Span) -> Span:
        start, end = (_moved(edge, edits, exchanged) for edge in (span.char_start, span.char_end))
        return replace(span, char_start=start, char_end=end)

    answer = exchanged[sample.answer]
    facts = tuple(map(moved, sample.fact_spans))
    edited = {id(mention) for mention in edits}
    return replace(
        sample,
        prompt=text.text,
        tokens=np.concatenate([before, text.tokens]).astype(np.int32),
        answer=answer,
        answer_tokens=sample.label_tokens[sample.labels.index(answer)],
        context_span=moved(sample.context_span),
        fact_spans=facts,
        question_span=moved(sample.question_span),
        filler_spans=tuple(map(moved, sample.filler_spans)),
        mentions=tuple(
            Mention(exchanged[mention.label] if id(mention) in edited else mention.label, moved(mention.span))
            for mention in sample.mentions
        ),
        story_hash=story_hash(tuple(text.text[span.char_start : span.char_end] for span in facts), sample.question),
    )
