"""Does the answer stand out more in Diff-Mamba's blocks over training seeds, each model read by its own tuned lens?

    python -m diffmamba_interp.train_lm --recipe recipes/demo_mamba2.toml --seed 1 --out runs/mamba2-seed1   and so on
    python -m diffmamba_interp.train_lens --recipe lenses/mamba2/pile/recipe.toml --model runs/mamba2-seed1/model \
        --out runs/mamba2-seed1/lens
    python analyses/needle_snr/run.py --recipe paper --prepare-to prompts.xz
    python analyses/needle_seeds/run.py --runs runs/mamba2-seed1 ... --prompts prompts.xz
    python analyses/needle_seeds/run.py          the page alone, from the records

With --runs: records.parquet, from each run's model (in bfloat16, as the bundled ones are) through its lens, and for
seed 0, the bundled pair, from the records of analyses/needle_snr, which were read on the same prompts. Then
results.json, the figure and README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from analyses.needle_seeds import report
from diffmamba_interp.analysis.question import run_command
from diffmamba_interp.analysis.results import read_records, write_records, write_results
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.files.locks import folder_lock
from diffmamba_interp.lens.folders import load_lens
from diffmamba_interp.models.checkpoints import load_model
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import needle_trajectory
from diffmamba_interp.needle.records import NeedleSample, load_samples
from diffmamba_interp.runs.provenance import package_versions

HERE = Path(__file__).parent
SHIPPED = HERE.parent / "needle_snr" / "paper" / report.RECORDS
"""Of seed 0."""

Run = tuple[str, int]


def main(
    runs: tuple[Path, ...] = (),
    prompts: Path = Path("prompts.xz"),
    out: Path = HERE,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Read the runs if there are some, then write the page.

    runs: folders of `train_lm`, of both models of each seed, with a `lens` in each. prompts: what needle_snr prepared.
    """
    with folder_lock(out):
        if runs:
            samples, _ = load_samples(prompts, load_demo_tokenizer())
            read = {named(folder): read_run(folder, samples, device) for folder in runs}
            write_records(out / report.RECORDS, columns_of(read, samples, read_records(SHIPPED)))
            lenses = {(model, 0): HERE.parents[1] / "lenses" / model / "pile" for model in report.MODELS}
            lenses |= {named(folder): folder / "lens" for folder in runs}
            losses = {f"{model}, seed {seed}": lens_losses(lenses[model, seed]) for model, seed in sorted(lenses)}
            about = {"records": file_sha256(out / report.RECORDS), "versions": package_versions()}
            write_results(out / report.RESULTS, about, {"lens_kl_nats": losses})
        report.write(out)


def named(folder: Path) -> Run:
    """Model and seed of a run. Raises ValueError for one that was stopped."""
    results = read_json_object(folder / "results.json")
    if not results["is_complete"]:
        raise ValueError(f"{folder} is not complete: it was stopped after step {results['step']}.")
    return report.MODELS["differential" in results["recipe"]["model"]["config"]], results["seed"]


def read_run(folder: Path, samples: Sequence[NeedleSample], device: str) -> np.ndarray:
    """SNR in dB, [prompt, stage]. The weights are rounded as the bundled ones are."""
    model = load_model(folder / "model", device=device, dtype=torch.bfloat16).float()
    return needle_trajectory(model, load_lens(folder / "lens", model), samples).snr_db[0]


def columns_of(
    read: Mapping[Run, np.ndarray], samples: Sequence[NeedleSample], shipped: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """A line for each run and prompt, SNR in whole dB. shipped: records of needle_snr, on the same prompts."""
    tables = []
    for model in report.MODELS:
        chosen = (shipped["model"] == model) & (shipped["lens"] == "tuned")
        snr = np.stack([shipped[f"snr_db_{stage}"][chosen] for stage in range(report.n_stages(shipped))], axis=1)
        tables.append(table((model, 0), shipped["task"][chosen], shipped["length"][chosen], snr))
        tasks, lengths = np.array([sample.task for sample in samples]), np.array([sample.length for sample in samples])
        tables += [table(run, tasks, lengths, read[run]) for run in sorted(read) if run[0] == model]
    return {name: np.concatenate([columns[name] for columns in tables]) for name in tables[0]}


def table(run: Run, tasks: np.ndarray, lengths: np.ndarray, snr: np.ndarray) -> dict[str, np.ndarray]:
    model, seed = run
    whole = np.round(snr).astype(int)
    return {
        "model": np.full(len(tasks), model),
        "seed": np.full(len(tasks), seed),
        "task": tasks,
        "length": lengths.astype(int),
        **{f"snr_db_{stage}": whole[:, stage] for stage in range(whole.shape[1])},
    }


def lens_losses(folder: Path) -> dict[str, float]:
    """KL to the model's output on held-out text, by lens: nats, mean over the inner stages."""
    inner = read_json_object(folder / "metrics.json")["measurement"]["stages"][1:-1]
    keys = {"tuned": "kl_nats", "logit": "logit_lens_kl_nats"}
    return {lens: float(np.mean([stage[key]["value"] for stage in inner])) for lens, key in keys.items()}


if __name__ == "__main__":
    sys.exit(run_command(main))
