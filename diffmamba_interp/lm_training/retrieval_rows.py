"""Rows of retrieval samples: row k of a seed, whatever was made before it.

A row's draw says how long its samples are: 0 packs bare stories until the row is full; a length L > 0 makes
samples of at most L tokens, answers included, by spreading the facts at random between consecutive filler
sentences (as `needle.Haystack` does). Each sample ends with end-of-text. What remains of a row is filled with
short bare stories, then padding.

Stories belong to the split lm_train by the hash of facts + question, every further question by its own;
whatever is in `exclude` (held-out real stories) is never used.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8, UInt32

from diffmamba_interp.lm_training.mixture import Role
from diffmamba_interp.lm_training.questions import Pair, further_questions
from diffmamba_interp.lm_training.recipe import RetrievalPart
from diffmamba_interp.lm_training.sample_tokens import FillerTokens, PieceTokens
from diffmamba_interp.needle.stories import TASKS, Story
from diffmamba_interp.needle.tasks import generate_story
from diffmamba_interp.needle.vocabulary import VocabularyName
from diffmamba_interp.text.documents import split_of_hash, story_hash
from diffmamba_interp.text.stable_random import StableRandom

# Stories drawn before a row gives up filling its rest with stories of a task.
_TRIES = 3
_INDEX_RANGE = 2**48
_FILLING_TASKS = ("qa1", "qa4")

SHORT_N_FACTS = {"qa1": (2, 4), "qa2": (2, 6), "qa3": (4, 12), "qa4": None, "qa5": (2, 6)}
"""Fewest and most facts of a short story; None: as many as ever."""


@dataclass(slots=True)
class Row:
    """Tokens and roles of a row while it is being filled."""

    n: int
    tokens: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)

    @property
    def room(self) -> int:
        return self.n - len(self.tokens)

    def add(self, ids: Sequence[int], role: Role) -> None:
        """Append tokens of one role."""
        self.tokens += ids
        self.roles += [int(role)] * len(ids)


@dataclass(frozen=True, slots=True)
class Told:
    """A story's bare context and its question-answer pairs, in tokens; the length includes end-of-text."""

    story: Story
    context: list[int]
    pairs: list[tuple[list[int], list[int]]]

    @property
    def n_tokens(self) -> int:
        return len(self.context) + sum(len(q) + len(a) for q, a in self.pairs) + 1


class RetrievalRows:
    """Makes rows [length + 1] of tokens and roles.

    real: per task, real stories that training may use. exclude: hashes that no sample may have.
    """

    def __init__(
        self,
        part: RetrievalPart,
        pieces: PieceTokens,
        *,
        length: int,
        seed: int,
        end_of_text: int,
        filler: FillerTokens | None,
        real: dict[str, list[Story]],
        exclude: Set[str],
    ) -> None:
        self.part, self.pieces, self.filler = part, pieces, filler
        self.n, self.seed, self.end_of_text = length + 1, seed, end_of_text
        self.real, self.exclude = real, exclude
        self._tasks = _cumulative(part.tasks)
        self._kinds = _cumulative((part.babi_words, part.own_words, part.real))
        self._lengths = _cumulative(part.length_weights)

    def row(self, k: int) -> tuple[UInt32[np.ndarray, " pos"], UInt8[np.ndarray, " pos"]]:
        """Row number k of the seed."""
        rng = StableRandom("retrieval row", self.seed, k)
        row = Row(self.n)
        length = self.part.lengths[_draw(self._lengths, rng)]
        if length:
            while row.room >= min(length, self.n - 1) and self._add_hidden(row, length, rng):
                pass
        while self._add_bare(row, rng, TASKS[_draw(self._tasks, rng)]):
            pass
        for task in _FILLING_TASKS:
            if self.part.tasks[TASKS.index(task)]:
                while self._add_bare(row, rng, task):
                    pass
        row.add([self.end_of_text] * row.room, Role.PAD)
        return np.asarray(row.tokens, dtype=np.uint32), np.asarray(row.roles, dtype=np.uint8)

    def _add_bare(self, row: Row, rng: StableRandom, task: str) -> bool:
        told = self._tell(task, row.room, rng)
        if told is None:
            return False
        row.add(told.context, Role.CONTEXT)
        self._add_pairs(row, told)
        return True

    def _add_hidden(self, row: Row, length: int, rng: StableRandom) -> bool:
        """One sample of at most `length` tokens, close to it."""
        room = min(length, row.room)
        told = self._tell(TASKS[_draw(self._tasks, rng)], room, rng) or self._tell("qa4", room, rng)
        if told is None:
            return False
        row.add(self._hide(told, room - told.n_tokens, rng), Role.CONTEXT)
        self._add_pairs(row, told)
        return True

    def _add_pairs(self, row: Row, told: Told) -> None:
        for question, answer in told.pairs:
            row.add(question, Role.CONTEXT)
            row.add(answer, Role.ANSWER)
        row.add([self.end_of_text], Role.CONTEXT)

    def _tell(self, task: str, room: int, rng: StableRandom) -> Told | None:
        """A story with its questions that fits into `room` tokens; None if several draws did not."""
        for _ in range(_TRIES):
            story = self._draw_story(task, rng)
            n_pairs = 1 + rng.integer(self.part.max_questions)
            pairs: list[Pair] = [(story.question, story.answer)]
            if n_pairs > 1:
                others = (pair for pair in further_questions(story, rng) if self._is_allowed(story, pair[0]))
                pairs += [pair for pair, _ in zip(others, range(n_pairs - 1), strict=False)]
            told = Told(
                story,
                self.pieces.bare_context(story.facts),
                [(self.pieces.question(question), self.pieces.answer(answer)) for question, answer in pairs],
            )
            if told.n_tokens <= room:
                return told
        return None

    def _draw_story(self, task: str, rng: StableRandom) -> Story:
        kind = _draw(self._kinds, rng)
        if kind == 2 and self.real.get(task):
            return rng.pick(self.real[task])
        words: VocabularyName = "own" if kind == 1 else "babi"
        n_facts = SHORT_N_FACTS[task] if rng.uniform() < self.part.short else None
        while True:
            index = rng.integer(_INDEX_RANGE)
            story = generate_story(task, seed=self.seed, index=index, vocabulary=words, n_facts=n_facts)
            if story.split == "lm_train" and story.hash not in self.exclude:
                return story

    def _is_allowed(self, story: Story, question: str) -> bool:
        digest = story_hash(story.facts, question)
        return split_of_hash(digest) == "lm_train" and digest not in self.exclude

    def _hide(self, told: Told, budget: int, rng: StableRandom) -> list[int]:
        """The story's context with at most `budget` tokens of filler between its facts."""
        filler, facts = self.filler, told.story.facts
        assert filler is not None
        n_starts = filler.n_starts(budget)
        if budget < 1 or n_starts < 1:
            return told.context
        while True:
            first, last = filler.stretch(rng.integer(n_starts), budget)
            if first == last:
                return told.context
            bounds = filler.bounds[first : last + 1]
            wanted = bounds[0] + np.array(sorted(rng.uniform() for _ in facts)) * (bounds[-1] - bounds[0])
            above = np.searchsorted(bounds, wanted).clip(1, len(bounds) - 1)
            cuts = first + np.where(wanted - bounds[above - 1] <= bounds[above] - wanted, above - 1, above)
            ids = self._join(facts, cuts.tolist(), first, last)
            # The context's outer sentences are tokenised anew beside the tags, which may cost a token or two.
            if len(ids) <= len(told.context) + budget:
                return ids
            budget -= len(ids) - len(told.context) - budget

    def _join(self, facts: Sequence[str], cuts: Sequence[int], first: int, last: int) -> list[int]:
        """Facts put in before the sentences `cuts` of the stretch, between the tags."""
        assert self.filler is not None
        tokens, bounds, pieces = self.filler.tokens, self.filler.bounds, self.pieces
        ids: list[int] = []
        if cuts[0] > first:
            sentence = tokens[bounds[first] : bounds[first + 1]].tolist()
            ids += pieces.opening(pieces.text(sentence)[1:], once=True)
            at = first + 1
        else:
            ids += pieces.opening(facts[0])
            at = first
        end = last if cuts[-1] == last else last - 1
        start_fact = 0 if cuts[0] > first else 1
        last_fact = len(facts) - 1 if cuts[-1] == last else len(facts)
        for fact, cut in zip(facts[start_fact:last_fact], cuts[start_fact:last_fact], strict=True):
            ids += tokens[bounds[at] : bounds[max(cut, at)]].tolist()
            ids += pieces.fact(fact)
            at = max(cut, at)
        if cuts[-1] == last:
            ids += tokens[bounds[at] : bounds[last]].tolist() if at < last else []
            return ids + (pieces.closing(facts[-1]))
        ids += tokens[bounds[at] : bounds[max(end, at)]].tolist()
        sentence = tokens[bounds[last - 1] : bounds[last]].tolist()
        return ids + pieces.closing(pieces.text(sentence)[1:], once=True)


def _cumulative(shares: Sequence[float]) -> list[float]:
    total = sum(shares)
    return [sum(shares[: i + 1]) / total for i in range(len(shares))]


def _draw(cumulative: Sequence[float], rng: StableRandom) -> int:
    """An index by its share; never one whose share is 0."""
    u = rng.uniform()
    for index, bound in enumerate(cumulative):
        if u < bound:
            return index
    return max(i for i, bound in enumerate(cumulative) if i == 0 or bound > cumulative[i - 1])
