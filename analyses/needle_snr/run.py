"""Does the answer stand out more from its distractors in Diff-Mamba's blocks? (Fig. 5 of arXiv 2507.06204)

    python analyses/needle_snr/run.py --recipe builtin      generated stories in generated text
    python analyses/needle_snr/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

Where time on a GPU is short, all that needs none can be done before and after, elsewhere:

    ... --recipe paper --prepare FILE
    ... --recipe paper --samples FILE --device cuda --out DIR --records-only
    ... --recipe paper --from-records DIR/paper

Writes records.parquet, made.json (what it was made with), results.json and figures into a folder named after the
recipe, then README.md.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from analyses.needle_snr.prompts import load_prompts, save_prompts
from diffmamba_interp.analysis.prompts import PromptRecipe
from diffmamba_interp.analysis.results import provenance, read_recipe, write_records
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.lens import LogitLens, demo_lens_folder, load_demo_lens
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, load_demo
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle import NeedleSample, needle_trajectory

HERE = Path(__file__).parent
BATCH_TOKENS = {"cpu": 8_192, "cuda": 262_144}
MAX_SAMPLES = {"cpu": 64, "cuda": 512}

Columns = dict[str, list[Any]]


def main(
    recipe: str = "builtin",
    data: Path = Path("../shared/data"),
    out: Path = HERE,
    n: tuple[int, ...] | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    jobs: int = 2,
    prepare: Path | None = None,
    samples: Path | None = None,
    records_only: bool = False,
    from_records: Path | None = None,
) -> None:
    """Read both models' blocks on the same prompts, then write records, results, figures and README.

    data: holds babi_tasks_v1-2.tar.gz and novels/ (recipe "paper" alone reads them). n: prompts per cell instead of the
    recipe's, for each length, or one for all. jobs: processes. prepare: only write the prompts into this file, from
    which samples reads them. records_only: leave the rest to from_records, a folder with records.parquet and made.json.
    """
    settings = read_recipe(HERE / "recipe.toml", recipe, PromptRecipe).with_n(n)
    if prepare is not None:
        save_prompts(prepare, settings, data, jobs)
        return
    folder = out / recipe
    if from_records is None:
        with ExitStack() as stack:
            if samples is None:
                samples = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "samples"
                save_prompts(samples, settings, data, jobs)
            write_measured(folder, recipe, settings, samples, device, jobs)
    if not records_only:
        # From here on Plotly and SciPy are needed.
        from analyses.needle_snr import report, summary

        summary.write(from_records or folder, folder)
        report.write(out)


def write_measured(folder: Path, name: str, recipe: PromptRecipe, samples: Path, device: str, jobs: int) -> None:
    """records.parquet and made.json, with the models side by side in processes of their own."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(measure, model, samples, recipe, device) for model in DEMO_NAMES]
        found = [one.result() for one in running]
    # A test compares the small recipe's to 0.001; the other's are many.
    decimals, snr_decimals = (4, 4) if recipe.stories == "generated" else (2, 0)
    records = together([columns for columns, _ in found], snr_decimals=snr_decimals)
    write_records(folder / "records.parquet", records, decimals=decimals)
    made = provenance(name, recipe, device=device)
    made["lenses"] = {model: lens_sha256(demo_lens_folder(model)) for model in DEMO_NAMES}
    if found[0][1]:
        made["data"] = found[0][1]
    write_text(folder / "made.json", json.dumps(made, indent=1) + "\n")


def measure(name: DemoName, path: Path, recipe: PromptRecipe, device: str) -> tuple[Columns, dict[str, str]]:
    """One model's records of the prompts in a file, and the sha256 of the data that they are made of."""
    if device == "cpu":
        torch.set_num_threads(1)
    samples, sha256 = load_prompts(path, recipe)
    model, _ = load_demo(name, device=device)
    return read(name, model, samples), sha256


def read(name: DemoName, model: HookedMamba, samples: list[NeedleSample]) -> Columns:
    """One line per lens and prompt: at every stage the ratio in dB and the answer's log-probability in nats."""
    kind = model.embed.weight.device.type
    found = needle_trajectory(
        model,
        {"tuned": load_demo_lens(name, model), "logit": LogitLens.from_model(model)},
        samples,
        name=name,
        batch_tokens=BATCH_TOKENS[kind],
        max_samples=MAX_SAMPLES[kind],
        show_progress=True,
    )
    snr, log_p = found.snr_db, found.measure("log_probability")
    n_lenses = len(found.lenses)
    columns: Columns = {
        "model": [name] * n_lenses * len(samples),
        "lens": [lens for lens in found.lenses for _ in samples],
        "task": [sample.task for sample in samples] * n_lenses,
        "length": [sample.length for sample in samples] * n_lenses,
        "story": [sample.story_hash[:16] for sample in samples] * n_lenses,
    }
    for stage in range(len(found.stages)):
        columns[f"snr_db_{stage}"] = snr[:, :, stage].ravel().tolist()
        columns[f"log_p_{stage}"] = log_p[:, :, stage].ravel().tolist()
    return columns


def together(parts: Sequence[Columns], *, snr_decimals: int) -> dict[str, np.ndarray]:
    """The lines of both models; those of one prompt are neighbours, which packs well. snr_decimals: of the dB."""
    columns = {name: np.array([value for part in parts for value in part[name]]) for name in parts[0]}
    for name in columns:
        if name.startswith("snr_db"):
            columns[name] = columns[name].round(snr_decimals)
    order = np.lexsort((columns["model"], columns["lens"], columns["story"], columns["length"], columns["task"]))
    return {name: column[order] for name, column in columns.items()}


if __name__ == "__main__":
    tyro.cli(main)
