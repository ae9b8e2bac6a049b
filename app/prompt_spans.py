"""Where needle, question and distractors lie in a typed prompt, as token intervals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from diffmamba_interp.implicit_attention.spans import Interval, Spans, disjoint_spans

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
    return disjoint_spans(
        {name: [_tokens_of(stretch, offsets) for stretch in found] for name, found in stretches.items()}
    )


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
