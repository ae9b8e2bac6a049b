"""Retrieval accuracy by task and context length: one row per prompt and model, and what a cell of the grid says.

Rows go to a compressed CSV file and back, so that every number of a cell can be counted again. A line of the file is a
prompt; each model has three columns: the label it finds most probable, the word it generates, log-probabilities.
"""

from __future__ import annotations

import csv
import io
import lzma
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum  # rounded once, so the same in every version of Python
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.checksums import DamagedFileError
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.needle.samples import make_needle_samples
from diffmamba_interp.needle.scoring import LabelScores, score_labels, wilson_interval
from diffmamba_interp.statistics import PairedDifference, paired_difference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

N_GENERATED = 3
"""Tokens of an answer: a word."""

_SEPARATOR = "|"
_OF_TEXT = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0}]
_OF_PROMPT = ("task", "length", "index", "story", "n_tokens", "n_mentioned", "answer", "labels")
_OF_MODEL = ("predicted", "generated", "log_probs")


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """What one model answered to one prompt.

    index: of the prompt in its cell; story: first 16 digits of the story's hash. n_tokens: of the prompt.
    n_mentioned: labels that the facts mention. predicted: the most probable label. generated: the first word of
    greedy generation. log_probs: of the labels, in nats; empty if they were not kept.
    """

    model: str
    task: str
    length: int
    index: int
    story: str
    n_tokens: int
    n_mentioned: int
    answer: str
    labels: tuple[str, ...]
    predicted: str
    generated: str
    log_probs: tuple[float, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether the answer is the most probable label."""
        return self.predicted == self.answer

    @property
    def generates_answer(self) -> bool:
        return self.generated == self.answer


@dataclass(frozen=True, kw_only=True)
class ModelAccuracy:
    """One model in one cell: share of prompts answered rightly by log-likelihood, its 95 % Wilson interval.

    generated: share whose first generated word is the answer.
    """

    model: str
    n_right: int
    accuracy: float
    low: float
    high: float
    generated: float


@dataclass(frozen=True, kw_only=True)
class Cell(JsonRecord):
    """One task at one length.

    chance: accuracy of guessing among the labels; chance_mentioned: among those that the facts mention.
    models: in the order given. difference: second model minus first; None unless there are two.
    """

    task: str
    length: int
    n: int
    chance: float
    chance_mentioned: float
    models: tuple[ModelAccuracy, ...]
    difference: PairedDifference | None


def score_with_answers(model: HookedMamba, samples: Sequence[NeedleSample]) -> list[LabelScores]:
    """Scores of the labels, and the beginning of an answer."""
    return score_labels(model, samples, n_generated=N_GENERATED)


def prompt_rows(
    model: str,
    samples: Sequence[NeedleSample],
    scores: Sequence[LabelScores],
    tokenizer: PreTrainedTokenizerBase,
    *,
    keep_log_probs: bool = True,
) -> list[PromptRow]:
    """Rows of one cell, from its prompts and what the model made of them; log-probabilities rounded to 1e-5."""
    return [
        PromptRow(
            model=model,
            task=sample.task,
            length=sample.length,
            index=index,
            story=sample.story_hash[:16],
            n_tokens=sample.n_tokens,
            n_mentioned=_n_mentioned(sample),
            answer=sample.answer,
            labels=sample.labels,
            predicted=sample.labels[score.predicted],
            generated=_first_word(tokenizer, score.generated),
            log_probs=tuple(round(value, 5) for value in score.log_probs) if keep_log_probs else (),
        )
        for index, (sample, score) in enumerate(zip(samples, scores, strict=True))
    ]


def grid_rows(
    models: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    cells: Sequence[tuple[str, int]],
    *,
    n: int,
    seed: int,
    score: Callable[[Any, Sequence[NeedleSample]], Sequence[LabelScores]] = score_with_answers,
    on_cell: Callable[[list[PromptRow]], None] | None = None,
) -> list[PromptRow]:
    """Rows of all models in cells of generated stories, one cell after the other.

    models: by name, sharing the tokenizer. cells: task and length; their prompts are those that `make_needle_samples`
    makes with this task, length, n and seed, so that a row's index finds its prompt again. n: prompts per cell. score:
    in place of `score_labels`. on_cell: called with every cell's rows. Raises ValueError for a task of which too few
    stories fit a length.
    """
    rows: list[PromptRow] = []
    for task, length in cells:
        samples = make_needle_samples(tokenizer, task=task, n=n, length=length, seed=seed)
        of_cell = [
            row
            for name, model in models.items()
            for row in prompt_rows(name, samples, score(model, samples), tokenizer)
        ]
        rows += of_cell
        if on_cell is not None:
            on_cell(of_cell)
    return rows


def read_cells(path: str | Path) -> list[Cell]:
    """The cells of a results file of an analysis. Raises OSError and ValueError, with the file."""
    return [Cell.from_dict(values) for values in read_json_object(path)["cells"]]


def read_other_seeds(path: str | Path) -> list[list[Cell]]:
    """The cells of other training seeds in a results file; none in one of a single seed. Raises as `read_cells`."""
    return [[Cell.from_dict(values) for values in cells] for cells in read_json_object(path).get("seeds", [])]


def summarise(rows: Iterable[PromptRow], models: Sequence[str]) -> list[Cell]:
    """Cells in order of task and length. Raises ValueError if the models did not answer the same prompts."""
    cells: dict[tuple[str, int], dict[str, list[PromptRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.task, row.length][row.model].append(row)
    return [_cell(by_model, models) for _, by_model in sorted(cells.items())]


def write_rows(path: Path, rows: Iterable[PromptRow]) -> None:
    """Write rows as CSV, compressed by xz, in order of task, length and prompt; the same rows give the same bytes.

    Raises ValueError unless every model answered every prompt.
    """
    prompts: dict[tuple[str, int, int], dict[str, PromptRow]] = defaultdict(dict)
    for row in rows:
        prompts[row.task, row.length, row.index][row.model] = row
    models = list(dict.fromkeys(model for by_model in prompts.values() for model in by_model))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_OF_PROMPT, *(f"{field} {model}" for model in models for field in _OF_MODEL)])
    for key, by_model in sorted(prompts.items()):
        if set(by_model) != set(models):
            raise ValueError(f"prompt {key} was answered by {', '.join(by_model)}, not by all of {', '.join(models)}.")
        first = by_model[models[0]]
        answers = [_text(getattr(by_model[model], field)) for model in models for field in _OF_MODEL]
        writer.writerow([*(_text(getattr(first, field)) for field in _OF_PROMPT), *answers])
    write_bytes(path, lzma.compress(text.getvalue().encode(), filters=_OF_TEXT))


def read_rows(path: Path) -> list[PromptRow]:
    """The inverse of `write_rows`: each model's rows in turn, in the file's order.

    Raises DamagedFileError for a file that xz's own sums do not fit.
    """
    try:
        content = lzma.decompress(path.read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        raise DamagedFileError(f"{path} is no table of answers, or damaged ({error}). Measure again.") from error
    table = csv.DictReader(io.StringIO(content.decode()))
    prefix = f"{_OF_MODEL[0]} "
    models = [name.removeprefix(prefix) for name in table.fieldnames or () if name.startswith(prefix)]
    lines = list(table)
    return [_row(line, model) for model in models for line in lines]


def _row(line: dict[str, str], model: str) -> PromptRow:
    values: dict[str, Any] = {name: line[name] for name in _OF_PROMPT}
    values |= {name: int(line[name]) for name in ("length", "index", "n_tokens", "n_mentioned")}
    values |= {name: line[f"{name} {model}"] for name in _OF_MODEL}
    log_probs = values["log_probs"].split(_SEPARATOR) if values["log_probs"] else ()
    return PromptRow(
        model=model,
        **{**values, "labels": tuple(line["labels"].split(_SEPARATOR)), "log_probs": tuple(map(float, log_probs))},
    )


def _text(value: str | int | tuple[str | float, ...]) -> str:
    if isinstance(value, tuple):
        return _SEPARATOR.join(f"{one:.5f}" if isinstance(one, float) else one for one in value)
    return str(value)


def _cell(by_model: dict[str, list[PromptRow]], models: Sequence[str]) -> Cell:
    rows = [sorted(by_model[model], key=lambda row: row.index) for model in models]
    first = rows[0]
    if any([row.story for row in other] != [row.story for row in first] for other in rows):
        raise ValueError(f"the models {', '.join(models)} did not answer the same stories: score them again together.")
    n = len(first)
    difference = None
    if len(models) == 2:
        difference = paired_difference([row.is_right for row in first], [row.is_right for row in rows[1]])
    return Cell(
        task=first[0].task,
        length=first[0].length,
        n=n,
        chance=fsum(1 / len(row.labels) for row in first) / n,
        chance_mentioned=fsum(1 / max(row.n_mentioned, 1) for row in first) / n,
        models=tuple(_model_accuracy(model, answered) for model, answered in zip(models, rows, strict=True)),
        difference=difference,
    )


def _model_accuracy(model: str, rows: Sequence[PromptRow]) -> ModelAccuracy:
    n_right = sum(row.is_right for row in rows)
    low, high = wilson_interval(n_right, len(rows))
    return ModelAccuracy(
        model=model,
        n_right=n_right,
        accuracy=n_right / len(rows),
        low=low,
        high=high,
        generated=sum(row.generates_answer for row in rows) / len(rows),
    )


def _n_mentioned(sample: NeedleSample) -> int:
    """Labels that stand in the facts; what the filler mentions does not count."""
    facts = [(span.char_start, span.char_end) for span in sample.fact_spans]
    return len({m.label for m in sample.mentions if any(a <= m.span.char_start < b for a, b in facts)})


def _first_word(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    words = str(tokenizer.decode(list(tokens), skip_special_tokens=True)).split()
    return words[0].strip(".,;:!?<>") if words else ""
