"""Does the subtraction cause the signal-to-noise ratio? Scale lambda, or take it away, and read the same prompts again.

    python analyses/lambda_causality/run.py --recipe builtin      generated stories in generated text
    python analyses/lambda_causality/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

Writes records.parquet, results.json and figures into a folder named after the recipe, then README.md. In steps, for a
machine that is lent with its GPU and need not have SciPy or Plotly:

    ... --prepare-to FILE    ... --material FILE --records-only --out DIR       ... --from-records DIR/paper
"""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from analyses.lambda_causality.prompts import TaskRecipe, about, cell_of, fetch, keep, load, prepare
from diffmamba_interp import inspect_checkpoint
from diffmamba_interp.analysis_conditions import CLEAN, Columns, Condition, read_prompts
from diffmamba_interp.analysis_results import read_recipe
from diffmamba_interp.interventions import ScaleLambda
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, demo_folder

HERE = Path(__file__).parent
DIFFERENTIAL: DemoName = "diff-mamba2"


@dataclass(frozen=True, kw_only=True)
class Recipe(TaskRecipe):
    """factors: of lambda in all blocks at once; 1, the model as it is, is always measured. block_factors: in one."""

    factors: tuple[float, ...]
    block_factors: tuple[float, ...]


def main(
    recipe: str = "builtin",
    data: Path = Path("../shared/data"),
    out: Path = HERE,
    n: tuple[int, ...] | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    jobs: int = 2,
    lens: str = "tuned",
    prepare_to: Path | None = None,
    material: Path | None = None,
    records_only: bool = False,
    from_records: Path | None = None,
) -> None:
    """Read the prompts under every condition, then write records, results, figures and README.

    data: holds babi_tasks_v1-2.tar.gz and novels/ (recipe "paper" alone reads them). n: prompts per cell instead of the
    recipe's. jobs: cells measured at a time. lens: "tuned" or "logit". prepare_to: write the prompts there and stop.
    material: prompts so written. records_only: leave the rest to from_records, a folder of records.
    """
    settings = read_recipe(HERE / "recipe.toml", recipe, Recipe).with_n(n)
    if prepare_to is not None:
        prepare(settings, data, prepare_to)
        return
    folder = out / recipe
    if from_records is None:
        with ExitStack() as stack:
            if material is None:
                material = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "material"
                prepare(settings, data, material)
            work = [(name, *cell) for name in DEMO_NAMES for cell in settings.wanted]
            pool = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")))
            running = [pool.submit(measure, *one, settings, material, device, lens) for one in work]
            parts = [one.result() for one in running]
            made = about(recipe, settings, material, device, lens)
        made["lambda"] = [block.lambda_ for block in inspect_checkpoint(demo_folder(DIFFERENTIAL)).blocks]
        keep(folder, settings, parts, made)
    else:
        fetch(folder, from_records)
    if not records_only:
        # Plotly draws the figures; a machine that only measures need not have it.
        from analyses.lambda_causality import report, summary

        summary.write(folder)
        report.write(out)


def measure(name: DemoName, task: str, length: int, recipe: Recipe, material: Path, device: str, lens: str) -> Columns:
    """One model's records of one cell; the plain model has no lambda, and is read as it is."""
    if device == "cpu":
        torch.set_num_threads(1)
    model, reader = load(name, device, lens)
    samples = cell_of(material, recipe, task, length)
    columns: Columns = {}
    for condition in conditions(recipe, model.cfg.n_layers) if name == DIFFERENTIAL else [Condition(kind=CLEAN)]:
        for key, values in read_prompts(model, reader, samples, condition, name=name).items():
            columns.setdefault(key, []).extend(values)
    print(f"{name} {task} at {length}: {len(samples)} prompts", flush=True)
    return columns


def conditions(recipe: Recipe, n_layers: int) -> list[Condition]:
    """The model as it is, every lambda scaled, and one block's lambda scaled."""
    doses: list[tuple[str, float, int | None]] = [("all", factor, None) for factor in recipe.factors]
    doses += [(str(block), factor, block) for factor in recipe.block_factors for block in range(n_layers)]
    scaled = [
        Condition(kind="scale", where=where, dose=factor, interventions=(ScaleLambda(factor=factor, blocks=blocks),))
        for where, factor, blocks in doses
    ]
    return [Condition(kind=CLEAN), *scaled]


if __name__ == "__main__":
    tyro.cli(main)
