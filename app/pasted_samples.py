"""Needle prompts as pasted: JSON with context, needle, question, answer and distractors, to stories."""

from __future__ import annotations

import json
from typing import Any

from diffmamba_interp.needle import Story

MAX_CHARACTERS = 400_000
MAX_SAMPLES = 200
SOURCE = "pasted"
TASK = "qa1"
"""Of a story that says nothing else; it decides nothing here."""

FIELDS = ("context", "needle", "question", "answer", "distractors")
EXAMPLE = """[
 {"context": "John moved to the garden. Mary went to the kitchen. John went back to the hallway.",
  "needle": "John went back to the hallway.",
  "question": "Where is John?", "answer": "hallway", "distractors": ["garden", "kitchen", "office"]},
 {"context": "Sandra travelled to the office. Daniel went to the garden. Mary journeyed to the bathroom.",
  "needle": "Sandra travelled to the office.",
  "question": "Where is Sandra?", "answer": "office", "distractors": ["garden", "kitchen", "bathroom"]}
]"""


def parse_stories(pasted: str) -> tuple[Story, ...]:
    """The stories of a JSON list of objects with the keys of `FIELDS`; the needle is a text that the context holds.

    What stands before and after the needle is taken as competing facts. Raises ValueError, saying which sample, for
    what is no such list.
    """
    if len(pasted) > MAX_CHARACTERS:
        raise ValueError(f"the samples have {len(pasted):,} characters: give at most {MAX_CHARACTERS:,}.")
    try:
        found = json.loads(pasted)
    except json.JSONDecodeError as error:
        raise ValueError(f"the samples are no JSON ({error}): give a list as in the example.") from error
    except RecursionError as error:
        raise ValueError("the samples are nested too deeply: give a list of objects as in the example.") from error
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_SAMPLES:
        raise ValueError(f"give a JSON list of 1 to {MAX_SAMPLES} samples, as in the example.")
    stories = tuple(_story(number, values) for number, values in enumerate(found))
    if len(set(stories)) < len(stories):
        raise ValueError("a sample is given twice, and would count twice in every interval: give each once.")
    return stories


def _story(number: int, values: Any) -> Story:
    where = f"sample {number}"
    if not isinstance(values, dict) or set(values) != set(FIELDS):
        raise ValueError(f"{where} must be an object with the keys {', '.join(FIELDS)}, and no other.")
    context, needle, question, answer = (_text(where, name, values[name]) for name in FIELDS[:4])
    others = values["distractors"]
    if not isinstance(others, list) or not others:
        raise ValueError(f"{where}: distractors must be a list of at least one text, the wrong answers.")
    labels = {_text(where, "each distractor", other) for other in others}
    if answer in labels:
        raise ValueError(f"{where} has its answer {answer[:40]!r} among the distractors: take it out there.")
    before, at, after = context.partition(needle)
    if not at:
        raise ValueError(f"{where}: the needle {needle[:60]!r} does not occur in the context, letter by letter.")
    facts = [before.strip(), needle, after.strip()]
    return Story(
        task=TASK,
        facts=tuple(filter(None, facts)),
        question=question,
        answer=answer,
        labels=tuple(sorted({answer, *labels})),
        supporting=(1 if facts[0] else 0,),
        source=SOURCE,
    )


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {name} must be a text that is not empty.")
    # Half of a surrogate pair can be written in JSON but not encoded.
    return value.strip().encode("utf-8", "replace").decode("utf-8")
