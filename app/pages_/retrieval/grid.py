"""Retrieval accuracies, as measured or of a small grid that is run here and can be stopped: as steps and as files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from app.shell.steps import Ref, Step, model_steps, run_steps, tokenizer_step
from app.shell.turns import give_way
from diffmamba_interp.figures.retrieval import accuracy_by_length, ratio_heat_map
from diffmamba_interp.files.archives import arrays_to_bytes
from diffmamba_interp.files.table_text import csv_text
from diffmamba_interp.needle import NeedleSample
from diffmamba_interp.needle.accuracy_grid import (
    Cell,
    PromptRow,
    grid_rows,
    read_cells,
    read_other_seeds,
    score_with_answers,
    summarise,
)
from diffmamba_interp.needle.scoring import LabelScores

RESULTS = Path(__file__).resolve().parents[3] / "analyses" / "retrieval"
STEP_TOKENS = 4096
MODELS = ("model", "second_model")
FACT_TOKENS = {"qa1": 76, "qa2": 201, "qa3": 579, "qa4": 32, "qa5": 263}
"""What the longest stories without filler take, to which the others beside them are padded."""

COLUMNS = (
    "task", "length", "n", "chance", "model", "n_right", "accuracy", "low", "high", "generated",
    "minus", "difference", "difference_low", "difference_high",
)  # fmt: skip
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


FIGURES = [
    Step("figure", accuracy_by_length, Ref("cells"), others=Ref("others")),
    Step("ratio", ratio_heat_map, Ref("cells")),
]


def measured_steps(file: Path) -> list[Step]:
    """What reads shipped results, and those of other training seeds."""
    return [Step("cells", read_cells, file), Step("others", read_other_seeds, file)]


def grid_steps(names: Sequence[str], request: GridRequest) -> list[Step]:
    """What makes the prompts with `tokenizer`, asks `models`, and counts what they get right."""
    of_grid = {"n": request.n, "seed": request.seed}
    return [
        Step("rows", grid_rows, Ref("models"), Ref("tokenizer"), request.cells, **of_grid),
        *summary_steps(names),
    ]


def summary_steps(names: Sequence[str]) -> list[Step]:
    return [Step("cells", summarise, Ref("rows"), list(names)), Step("others", list)]


def printed_grid(models: Mapping[str, ModelKey], request: GridRequest) -> list[Step]:
    """What asks the models again."""
    steps: list[Step] = []
    for key, name in zip(models.values(), MODELS, strict=False):
        steps += model_steps(key, name)
    by_name = {model: Ref(name) for model, name in zip(models, MODELS, strict=False)}
    tokenizer = tokenizer_step(next(iter(models.values())))
    return [*steps, tokenizer, Step("models", dict, by_name), *grid_steps(list(models), request)]


def run_grid(
    models: Mapping[str, ModelKey],
    request: GridRequest,
    on_share: Callable[[float, str], object],
    on_cell: Callable[[list[PromptRow]], None],
) -> None:
    """Ask the models, which must share a tokenizer, in steps of a few seconds between which others can use them.

    on_share: called with the share of all answers that there are, and where the last ones belong. on_cell: called with
    a cell's rows, of all models.
    Raises ValueError for a task of which too few stories fit a length.
    """
    n_answers, n_done = len(request.cells) * request.n * len(models), 0

    def score(key: ModelKey, samples: Sequence[NeedleSample]) -> list[LabelScores]:
        nonlocal n_done
        scores: list[LabelScores] = []
        at_a_time = max(1, STEP_TOKENS // max(sample.n_tokens for sample in samples))
        for start in range(0, len(samples), at_a_time):
            part = samples[start : start + at_a_time]
            scores += loading.use(key, partial(score_with_answers, samples=part))
            n_done += len(part)
            on_share(min(n_done / n_answers, 1.0), f"{part[0].task} at {part[0].length} tokens")
            give_way()
        return scores

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=loading.tokenizer(next(iter(models.values()))))
    given = {"models": models, "tokenizer": tokenizer}
    run_steps(grid_steps(list(models), request), given, {"rows": {"score": score, "on_cell": on_cell}})


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
    """A line per model; the second of two has its difference to the first, by whose interval the ratio is marked."""
    lines = []
    for cell in cells:
        for m in cell.models:
            paired: list[object] = ["", math.nan, math.nan, math.nan]
            if cell.difference is not None and m is cell.models[1]:
                paired = [cell.models[0].model, cell.difference.value, cell.difference.low, cell.difference.high]
            head = [cell.task, cell.length, cell.n, cell.chance]
            lines.append([*head, m.model, m.n_right, m.accuracy, m.low, m.high, m.generated, *paired])
    return lines
