"""A small grid of retrieval accuracy, cell by cell, so that it can be shown while it grows and stopped at any time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from transformers import PreTrainedTokenizerFast

from app.shell import loading
from app.shell.downloads import Download, csv_file, html_file, npz_file
from app.shell.estimates import forward_seconds
from app.shell.folders import ModelKey
from app.shell.steps import Lines, Ref, Step, as_python, model_steps, tokenizer_step
from diffmamba_interp.figures.retrieval import accuracy_by_length, ratio_heat_map
from diffmamba_interp.files.archives import arrays_to_bytes
from diffmamba_interp.files.csv_text import csv_text
from diffmamba_interp.needle import Filler, Haystack
from diffmamba_interp.needle.accuracy_grid import Cell, PromptRow, hide_stories, prompt_rows
from diffmamba_interp.needle.scoring import LabelScores, score_labels
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.text.generated_text import generated_documents

RESULTS = Path(__file__).resolve().parents[3] / "analyses" / "retrieval"
FILLER_CHARS = 200_000
SPARE_STORIES = 20
STEP_TOKENS = 4096
FACT_TOKENS = {"qa1": 76, "qa2": 201, "qa3": 579, "qa4": 32, "qa5": 263}
"""What the longest stories without filler take, to which the others beside them are padded."""

COLUMNS = ("task", "length", "n", "chance", "model", "n_right", "accuracy", "low", "high", "generated")
ANSWER_TOKENS = 80
"""Scoring a prompt's labels and generating an answer takes as long as reading so many tokens."""


@dataclass(frozen=True, kw_only=True)
class GridRequest:
    """tasks: "qa1" to "qa5". lengths: in tokens, 0 for no filler. n: prompts per cell."""

    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    n: int
    seed: int

    @property
    def cells(self) -> list[tuple[str, int]]:
        return [(task, length) for length in sorted(self.lengths) for task in self.tasks]

    def seconds(self, keys: Sequence[ModelKey]) -> float:
        """About so many seconds for all models."""
        n_tokens = self.n * sum((length or FACT_TOKENS[task]) + ANSWER_TOKENS for task, length in self.cells)
        return sum(forward_seconds(key, n_tokens) for key in keys)


@dataclass(frozen=True, kw_only=True)
class GridStep:
    """rows: of a cell that is done, of all models; none on the way to one. share: of the grid that is done."""

    task: str
    length: int
    share: float
    rows: tuple[PromptRow, ...] = ()


def run_grid(models: dict[str, ModelKey], request: GridRequest) -> Iterator[GridStep]:
    """One cell after the other, in steps of a few seconds; the models must share a tokenizer.

    Between the steps others can use the models. Raises ValueError for a task of which no story fits a length.
    """
    first = next(iter(models.values()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=loading.tokenizer(first))
    haystack = Haystack(tokenizer, Filler.from_texts(tokenizer, list(generated_documents(n_chars=FILLER_CHARS))))
    for number, (task, length) in enumerate(request.cells):
        stories = generate_stories(
            task, n=request.n + SPARE_STORIES, seed=request.seed, split="eval", vocabulary="mixed"
        )
        samples = hide_stories(haystack, stories, n=request.n, length=length, seed=request.seed)
        if not samples:
            raise ValueError(f"no story of {task} fits {length} tokens: give a greater length.")
        rows: list[PromptRow] = []
        at_a_time = max(1, STEP_TOKENS // max(length, FACT_TOKENS[task]))
        for place, (name, key) in enumerate(models.items()):
            scores: list[LabelScores] = []
            for start in range(0, len(samples), at_a_time):
                score = partial(score_labels, samples=samples[start : start + at_a_time], n_generated=3)
                scores += loading.use(key, score)
                done = (place + len(scores) / len(samples)) / len(models)
                yield GridStep(task=task, length=length, share=(number + done) / len(request.cells))
            rows += prompt_rows(name, samples, scores, tokenizer)
        yield GridStep(task=task, length=length, share=(number + 1) / len(request.cells), rows=tuple(rows))


def grid_files(figures: Mapping[str, go.Figure], cells: Sequence[Cell]) -> list[Download]:
    """Every figure, and the cells behind them."""
    return [
        *(html_file(figure, f"{name}.html") for name, figure in figures.items()),
        csv_file(lambda: cells_csv(cells)),
        npz_file(lambda: cells_npz(cells)),
    ]


def cells_csv(cells: Sequence[Cell]) -> str:
    """One line per cell and model."""
    return csv_text(COLUMNS, lines_of(cells))


def cells_npz(cells: Sequence[Cell]) -> bytes:
    """The columns of the CSV file as arrays."""
    columns = list(zip(*lines_of(cells), strict=True))
    return arrays_to_bytes({name: np.array(column) for name, column in zip(COLUMNS, columns, strict=True)})


def lines_of(cells: Sequence[Cell]) -> list[list[object]]:
    return [
        [cell.task, cell.length, cell.n, cell.chance, m.model, m.n_right, m.accuracy, m.low, m.high, m.generated]
        for cell in cells
        for m in cell.models
    ]


def results_code(name: str) -> str:
    """What reads the shipped results, run from the project's folder."""
    return "\n".join(
        [
            "import json",
            "from pathlib import Path",
            "from diffmamba_interp.figures.retrieval import accuracy_by_length, ratio_heat_map",
            "from diffmamba_interp.needle.accuracy_grid import Cell",
            "",
            f'results = json.loads(Path("analyses/retrieval/{name}/results.json").read_text())',
            'cells = [Cell.from_dict(values) for values in results["cells"]]',
            'others = [[Cell.from_dict(values) for values in seed] for seed in results.get("seeds", [])]',
            "figure, ratio = accuracy_by_length(cells, others=others), ratio_heat_map(cells)",
            "",
        ]
    )


def grid_code(models: Mapping[str, ModelKey], request: GridRequest) -> str:
    """What scores the grid again."""
    steps: list = [Lines("models", "models = {}"), tokenizer_step(next(iter(models.values())))]
    for name, key in models.items():
        steps += [*model_steps(key), Lines("", f"models[{name!r}] = model")]
    loop = Lines(
        "cells",
        f"filler = Filler.from_texts(tokenizer, list(generated_documents(n_chars={FILLER_CHARS})))",
        "haystack, rows = Haystack(tokenizer, filler), []",
        f"for task, length in {request.cells!r}:",
        f'    stories = generate_stories(task, n={request.n + SPARE_STORIES}, seed={request.seed}, split="eval",'
        ' vocabulary="mixed")',
        f"    samples = hide_stories(haystack, stories, n={request.n}, length=length, seed={request.seed})",
        "    for name, model in models.items():",
        "        rows += prompt_rows(name, samples, score_labels(model, samples, n_generated=3), tokenizer)",
        "cells = summarise(rows, list(models))",
        imports=[
            "from diffmamba_interp.needle import Filler, Haystack, generate_stories",
            "from diffmamba_interp.needle.accuracy_grid import hide_stories, prompt_rows, summarise",
            "from diffmamba_interp.needle.scoring import score_labels",
            "from diffmamba_interp.text.generated_text import generated_documents",
        ],
    )
    ratio = [Step("ratio", ratio_heat_map, Ref("cells"))] if len(models) == 2 else []
    return as_python([*steps, loop, Step("figure", accuracy_by_length, Ref("cells")), *ratio])
