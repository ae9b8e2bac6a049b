"""Where needle, question and distractors lie in a prompt, as token intervals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from diffmamba_interp.implicit_attention.spans import SPAN_CLASSES, Interval, Spans

if TYPE_CHECKING:
    from diffmamba_interp.needle import NeedleSample

QUESTION = re.compile(r"</context> (Question: .*?) Answer:$", re.DOTALL)
"""How a prompt of the retrieval tasks ends (`diffmamba_interp.needle.prompts`)."""

SEPARATOR = ";"


def spans_of_text(text: str, offsets: Sequence[Interval], needle: str, distractors: str) -> Spans:
    """Spans of a typed prompt: the question by the prompt's form, the rest where the given texts occur.

    offsets: characters of each token. needle, distractors: texts between semicolons. A token belongs to the first
    of needle, question and distractors that it overlaps. Raises ValueError for a text that does not occur.
    """
    question = QUESTION.search(text)
    stretches = {
        "needle": list(_occurrences(text, needle)),
        "question": [question.span(1)] if question else [],
        "distractors": list(_occurrences(text, distractors)),
    }
    return _spans(
        len(offsets),
        {name: [_tokens_of(stretch, offsets) for stretch in found] for name, found in stretches.items()},
    )


def spans_of_sample(sample: NeedleSample) -> Spans:
    """Spans of a generated prompt: its supporting facts, its question, mentions of wrong labels, and filler."""
    found = {
        "needle": sample.needle_spans,
        "question": (sample.question_span,),
        "distractors": sample.distractor_spans,
        "filler": sample.filler_spans,
    }
    pieces = {name: [(span.token_start, span.token_end) for span in spans] for name, spans in found.items()}
    return _spans(sample.n_tokens, pieces)


def segments(spans: Spans, first: int, last: int) -> list[tuple[str, int, int]]:
    """The positions `first` to `last`, both included, cut where a span begins or ends: (class or "", start, end)."""
    owner = {place: name for name in SPAN_CLASSES for start, end in getattr(spans, name) for place in range(start, end)}
    found: list[tuple[str, int, int]] = []
    for place in range(first, last + 1):
        name = owner.get(place, "")
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], place + 1)
        else:
            found.append((name, place, place + 1))
    return found


def _occurrences(text: str, wanted: str) -> Iterable[Interval]:
    for part in filter(None, (part.strip() for part in wanted.split(SEPARATOR))):
        places = [match.span() for match in re.finditer(re.escape(part), text)]
        if not places:
            raise ValueError(f"{part[:60]!r} does not occur in the prompt: give its text, letter by letter.")
        yield from places


def _tokens_of(stretch: Interval, offsets: Sequence[Interval]) -> Interval:
    """The tokens that overlap a stretch of characters."""
    inside = [place for place, (a, b) in enumerate(offsets) if a < stretch[1] and b > stretch[0]]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _spans(n_pos: int, pieces: dict[str, list[Interval]]) -> Spans:
    """Spans without overlap: a position goes to the first class that holds it."""
    owner: list[str | None] = [None] * n_pos
    for name in reversed(SPAN_CLASSES):
        for start, end in pieces.get(name, []):
            owner[start:end] = [name] * (end - start)
    return Spans(**{name: tuple(_runs(owner, name)) for name in SPAN_CLASSES})


def _runs(owner: Sequence[str | None], name: str) -> Iterable[Interval]:
    start = None
    for place, found in enumerate([*owner, None]):
        if found == name and start is None:
            start = place
        elif found != name and start is not None:
            yield start, place
            start = None
