"""Which of the demo pair bears noise better: in its residual stream, and among the filler of its prompts?

    python analyses/noise_robustness/run.py --recipe builtin      generated stories in generated text
    python analyses/noise_robustness/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

Writes records.parquet, results.json and figures into a folder named after the recipe, then README.md. In steps, for a
machine that is lent with its GPU and need not have SciPy or Plotly:

    ... --prepare-to FILE    ... --material FILE --records-only --out DIR       ... --from-records DIR/paper
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from analyses.lambda_causality.prompts import TaskRecipe, about, cell_of, fetch, keep, load, prepare
from diffmamba_interp.analysis_conditions import CLEAN, Columns, Condition, read_prompts
from diffmamba_interp.analysis_results import read_recipe
from diffmamba_interp.interventions import AddNoise, randomise_tokens
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName
from diffmamba_interp.needle import NeedleSample

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Recipe(TaskRecipe):
    """snr_db: power of the residual stream over that of the noise, at every block's entrance. token_shares: of the
    filler's tokens, replaced by random ones."""

    snr_db: tuple[float, ...]
    token_shares: tuple[float, ...]


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
    """Read the prompts with both models at every level of noise, then write records, results, figures and README.

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
            work = [(name, *cell) for cell in settings.wanted for name in DEMO_NAMES]
            pool = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")))
            running = [pool.submit(measure, *one, settings, material, device, lens) for one in work]
            parts = [one.result() for one in running]
            made = about(recipe, settings, material, device, lens)
        keep(folder, settings, parts, made)
    else:
        fetch(folder, from_records)
    if not records_only:
        # Plotly draws the figures; a machine that only measures need not have it.
        from analyses.noise_robustness import report, summary

        summary.write(folder)
        report.write(out)


def measure(name: DemoName, task: str, length: int, recipe: Recipe, material: Path, device: str, lens: str) -> Columns:
    """One model's records of one cell."""
    if device == "cpu":
        torch.set_num_threads(1)
    model, reader = load(name, device, lens)
    samples = cell_of(material, recipe, task, length)
    noisy = [(Condition(kind=CLEAN), samples)]
    noisy += [
        (Condition(kind="gaussian", dose=dose, interventions=(AddNoise(snr_db=dose, seed=recipe.seed),)), samples)
        for dose in recipe.snr_db
    ]
    if length:
        noisy += [
            (Condition(kind="tokens", dose=share), with_random_filler(samples, share, model.cfg.d_vocab, recipe.seed))
            for share in recipe.token_shares
        ]
    columns: Columns = {}
    for condition, prompts in noisy:
        for key, values in read_prompts(model, reader, prompts, condition, name=name).items():
            columns.setdefault(key, []).extend(values)
    print(f"{name} {task} at {length}: {len(samples)} prompts", flush=True)
    return columns


def with_random_filler(
    samples: Sequence[NeedleSample], share: float, d_vocab: int, seed: int
) -> tuple[NeedleSample, ...]:
    """The prompts with a share of their filler's tokens replaced; no label is drawn, the facts stay as they are."""
    return tuple(
        replace(
            sample,
            tokens=randomise_tokens(
                sample.tokens,
                [
                    (span.token_start, span.token_end)
                    for span in sample.filler_spans
                    if span.token_end > span.token_start
                ],
                share=share,
                d_vocab=d_vocab,
                seed=seed,
                exclude={token for tokens in sample.label_tokens for token in tokens},
            ),
        )
        for sample in samples
    )


if __name__ == "__main__":
    tyro.cli(main)
