"""`NeedleSample`: a prompt whose facts lie in filler, with the place of everything in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from diffmamba_interp.spans import Span

Depth = float | tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Mention:
    """A label of the task found in the context as a whole word, in facts or filler."""

    label: str
    span: Span


@dataclass(frozen=True, kw_only=True, eq=False)
class NeedleSample:
    """One retrieval prompt. All spans refer to `prompt` and `tokens` as they are.

    task: "qa1" to "qa5".
    prompt, tokens: the final prompt and its token ids, behind a beginning-of-text token where the tokenizer's habit or
        the caller wanted one; the answer comes next.
    question, answer, labels: as in the story; `labels` is sorted and holds the answer.
    answer_tokens, label_tokens: token ids of " " + label, in the order of `labels`.
    context_span: what stands between <context> and </context>.
    fact_spans: every fact, in order. supporting: indices of those that the answer follows from.
    question_span: the question's text.
    filler_spans: maximal runs of filler between facts.
    mentions: every label in the context, in order of position.
    length: target length in tokens that the prompt stays under; 0 for no filler.
    depth: as asked for: where in the filler the facts lie, in [0, 1]; `None` for spread at random.
    seed: what filler and positions were drawn with.
    story_hash, source: identify the story.
    """

    task: str
    prompt: str
    tokens: Int32[np.ndarray, " pos"]
    question: str
    answer: str
    labels: tuple[str, ...]
    answer_tokens: tuple[int, ...]
    label_tokens: tuple[tuple[int, ...], ...]
    context_span: Span
    fact_spans: tuple[Span, ...]
    supporting: tuple[int, ...]
    question_span: Span
    filler_spans: tuple[Span, ...]
    mentions: tuple[Mention, ...]
    length: int
    depth: Depth
    seed: int
    story_hash: str
    source: str

    @property
    def n_tokens(self) -> int:
        """Length of the prompt in tokens."""
        return len(self.tokens)

    @property
    def needle_spans(self) -> tuple[Span, ...]:
        """The supporting facts."""
        return tuple(self.fact_spans[index] for index in self.supporting)

    @property
    def distractors(self) -> tuple[str, ...]:
        """The labels that are not the answer."""
        return tuple(label for label in self.labels if label != self.answer)

    @property
    def distractor_spans(self) -> tuple[Span, ...]:
        """Where the context mentions a label other than the answer."""
        return tuple(mention.span for mention in self.mentions if mention.label != self.answer)

    @property
    def answer_spans(self) -> tuple[Span, ...]:
        """Where the context mentions the answer."""
        return tuple(mention.span for mention in self.mentions if mention.label == self.answer)

    @property
    def fact_depths(self) -> tuple[float, ...]:
        """Where each fact begins in the context, as a share of the context's tokens, in [0, 1)."""
        start = self.context_span.token_start
        n_context = self.context_span.token_end - start
        return tuple((span.token_start - start) / n_context for span in self.fact_spans)

    def to_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        record: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        record["tokens"] = self.tokens.tolist()
        for name in ("labels", "answer_tokens", "supporting"):
            record[name] = list(record[name])
        record["label_tokens"] = [list(tokens) for tokens in self.label_tokens]
        for name in _SPAN_FIELDS:
            record[name] = getattr(self, name).to_record()
        for name in _SPANS_FIELDS:
            record[name] = [span.to_record() for span in getattr(self, name)]
        record["mentions"] = [[mention.label, *mention.span.to_record()] for mention in self.mentions]
        record["depth"] = list(self.depth) if isinstance(self.depth, tuple) else self.depth
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> NeedleSample:
        """The inverse of `to_record`. Raises ValueError on missing or unknown keys."""
        fields = set(cls.__dataclass_fields__)
        if set(record) != fields:
            raise ValueError(
                f"this is no record of a NeedleSample: missing {sorted(fields - set(record))}, "
                f"unknown {sorted(set(record) - fields)}."
            )
        values = dict(record)
        values["tokens"] = np.asarray(record["tokens"], dtype=np.int32)
        for name in ("labels", "answer_tokens", "supporting"):
            values[name] = tuple(record[name])
        values["label_tokens"] = tuple(tuple(tokens) for tokens in record["label_tokens"])
        for name in _SPAN_FIELDS:
            values[name] = Span(*record[name])
        for name in _SPANS_FIELDS:
            values[name] = tuple(Span(*numbers) for numbers in record[name])
        values["mentions"] = tuple(Mention(label, Span(*numbers)) for label, *numbers in record["mentions"])
        values["depth"] = tuple(record["depth"]) if isinstance(record["depth"], list) else record["depth"]
        return cls(**values)


_SPAN_FIELDS = ("context_span", "question_span")
_SPANS_FIELDS = ("fact_spans", "filler_spans")
