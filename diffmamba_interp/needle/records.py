"""`NeedleSample`: a prompt whose facts lie in filler, with the place of everything in it; and many of them in a file.

    lzma( npz( about: JSON, records: JSON without tokens and text, tokens, n_tokens ) )

The text of a prompt is left out of the file, since its tokens hold it: a tokenizer that gives back every text is needed
to read. So prompts are made where there are CPUs and text, and read where there is a GPU.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32

from diffmamba_interp.files.archives import arrays_from_bytes
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.checksums import DamagedFileError
from diffmamba_interp.files.json_files import parse_json
from diffmamba_interp.spans import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Depth = float | tuple[float, ...] | None

# Filler recurs from prompt to prompt, so even a low level of compression makes the file ten times smaller.
LZMA_PRESET = 3
REMEDY = "Delete it, and make the prompts again with `save_samples`."


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
    def story_key(self) -> str:
        """The first eight digits of `story_hash`: the column `story` of the analyses' records.

        Of a thousand stories two share one in a draw of ten thousand.
        """
        return self.story_hash[:8]

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


@dataclass(frozen=True, kw_only=True)
class ReadSample:
    """What a trajectory says about a prompt, beside what the model made of it.

    id: from task, length, depth, prompt, answer and labels: the same for every model and tokenizer.
    task, length, depth, seed, n_tokens: as in `NeedleSample`.
    needle_depth: mean place of the supporting facts, as a share of the context's tokens, in [0, 1).
    labels: of the task. answer: which of them is right. n_label_tokens: tokens of each label.
    """

    id: str
    task: str
    length: int
    depth: Depth
    needle_depth: float
    seed: int
    n_tokens: int
    labels: tuple[str, ...]
    answer: str
    n_label_tokens: tuple[int, ...]

    @property
    def answer_index(self) -> int:
        """Place of the answer among the labels."""
        return self.labels.index(self.answer)

    @classmethod
    def of(cls, sample: NeedleSample) -> ReadSample:
        """The description of `sample`. Raises ValueError if its answer cannot be told from its distractors."""
        _require_distinct_labels(sample)
        depths = [sample.fact_depths[index] for index in sample.supporting]
        return cls(
            id=_identity(sample),
            task=sample.task,
            length=sample.length,
            depth=sample.depth,
            needle_depth=round(sum(depths) / len(depths), 6) if depths else 0.0,
            seed=sample.seed,
            n_tokens=sample.n_tokens,
            labels=sample.labels,
            answer=sample.answer,
            n_label_tokens=tuple(map(len, sample.label_tokens)),
        )


def save_samples(path: str | Path, samples: Sequence[NeedleSample], about: Mapping[str, Any] | None = None) -> None:
    """Write prompts into one compressed file. about: JSON values that say how they were made."""
    no_tokens = np.empty(0, dtype=np.int32)
    records = [replace(sample, prompt="", tokens=no_tokens).to_record() for sample in samples]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        about=_from_json(dict(about or {})),
        records=_from_json(records),
        tokens=np.concatenate([no_tokens, *(sample.tokens for sample in samples)]),
        n_tokens=np.array([sample.n_tokens for sample in samples], dtype=np.int64),
    )
    write_bytes(path, lzma.compress(buffer.getvalue(), preset=LZMA_PRESET))


def load_samples(path: str | Path, tokenizer: PreTrainedTokenizerBase) -> tuple[list[NeedleSample], dict[str, Any]]:
    """The prompts that `save_samples` wrote, and what it was told about them.

    tokenizer: what the prompts were made with. Raises ValueError if it does not give back their text.
    """
    try:
        packed = lzma.decompress(Path(path).read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        raise DamagedFileError(f"{path} is no file of prompts, or a damaged one ({error}). {REMEDY}") from error
    arrays = arrays_from_bytes(packed, source=path, remedy=REMEDY, kind="file of prompts")
    missing = {"about", "records", "tokens", "n_tokens"} - arrays.keys()
    if missing:
        raise ValueError(f"{path} is no file of prompts: it lacks {', '.join(sorted(missing))}. {REMEDY}")
    about, records = (parse_json(arrays[name].tobytes(), source=path) for name in ("about", "records"))
    tokens = np.split(arrays["tokens"], np.cumsum(arrays["n_tokens"])[:-1]) if len(records) else []
    prompts = tokenizer.backend_tokenizer.decode_batch([ids.tolist() for ids in tokens], skip_special_tokens=False)
    samples = [
        NeedleSample.from_record({**record, "tokens": ids, "prompt": prompt})
        for record, ids, prompt in zip(records, tokens, prompts, strict=True)
    ]
    for sample in samples:
        # Spans were measured on the text that the prompt was made of.
        question = sample.question_span
        if sample.prompt[question.char_start : question.char_end] != sample.question:
            raise ValueError(f"the tokenizer does not give back the prompts of {path}: it is not the one they are of.")
    return samples, about


def _from_json(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


_SPAN_FIELDS = ("context_span", "question_span")
_SPANS_FIELDS = ("fact_spans", "filler_spans")


def _require_distinct_labels(sample: NeedleSample) -> None:
    where = f"the sample with the question {sample.question!r}"
    if sample.answer not in sample.labels:
        raise ValueError(f"{where} has the answer {sample.answer!r}, which is none of its labels {sample.labels}.")
    if len(sample.label_tokens) != len(sample.labels):
        raise ValueError(f"{where} has {len(sample.labels)} labels, but tokens for {len(sample.label_tokens)}.")
    if not all(sample.label_tokens):
        raise ValueError(f"{where} has a label without tokens: every label needs at least one.")
    if len(sample.labels) < 2:
        raise ValueError(f"{where} has one label: a signal-to-noise ratio needs a distractor, too.")
    answer = sample.labels.index(sample.answer)
    words = [" ".join(label.split()).casefold() for label in sample.labels]
    for other, label in enumerate(sample.labels):
        if other != answer and (
            words[other] == words[answer] or sample.label_tokens[other] == sample.label_tokens[answer]
        ):
            raise ValueError(
                f"{where} has the distractor {label!r}, which is equal to its answer {sample.answer!r} (as a word or "
                "in tokens): its probability would count as signal and as noise. Take it out of the labels."
            )
    if len(set(sample.label_tokens)) != len(sample.label_tokens):
        raise ValueError(f"{where} holds a distractor twice, which would count double: {sample.labels}.")


def _identity(sample: NeedleSample) -> str:
    parts = (sample.task, str(sample.length), str(sample.depth), sample.prompt, sample.answer, *sample.labels)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
