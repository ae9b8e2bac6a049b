"""A question asked of models: prepare, measure, summarise, report, each on a machine of its own if need be.

    prepare     what is asked, in one file                      --prepare-to FILE, then --material FILE
    measure     units (a model and a cell, say) -> records, and results.json with what they were made with
                                                                --records-only --out DIR
    summarise   records -> results.json                         --from-records DIR/RECIPE
    report      results.json -> figures, README.md

Units are measured in processes of their own and kept in `.measured` until the last is done, so that the same command
goes on where it was stopped. One process at a time writes into a folder.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
import tyro

from diffmamba_interp.analysis.page import RECORDS, RESULTS, Page
from diffmamba_interp.analysis.results import (
    provenance,
    read_recipe,
    write_records,
    write_results,
)
from diffmamba_interp.files.archives import arrays_from_bytes, arrays_to_bytes
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.json_files import json_text
from diffmamba_interp.files.locks import folder_lock
from diffmamba_interp.models.demo import DEMO_NAMES, load_demo
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.runs.command import errors_as_messages

RECORDS_TABLE = "records"
MEASURED = ".measured"
"""Folder of the units that were measured, beside the records that they are to become."""

Unit = tuple[Any, ...]
"""What is measured at once: the name of a model, then whatever else tells units apart."""
Columns = Mapping[str, Any]
"""Sequences or arrays of one length, by name; or several such tables by theirs, of which "records" is one."""
Parts = Mapping[Unit, Mapping[str, Mapping[str, np.ndarray]]]
"""What was measured of every unit, in the order of the units."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a question is asked this time: what every `run.py` takes from its command line."""

    recipe: str = "builtin"
    """Which table of the question's recipe.toml."""
    data: Path = Path("../shared/data")
    """Holds babi_tasks_v1-2.tar.gz, novels/ and pile_test/; recipe "builtin" reads none of them."""
    out: Path | None = None
    """Folder for the recipe's folder and README.md; None: that of the question."""
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    jobs: int = 2
    """Units that are measured at a time; 1 measures them in this process."""
    prepare_to: Annotated[Path | None, tyro.conf.arg(aliases=["--prepare"])] = None
    """Write what is asked into this file, and stop."""
    material: Annotated[Path | None, tyro.conf.arg(aliases=["--samples"])] = None
    """What is asked, from a file that --prepare-to wrote."""
    records_only: bool = False
    """Measure, and leave the rest to --from-records."""
    from_records: Path | None = None
    """Measure nothing: a folder that --records-only left, whose records and results.json are completed here."""
    page: bool = True
    """Write README.md and figures; without, results.json is the last that is written."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a unit is measured with. material: the file that `prepare` wrote, if the question has any."""

    recipe: Any
    options: Any
    material: Path | None = None

    def load(self, name: str) -> HookedMamba:
        """A model of the demo pair on the device."""
        return load_demo(name, device=self.options.device)[0]  # type: ignore[arg-type]

    def on(self, device: str) -> Asked:
        """The same on another device."""
        return replace(self, options=replace(self.options, device=device))

    def by_device(self, sizes: Mapping[str, int]) -> int:
        """The size for the kind of device: "cpu" or "cuda"."""
        return sizes[torch.device(self.options.device).type]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a folder of `analyses/` asks, as functions of its module (they are called in other processes).

    recipe: a frozen dataclass with a field `seed`, of which recipe.toml has tables; options of
    the same name override its fields. options: the command line's, with fields of the question's own.
    models: those of the demo pair that are asked. units: of what was asked and the models; None: one for each model.
    measure: of what was asked, then the parts of a unit -> its records, or tables of which "records" is one.
    prepare: writes what a recipe asks into a file; None where there is nothing to make.
    about: what else results were made with, for their provenance. sums: sha256 of the data, by name.
    aside: results that no record holds, of all parts; summaries find them in results.json.
    keep: writes the records of all parts into a folder; None: one table, with five decimals.
    page: what the records say.
    """

    recipe: type[Any]
    measure: Callable[..., Columns]
    page: Page
    options: type[Options] = Options
    models: Sequence[str] = DEMO_NAMES
    units: Callable[[Asked, Sequence[str]], Sequence[Unit]] | None = None
    prepare: Callable[[Any, Any, Path], None] | None = None
    about: Callable[[Asked], Mapping[str, Any]] | None = None
    sums: Callable[[Asked], Mapping[str, str]] | None = None
    aside: Callable[[Parts], Mapping[str, Any]] | None = None
    keep: Callable[[Path, Any, Parts], None] | None = None

    @property
    def folder(self) -> Path:
        """Of the question: recipe.toml, README.md, and a folder of results for each recipe."""
        return self.page.folder

    @errors_as_messages(stopped="the units that were measured are kept, and the same command goes on from there.")
    def main(self, args: Sequence[str] | None = None) -> int:
        """Ask as the command line says; the exit code (see `runs.command`)."""
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("diffmamba_interp.analysis").setLevel(logging.INFO)
        self.ask(tyro.cli(self.options, args=args, description=sys.modules[self.measure.__module__].__doc__))
        return 0

    def ask(self, options: Options) -> None:
        """All steps that the options do not leave to another machine.

        Raises ValueError for a recipe that there is not, or material that was made for another; LockedError where
        another process writes.
        """
        recipe = self.recipe_of(options)
        if options.prepare_to is not None:
            if self.prepare is None:
                raise ValueError("this question needs nothing prepared: leave --prepare-to out.")
            self.prepare(recipe, options, options.prepare_to)
            return
        out = options.out or self.folder
        folder = out / options.recipe
        with folder_lock(out):
            if options.from_records is None:
                self._measure(recipe, options, folder)
            elif options.from_records.resolve() != folder.resolve():
                for file in options.from_records.iterdir():
                    write_bytes(folder / file.name, file.read_bytes())
            if not options.records_only:
                self.page.complete(folder)
                if options.page:
                    self.page.write(out)

    def recipe_of(self, options: Options) -> Any:
        """The recipe that is named, with what options of its fields' names say instead."""
        recipe = read_recipe(self.folder / "recipe.toml", options.recipe, self.recipe)
        said = {one.name: getattr(options, one.name, None) for one in fields(recipe)}
        return replace(recipe, **{name: value for name, value in said.items() if value is not None})

    def units_of(self, asked: Asked) -> Sequence[Unit]:
        """What is measured at once, in the order in which it is kept."""
        return [(name,) for name in self.models] if self.units is None else self.units(asked, self.models)

    def measure_unit(self, asked: Asked, unit: Unit) -> dict[str, dict[str, np.ndarray]]:
        """The tables of a unit, in this process."""
        device = torch.device(asked.options.device)
        if device.type == "cpu":
            torch.set_num_threads(1)
        elif device.type == "cuda":
            # Triton launches its kernels on the current device, wherever the tensors are.
            torch.cuda.set_device(device)
        measured = self.measure(asked, *unit)
        tables = measured if RECORDS_TABLE in measured else {RECORDS_TABLE: measured}
        return {
            table: {name: np.asarray(column) for name, column in columns.items()} for table, columns in tables.items()
        }

    def _measure(self, recipe: Any, options: Options, folder: Path) -> None:
        """Records, and results.json with their provenance and what no record holds."""
        with ExitStack() as stack:
            material = options.material
            if material is None and self.prepare is not None:
                material = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "material"
                self.prepare(recipe, options, material)
            asked = Asked(recipe=recipe, options=options, material=material)
            about = provenance(options.recipe, recipe, device=options.device, models=self.models)
            about |= self.about(asked) if self.about else {}
            sums = self.sums(asked) if self.sums else {}
            about |= {"data": sums} if sums else {}
            with _kept_parts(folder / MEASURED, json_text(about)) as kept:
                parts = self._parts(asked, kept)
                if self.keep is None:
                    write_records(folder / RECORDS, joined(parts), decimals=5)
                else:
                    self.keep(folder, recipe, parts)
                write_results(folder / RESULTS, about, self.aside(parts) if self.aside else {}, digits=self.page.digits)

    def _parts(self, asked: Asked, kept: Path) -> Parts:
        units = self.units_of(asked)
        files = {unit: kept / f"{'-'.join(map(str, unit))}.npz" for unit in units}
        missing = [unit for unit in units if not files[unit].exists()]
        if len(missing) < len(units):
            logger.info("%d of %d units were measured before", len(units) - len(missing), len(units))
        calls = [(asked.on(device_of(asked.options.device, place)), unit) for place, unit in enumerate(missing)]
        for n_done, (place, tables) in enumerate(in_processes(self.measure_unit, calls, jobs=asked.options.jobs), 1):
            unit = missing[place]
            flat = {f"{table}/{name}": column for table, one in tables.items() for name, column in one.items()}
            write_bytes(files[unit], arrays_to_bytes(flat))
            logger.info("%d of %d: %s", n_done, len(missing), " ".join(map(str, unit)))
        return {unit: _read_part(file) for unit, file in files.items()}


def run_command(main: Callable[..., None], args: Sequence[str] | None = None) -> int:
    """The command of a script whose `main` takes its options; the exit code."""

    @errors_as_messages(stopped="nothing was written.")
    def run() -> int:
        tyro.cli(main, args=args, description=sys.modules[main.__module__].__doc__)
        return 0

    return run()


def joined(parts: Parts, *, table: str = RECORDS_TABLE, order: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """A table of all units. order: the columns that lines are sorted by, first the one that decides most."""
    tables = [part[table] for part in parts.values()]
    columns = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    if not order:
        return columns
    places = np.lexsort([columns[name] for name in reversed(order)])
    return {name: column[places] for name, column in columns.items()}


@contextmanager
def _kept_parts(folder: Path, made_with: str) -> Iterator[Path]:
    """A folder for the units, empty unless they were made with the same; gone when the block ends well."""
    mark = folder / "made.json"
    if folder.exists() and not (mark.exists() and mark.read_text(encoding="utf-8") == made_with):
        shutil.rmtree(folder)
    write_bytes(mark, made_with.encode())
    yield folder
    shutil.rmtree(folder)


def in_processes(
    function: Callable[..., Result], calls: Sequence[Sequence[Any]], *, jobs: int
) -> Iterator[tuple[int, Result]]:
    """Place and result of each call as it is done: in `jobs` processes; one job, or one call, in this process."""
    jobs = min(jobs, len(calls))
    if jobs <= 1:
        yield from ((place, function(*arguments)) for place, arguments in enumerate(calls))
        return
    # A process that has used CUDA or threads cannot be forked.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        running = {pool.submit(function, *arguments): place for place, arguments in enumerate(calls)}
        for one in as_completed(running):
            yield running[one], one.result()
    finally:
        pool.shutdown(cancel_futures=True)


def device_of(device: str, place: int) -> str:
    """A device for the unit at a place: "cuda" goes through all GPUs in turn."""
    return f"cuda:{place % torch.cuda.device_count()}" if device == "cuda" else device


def _read_part(file: Path) -> dict[str, dict[str, np.ndarray]]:
    tables: dict[str, dict[str, np.ndarray]] = {}
    arrays = arrays_from_bytes(file.read_bytes(), source=file, remedy="Delete it, and it is measured again.")
    for name, column in arrays.items():
        table, _, column_name = name.partition("/")
        tables.setdefault(table, {})[column_name] = column
    return tables
