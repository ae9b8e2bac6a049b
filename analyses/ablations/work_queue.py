"""Train the runs of recipes on several GPUs in the time that there is: one worker a card takes the next run that fits.

    python analyses/ablations/work_queue.py --material paper.tar.xz --recipe paper --out DIR --seconds 560

Every finished run is a line of DIR/runs-<card>.jsonl at once, and only whole lines are there; runs in those files, or
in those of --carried, are not trained again. `run.py --runs DIR/*.jsonl` makes records of them. A run that fails ends
its worker, whose successor goes on behind it; one that would not end in time is not begun, or given up. Weights are not
kept.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.ablations import material as materials
from analyses.ablations.cells import CELLS, Unit, runs_of
from analyses.ablations.training import OutOfTimeError, Recipe, Rows, append_line, measure, rows_of, train
from diffmamba_interp.analysis.question import run_command
from diffmamba_interp.analysis.results import read_recipe
from diffmamba_interp.files.json_files import json_text, parse_json, plain
from diffmamba_interp.lm_training.mixture import Role
from diffmamba_interp.runs.provenance import PACKAGE, device_name, package_versions

HERE = Path(__file__).parent
READING_SECONDS = 12.0
"""What a run takes beside its steps: the model, the capture of its graph, the reading."""
STEP_SECONDS = {False: 0.032, True: 0.056}
"""Before a run of the kind has been timed, of 12 blocks and 32 rows of 1,024 tokens on an H200: Diff-S6 or not."""
MOST_FAILURES = 6
WARM_UP_STEPS = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The runs of a recipe. folder: its material, unpacked, and the rows that are made of it."""

    name: str
    recipe: Recipe
    folder: Path

    def has_rows(self, seed: int) -> bool:
        return (self.folder / f"rows-{seed}-roles.npy").exists()

    @property
    def units(self) -> list[Unit]:
        return runs_of(self.recipe.cells, self.recipe.n_layers, self.recipe.seeds)


def main(
    recipe: tuple[str, ...] = ("paper",),
    material: tuple[Path, ...] = (),
    out: Path = Path("runs/ablations"),
    carried: tuple[Path, ...] = (),
    cards: int | None = None,
    seconds: float = 560.0,
    row_jobs: int = max((os.cpu_count() or 2) - 2, 1),
) -> None:
    """Train what is missing; given again, go on with what is still missing.

    Args:
        recipe: Names in recipe.toml.
        material: A file of each, in order (`run.py --prepare-to FILE`).
        out: Folder of the results; runs that are there already are not trained again.
        carried: Files of earlier results, from elsewhere.
        cards: Workers, taken in turn by the GPUs; None: one for each GPU, or one process without any.
        seconds: Until the end, from now; a run that would not end by then is left for the next time.
        row_jobs: Processes that make rows.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    end = time.time() + seconds
    if len(recipe) != len(material):
        raise ValueError(
            f"{len(recipe)} recipes and {len(material)} materials: give --material a file for each recipe, in order "
            "(run.py --prepare-to FILE writes it)."
        )
    if cards is None:
        cards = max(torch.cuda.device_count(), 1)
    with tempfile.TemporaryDirectory() as temporary:
        jobs = []
        for name, file in zip(recipe, material, strict=True):
            said = read_recipe(HERE / "recipe.toml", name, Recipe)
            folder = materials.unpack(file, Path(temporary) / name, said)
            jobs.append(Job(name=name, recipe=said, folder=folder))
        claims = Path(temporary) / "claims"
        claims.mkdir()
        claim_trained(jobs, claims, [*carried, *out.glob("runs-*.jsonl")])
        # A process that has used CUDA or threads cannot be forked, nor can it make the rows.
        spawn = multiprocessing.get_context("spawn")
        maker = spawn.Process(target=make_rows, args=(jobs, row_jobs), daemon=False)
        maker.start()
        new = {card: (work, (jobs, claims, out / f"runs-{card}.jsonl", card, end)) for card in range(cards)}
        workers = {card: spawn.Process(target=target, args=args) for card, (target, args) in new.items()}
        for worker in workers.values():
            worker.start()
        n_failures = 0
        while workers:
            if maker.exitcode:
                for worker in workers.values():
                    worker.terminate()
                raise RuntimeError("the rows could not be made, so nothing can be learnt: see above.")
            for card, worker in list(workers.items()):
                worker.join(timeout=0.2)
                if worker.is_alive():
                    continue
                del workers[card]
                if worker.exitcode and n_failures < MOST_FAILURES:
                    n_failures += 1
                    workers[card] = spawn.Process(target=new[card][0], args=new[card][1])
                    workers[card].start()
        maker.terminate()
        maker.join()


def make_rows(jobs: Sequence[Job], n_processes: int) -> None:
    """The rows of all runs, in the order in which they are wanted."""
    # The tokenizer's threads do not survive a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for job in jobs:
        for seed in dict.fromkeys(seed for _, _, seed in job.units):
            started = time.monotonic()
            rows_of(job.recipe, seed, job.folder, jobs=n_processes)
            print(f"rows of {job.name}, seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def work(jobs: Sequence[Job], claims: Path, out: Path, card: int, end: float) -> None:
    """Train one run after the other on a card, until none is left that would end in time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    device = "cpu"
    if torch.cuda.is_available():
        # Triton launches its kernels on the current device, wherever the tensors are.
        torch.cuda.set_device(card % torch.cuda.device_count())
        device = f"cuda:{card % torch.cuda.device_count()}"
    else:
        torch.set_num_threads(1)
    refused = warm_up(jobs[0], device, is_backwards=card % 2 == 1)
    step_seconds: dict[tuple[str, str, int], float] = {}

    def seconds_of(job: Job, unit: Unit) -> float:
        cell, n_layers, _ = unit
        known = step_seconds.get((job.name, cell, n_layers))
        guessed = STEP_SECONDS[CELLS[cell].has_scans_subtracted] * n_layers / 12
        return job.recipe.steps * (guessed if known is None else known)

    def fits(seconds: float) -> bool:
        return time.time() + seconds + READING_SECONDS < end

    while True:
        chosen = next(
            (
                (job, unit)
                for job in jobs
                for unit in job.units
                if CELLS[unit[0]].has_scans_subtracted not in refused
                and fits(seconds_of(job, unit))
                and claim(claims, job.name, unit)
            ),
            None,
        )
        if chosen is None:
            return
        job, unit = chosen
        while not job.has_rows(unit[2]):
            if not fits(0):
                return
            time.sleep(0.2)
        rows = rows_of(job.recipe, unit[2], job.folder)
        # Any other error ends this process: what a failed kernel leaves behind is no place for the next run.
        try:
            tables = measure(
                job.recipe, unit, job.folder, rows, device=device, is_late=lambda seconds: not fits(seconds)
            )
        except OutOfTimeError as error:
            logger.info("card %d: no time left for %s", card, error)
            release(claims, job.name, unit)
            step_seconds[(job.name, *unit[:2])] = math.inf
            continue
        seconds, steps = tables["runs"]["seconds"][0], tables["runs"]["steps"][0]
        step_seconds[(job.name, *unit[:2])] = seconds / steps
        made = {"device": device_name(device), "versions": package_versions()}
        append_line(
            out,
            json_text(
                {"recipe": job.name, "made_by": plain_recipe(job.recipe, unit), "unit": unit, **made, "tables": tables}
            ),
        )
        logger.info("card %d: %s %s, %.1f s, %.1f s left", card, job.name, unit, seconds, end - time.time())


def warm_up(job: Job, device: str, *, is_backwards: bool) -> set[bool]:
    """While the first rows are made, let the kernels choose their tiles: some steps of each kind on no text at all.

    is_backwards: so that two cards do not compile the same kernel at the same time. Of the kinds (Diff-S6 or not)
    those that the kernels refuse.
    """
    refused: set[bool] = set()
    if device == "cpu":
        return refused
    recipe = job.recipe
    shape = (WARM_UP_STEPS, recipe.batch_size, recipe.length + 1)
    rows = Rows(np.full(shape, 5, np.uint16), np.full(shape, Role.TEXT, np.uint8))
    cells = [cell for cell in ("mamba", "diff-mamba", "diff-s6") if cell in recipe.cells]
    for cell in reversed(cells) if is_backwards else cells:
        started = time.monotonic()
        try:
            train(recipe, (cell, recipe.n_layers[0], 0), job.folder, rows, device=device, steps=WARM_UP_STEPS)
        except Exception:
            logger.exception("%s: no run of the kind of %s is made", device, cell)
            refused.add(CELLS[cell].has_scans_subtracted)
        logger.info("%s: warm for %s after %.0f s", device, cell, time.monotonic() - started)
    return refused


def claim(claims: Path, name: str, unit: Unit) -> bool:
    """Take a run, if nobody has."""
    try:
        os.close(os.open(_claim_of(claims, name, unit), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def claim_trained(jobs: Sequence[Job], claims: Path, files: Sequence[Path]) -> None:
    """Take the runs that files of earlier results hold, so that nobody trains them again."""
    for job in jobs:
        for unit in read_runs(files, job.recipe):
            claim(claims, job.name, unit)


def release(claims: Path, name: str, unit: Unit) -> None:
    """Give a run back to whom it fits."""
    _claim_of(claims, name, unit).unlink()


def read_runs(files: Sequence[Path], recipe: Recipe) -> dict[Unit, dict[str, Any]]:
    """Results of the runs of this very recipe, by unit; what was made by another is passed over."""
    return {
        unit_of(line): _with_nan(line)
        for line in _lines(files)
        if line["made_by"] == plain_recipe(recipe, unit_of(line))
    }


def about_of(files: Sequence[Path], recipe: Recipe) -> Mapping[str, Any]:
    """Device and versions of the runs, every version of this package. Raises ValueError for runs of several devices or
    of several versions of another package, and where there is no run."""
    runs = read_runs(files, recipe).values()
    if not runs:
        raise ValueError(
            f"{', '.join(map(str, files))}: no run of this recipe, as it stands in recipe.toml, among "
            f"{len(_lines(files))} lines. Give the files that work_queue.py wrote for it."
        )
    kinds = {json_text([run["device"], _others(run["versions"])]) for run in runs}
    if len(kinds) != 1:
        raise ValueError(
            f"the files hold runs of this recipe with {len(kinds)} devices and versions of packages: give files with "
            "runs of one kind of machine."
        )
    device, versions = json.loads(kinds.pop())
    ours = sorted({run["versions"][PACKAGE] for run in runs})
    return {"device": device, "versions": {PACKAGE: ", ".join(ours), **versions}}


def _others(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in versions.items() if name != PACKAGE}


def unit_of(line: Mapping[str, Any]) -> Unit:
    cell, n_layers, seed = line["unit"]
    return cell, n_layers, seed


def plain_recipe(recipe: Recipe, unit: Unit) -> dict[str, Any]:
    """What decides the numbers of a run: not which others there are, nor the sizes of the other kind of model."""
    sizes = ("d_model", "d_head") if CELLS[unit[0]].has_scans_subtracted else ("d_model_of_scans", "d_head_of_scans")
    others = ("cells", "n_layers", "seeds", *sizes)
    return {name: value for name, value in json.loads(json_text(plain(vars(recipe)))).items() if name not in others}


def _claim_of(claims: Path, name: str, unit: Unit) -> Path:
    return claims / "-".join([name, *map(str, unit)])


def _lines(files: Sequence[Path]) -> list[dict[str, Any]]:
    return [
        parse_json(line, source=f"line {number} of {file}")
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    ]


def _with_nan(line: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what was one is null."""
    tables = {
        table: {name: [np.nan if value is None else value for value in column] for name, column in columns.items()}
        for table, columns in line["tables"].items()
    }
    return line | {"tables": tables}


if __name__ == "__main__":
    sys.exit(run_command(main))
