"""Where in a prompt what stands: pieces of its text, and the classes of positions that measures tell apart.

Span           a piece of the prompt, in characters and in tokens
Spans          the tokens of a retrieval prompt by class: needle, question, distractors, filler
prompt_spans   a prompt's `Spans`, one definition for every measure and picture
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from diffmamba_interp.argument_checks import checked, checked_fields

TokenRange = tuple[int, int]
"""Half-open: (start, end) holds the positions start to end - 1."""

SPAN_CLASSES = ("needle", "question", "distractors", "filler")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the prompt, half-open: characters [char_start, char_end) and the tokens that overlap them.

    The space before a word belongs to the word's token, but not to its characters.
    """

    char_start: int
    char_end: int
    token_start: int
    token_end: int

    def to_record(self) -> list[int]:
        """The four numbers, in the order of the fields."""
        return [self.char_start, self.char_end, self.token_start, self.token_end]


@checked_fields
@dataclass(frozen=True, kw_only=True)
class Spans:
    """Token intervals of one prompt, each half-open: (start, end) holds start to end - 1.

    needle: the fact to find. question: the question. distractors: competing facts. filler: the rest of the
    haystack. A position may belong to one class only; those in none count as visible and as nothing else.
    """

    needle: tuple[TokenRange, ...] = ()
    question: tuple[TokenRange, ...] = ()
    distractors: tuple[TokenRange, ...] = ()
    filler: tuple[TokenRange, ...] = ()

    def __post_init__(self) -> None:
        owners: dict[int, str] = {}
        for name in SPAN_CLASSES:
            for start, end in getattr(self, name):
                if not 0 <= start < end:
                    raise ValueError(
                        f"{name} has the interval ({start}, {end}): it must be half-open and hold at least one "
                        "position, 0 <= start < end."
                    )
                for position in range(start, end):
                    owner = owners.setdefault(position, name)
                    if owner != name:
                        raise ValueError(
                            f"position {position} is in {owner} and in {name}: a position may be in one class only."
                        )

    def masks(self, n_pos: int) -> Bool[np.ndarray, "span_class pos"]:
        """One row per class of `SPAN_CLASSES`. Raises ValueError for an interval beyond `n_pos`."""
        masks = np.zeros((len(SPAN_CLASSES), n_pos), dtype=bool)
        for row, name in enumerate(SPAN_CLASSES):
            for start, end in getattr(self, name):
                if end > n_pos:
                    raise ValueError(f"{name} has the interval ({start}, {end}), but there are {n_pos} positions.")
                masks[row, start:end] = True
        return masks

    def to_dict(self) -> dict[str, list[list[int]]]:
        """Plain JSON values."""
        return {name: [list(interval) for interval in getattr(self, name)] for name in SPAN_CLASSES}

    @classmethod
    def from_dict(cls, values: dict[str, list[list[int]]]) -> Spans:
        """The inverse of `to_dict`. Raises ValueError on unknown classes."""
        _require_known(values)
        return cls(**{name: tuple((int(a), int(b)) for a, b in intervals) for name, intervals in values.items()})


@runtime_checkable
class TokenSpan(Protocol):
    """Whatever says which tokens it is made of, as `Span` does: token_start to token_end - 1."""

    @property
    def token_start(self) -> int: ...
    @property
    def token_end(self) -> int: ...


@runtime_checkable
class MarkedPrompt(Protocol):
    """What is needed of a retrieval prompt; `needle.NeedleSample` is one.

    tokens: ids, in an array. answer_tokens: of the answer; label_tokens: of every label. supporting: indices into
    fact_spans of the facts that the answer follows from.
    """

    @property
    def tokens(self) -> Any: ...
    @property
    def answer_tokens(self) -> tuple[int, ...]: ...
    @property
    def label_tokens(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def fact_spans(self) -> Sequence[TokenSpan]: ...
    @property
    def supporting(self) -> tuple[int, ...]: ...
    @property
    def question_span(self) -> TokenSpan: ...
    @property
    def filler_spans(self) -> Sequence[TokenSpan]: ...


def prompt_spans(prompt: MarkedPrompt) -> Spans:
    """The spans of a retrieval prompt, one definition for every measure and picture.

    needle: the facts that the answer follows from. question: its text. distractors: the other facts, as whole
    sentences; not to be taken for `NeedleSample.distractor_spans`, the single mentions of labels other than the
    answer. filler: the text between the facts. A token on the border of two belongs to the first of these.
    """
    facts = [_range_of(span) for span in prompt.fact_spans]
    return disjoint_spans(
        {
            "needle": [facts[index] for index in prompt.supporting],
            "distractors": [fact for index, fact in enumerate(facts) if index not in prompt.supporting],
            "question": [_range_of(prompt.question_span)],
            "filler": [_range_of(span) for span in prompt.filler_spans],
        }
    )


def disjoint_spans(pieces: Mapping[str, Sequence[TokenRange]]) -> Spans:
    """Spans of intervals that may overlap or be empty: a position goes to the first of `SPAN_CLASSES` that holds it.

    Neighbours stay apart, and what overlaps nothing stays as it is. Raises ValueError for an unknown class.
    """
    _require_known(pieces)
    taken: set[int] = set()
    kept: dict[str, tuple[TokenRange, ...]] = {}
    for name in SPAN_CLASSES:
        free: list[TokenRange] = []
        for start, end in pieces.get(name, ()):
            free += _stretches([place for place in range(start, end) if place not in taken])
            taken.update(range(start, end))
        kept[name] = tuple(free)
    return Spans(**kept)


@checked
def positions_in(spans: Iterable[TokenSpan | TokenRange]) -> tuple[int, ...]:
    """The positions of half-open token intervals, (start, end) or with `token_start` and `token_end`, sorted.

    Raises ValueError for an interval that is empty or begins before the prompt.
    """
    positions: set[int] = set()
    for span in spans:
        start, end = span if isinstance(span, tuple) else _range_of(span)
        if not 0 <= start < end:
            raise ValueError(f"the span ({start}, {end}) is no half-open interval of positions, 0 <= start < end.")
        positions.update(range(start, end))
    return tuple(sorted(positions))


def _stretches(places: Sequence[int]) -> Iterator[TokenRange]:
    """Ascending positions as intervals without a gap."""
    start = 0
    for index in range(1, len(places) + 1):
        if index == len(places) or places[index] != places[index - 1] + 1:
            yield places[start], places[index - 1] + 1
            start = index


def _range_of(span: TokenSpan) -> TokenRange:
    return span.token_start, span.token_end


def _require_known(classes: Collection[str]) -> None:
    unknown = sorted(set(classes) - set(SPAN_CLASSES))
    if unknown:
        raise ValueError(f"unknown span classes: {', '.join(unknown)}. Known: {', '.join(SPAN_CLASSES)}.")
