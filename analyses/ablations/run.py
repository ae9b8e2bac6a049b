"""The paper's ablations at demo size: do subtracting whole mixers, normalising and lambda's form matter, over seeds?

    python analyses/ablations/run.py --recipe builtin      all kinds of model, far too small: minutes on a CPU
    python analyses/ablations/run.py --recipe paper        Table 2, placement, gates at demo size, from --data: a GPU
    python analyses/ablations/run.py --recipe depth        Table 1 in small: bytes of novels, 6 and 12 blocks

On several GPUs, or in pieces of time, `work_queue.py` trains the runs; `--runs FILE ...` reads what it wrote. Writes
records, results.json and figures into a folder named after the recipe, then README.md.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.ablations import material, report
from analyses.ablations.cells import Unit, runs_of
from analyses.ablations.training import Recipe, Rows, Tables, measure, rows_of
from analyses.ablations.work_queue import about_of, read_runs
from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.question import Asked, Options, Parts, Question, joined
from diffmamba_interp.analysis.results import write_records


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """What a question takes, and runs that were trained before."""

    runs: tuple[Path, ...] = ()
    """Files of `work_queue.py`: nothing is trained, and a run that they do not hold is left out."""


def units(asked: Asked, models: Sequence[str]) -> Sequence[Unit]:
    recipe = asked.recipe
    planned = runs_of(recipe.cells, recipe.n_layers, recipe.seeds)
    if not asked.options.runs:
        return planned
    there = read_runs(asked.options.runs, recipe)
    return [unit for unit in planned if unit in there]


def measure_unit(asked: Asked, *unit: Any) -> Tables:
    if asked.options.runs:
        return read_runs(asked.options.runs, asked.recipe)[unit]["tables"]
    folder, rows = _rows(asked.material, asked.recipe, unit[2])
    return measure(asked.recipe, unit, folder, rows, device=asked.options.device)


@functools.lru_cache(maxsize=2)
def _rows(path: Path, recipe: Recipe, seed: int) -> tuple[Path, Rows]:
    """A material's files and the rows of a seed, for all runs of this process."""
    folder = material.unpack(path, Path(_folder().name), recipe)
    return folder, rows_of(recipe, seed, folder)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def about(asked: Asked) -> Mapping[str, Any]:
    """Where and with what the runs were trained, if that was elsewhere."""
    return about_of(asked.options.runs, asked.recipe) if asked.options.runs else {}


def sums(asked: Asked) -> Mapping[str, str]:
    assert asked.material is not None
    return material.sums_of(asked.material, asked.recipe)


def keep(folder: Path, recipe: Recipe, parts: Parts) -> None:
    """Bits to a tenth, of thousands a document; the other tables beside them."""
    for table, decimals in {"records": 1, "prompts": 0, "blocks": 4, "log": 4, "rivals": 4, "runs": 1}.items():
        write_records(folder / RECORDS.replace("records", table), joined(parts, table=table), decimals=decimals)


QUESTION = Question(
    recipe=Recipe,
    options=RunOptions,
    models=(),
    prepare=material.prepare,
    units=units,
    sums=sums,
    about=about,
    measure=measure_unit,
    keep=keep,
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
