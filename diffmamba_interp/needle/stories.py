"""A story: facts, a question about them, and its one answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.text.documents import Split, split_of_hash, story_hash

TASKS = ("qa1", "qa2", "qa3", "qa4", "qa5")


@dataclass(frozen=True, kw_only=True)
class Story:
    """One question over a list of facts, without filler.

    task: "qa1" to "qa5".
    facts: sentences in the order in which they are told.
    question, answer: the answer is one of `labels`, bare (no leading space).
    labels: every answer that the task could have had, sorted.
    supporting: indices into `facts` of those that the answer follows from.
    source: where it comes from, such as "generated/babi" or "babi/en-10k/test".
    """

    task: str
    facts: tuple[str, ...]
    question: str
    answer: str
    labels: tuple[str, ...]
    supporting: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}: it must be one of {', '.join(TASKS)}.")
        if not self.facts:
            raise ValueError(f"the story of {self.question!r} has no facts: give at least one.")
        if self.labels.count(self.answer) != 1:
            raise ValueError(f"the answer {self.answer!r} must occur exactly once among the labels {self.labels}.")
        outside = [index for index in self.supporting if not 0 <= index < len(self.facts)]
        if outside or not self.supporting:
            raise ValueError(f"supporting is {self.supporting}: give indices of facts, 0 to {len(self.facts) - 1}.")

    @cached_property
    def hash(self) -> str:
        """Sha256 of facts and question: what decides the split."""
        return story_hash(self.facts, self.question)

    @property
    def split(self) -> Split:
        """The split that the hash falls into."""
        return split_of_hash(self.hash)

    def to_record(self) -> dict[str, Any]:
        """Plain JSON values, hash and split included for people who read them."""
        return {
            "task": self.task,
            "facts": list(self.facts),
            "question": self.question,
            "answer": self.answer,
            "labels": list(self.labels),
            "supporting": list(self.supporting),
            "source": self.source,
            "hash": self.hash,
            "split": self.split,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Story:
        """The inverse of `to_record`. Raises ValueError if the hash is not that of the facts and question."""
        values: dict[str, Any] = {
            name: tuple(record[name]) if isinstance(record[name], list) else record[name]
            for name in cls.__dataclass_fields__
        }
        story = cls(**values)
        if record.get("hash", story.hash) != story.hash:
            raise ValueError(
                f"the record of {story.question!r} says hash {record['hash']}, but its facts and question "
                f"have {story.hash}: it was changed after it was written."
            )
        return story


@checked
def stories_in_training(stories: Iterable[Story], training_hashes: Set[str]) -> list[Story]:
    """Those of `stories` whose facts and question occur in training."""
    return [story for story in stories if story.hash in training_hashes]


@checked
def without_training_stories(stories: Iterable[Story], training_hashes: Set[str]) -> list[Story]:
    """Those of `stories` that may be used for evaluation: training holds none with this hash."""
    return [story for story in stories if story.hash not in training_hashes]
