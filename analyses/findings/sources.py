"""What the rows are told from: results and records of the questions, and the comparisons that several rows make."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records, read_results
from diffmamba_interp.needle.accuracy_grid import PromptRow, read_rows
from diffmamba_interp.statistics import Estimate, bootstrap, paired_difference, t_test

ANALYSES = Path(__file__).parents[1]
PLAIN, DIFFERENTIAL = "mamba2", "diff-mamba2"
WEIGHTS, SIX, FIVE, FOUR = "these weights", "six seeds", "five seeds", "four seeds"
LENGTHS = {"0": "0k", "1024": "1k"}


class OutdatedError(ValueError):
    """A record does not say what a sentence says."""


@functools.cache
def results(folder: str) -> dict[str, Any]:
    """results.json of a folder of `analyses/`."""
    return read_results(ANALYSES / folder / "results.json")


@functools.cache
def records(folder: str) -> Records:
    """records.parquet of a folder of `analyses/`."""
    return read_records(ANALYSES / folder / "records.parquet")


@functools.cache
def rows_of(folder: str) -> list[PromptRow]:
    """records.csv.xz of a folder of `analyses/`."""
    return read_rows(ANALYSES / folder / "records.csv.xz")


def newest(question: str, *recipes: str) -> str:
    """The first recipe that the question has results of, as a folder. Raises ValueError where there is none."""
    for recipe in recipes:
        if (ANALYSES / question / recipe / "results.json").is_file():
            return f"{question}/{recipe}"
    raise ValueError(f"analyses/{question} has results of none of {', '.join(recipes)}.")


def claim(holds: Any, words: str) -> None:
    """Raises OutdatedError where a sentence is no longer true, with what it claims."""
    if not holds:
        raise OutdatedError(f"the records no longer say that {words}: change its row in analyses/findings.")


def told(values: Sequence[float | None] | Estimate, decimals: int = 2, *, unit: str = "", signed: bool = True) -> str:
    """`+0.12 dB [0.10, 0.14]`: bounds without a sign where they agree with the value's."""
    estimate = values if isinstance(values, Estimate) else estimate_from(values)
    style = f"{'+' if signed else ''}.{decimals}f"
    between = f" {unit}" if unit else ""
    return f"{estimate.value:{style}}{between} [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"


def cell(cells: Sequence[Mapping[str, Any]], **which: Any) -> Mapping[str, Any]:
    """The one cell with these values. Raises ValueError unless there is one."""
    chosen = [one for one in cells if all(one[name] == value for name, value in which.items())]
    if len(chosen) != 1:
        raise ValueError(f"{len(chosen)} cells have {which}, and one was looked for.")
    return chosen[0]


def accuracy_difference(
    rows: Sequence[PromptRow], first: str, second: str, *, length: int, without: Sequence[str] = ()
) -> Estimate:
    """Second less first over the prompts of a length, paired, less the tasks in `without`."""
    by_model = [
        [row for row in rows if row.model == model and row.length == length and row.task not in without]
        for model in (first, second)
    ]
    asked = [[(row.task, row.index) for row in own] for own in by_model]
    if asked[0] != asked[1]:
        raise ValueError(f"{first} and {second} were not asked the same prompts in one order at length {length}.")
    return paired_difference(*([row.is_right for row in own] for own in by_model))


def probability_ratio(folder: str, lens: str, length: int) -> list[Estimate]:
    """By stage: geometric mean over prompts of the answer's probability in the differential model over the plain's."""
    kept = records(folder)
    logs = []
    for model in (PLAIN, DIFFERENTIAL):
        chosen = np.flatnonzero((kept["model"] == model) & (kept["lens"] == lens) & (kept["length"] == length))
        chosen = chosen[np.lexsort((kept["story"][chosen], kept["task"][chosen]))]
        n_stages = sum(name.startswith("log_p_") for name in kept)
        logs.append(np.stack([kept[f"log_p_{stage}"][chosen] for stage in range(n_stages)], axis=1))
    interval = bootstrap(logs[1] - logs[0], n_resamples=N_RESAMPLES)
    return [Estimate(*np.exp([one.value, one.low, one.high]).tolist()) for one in interval.estimates]


def step_of_answers(seed: int, model: str, level: float = 0.5) -> float:
    """The training step at which the running accuracy of answers passes `level`, on the line between two log lines."""
    name = model if seed == 0 else f"{model}-seed{seed}"
    with gzip.open(ANALYSES / "retrieval" / "training" / name / "log.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    curve = [(line["step"], line["answer_accuracy"]) for line in lines if "answer_accuracy" in line]
    for (step, before), (next_step, after) in zip(curve, curve[1:], strict=False):
        if after >= level:
            return float(step + (next_step - step) * (level - before) / (after - before))
    raise ValueError(f"the answers of {name} never pass {level}.")


def ratio_over_seeds(plain: Sequence[float], differential: Sequence[float]) -> Estimate:
    """Geometric mean over seeds of plain over differential, with a t interval of the logarithm."""
    (estimate,) = t_test(np.log(np.divide(plain, differential))).estimates
    return Estimate(*np.exp([estimate.value, estimate.low, estimate.high]).tolist())


@dataclass(frozen=True, kw_only=True)
class Row:
    """holds_for: "these weights", or how many training seeds. n: of what the interval is drawn over."""

    question: str
    answer: str
    holds_for: str
    n: str
    page: str


def bounds(values: Mapping[str, float]) -> Estimate:
    """An estimate that results.json holds by name."""
    return Estimate(values["value"], values["low"], values["high"])


def texts_of(folder: str) -> str:
    """Which text a recipe's results are of, in words."""
    recipe = folder.split("/")[1]
    return {
        "unseen": "novels that no training saw",
        "paper": "novels kept from the language models",
        "builtin": "generated texts, too few to decide anything",
    }[recipe]


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
