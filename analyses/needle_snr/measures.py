"""Calibrated bits and linear probes of the prompts of recipe `paper`, which its records of SNR do not hold.

    python analyses/needle_snr/run.py --recipe paper --prepare-to prompts.xz                    the same prompts
    python analyses/needle_snr/measures.py --prompts prompts.xz --device cuda --out DIR         reads them (minutes)
    python analyses/needle_snr/measures.py --read DIR                                           results and page

measures.parquet has a line for each model, reading and prompt: whether the answer is on top of the labels at each
stage, and bits about it, in tenths; by the tuned lens (calibrated), by probes, and by probes of shuffled answers (no
bits, -999). `told`: prompts that begin with the same two facts, which intervals keep together.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.needle_snr import report, stages
from diffmamba_interp.analysis.question import run_command
from diffmamba_interp.analysis.results import read_results, write_records, write_results
from diffmamba_interp.files.atomic import write_bytes, write_text
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.files.json_files import json_text, read_json_object
from diffmamba_interp.lens import demo_lens_folder, load_demo_lens
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, demo_folder, load_demo, load_demo_tokenizer
from diffmamba_interp.needle import NeedleSample, needle_trajectory, probe_answers
from diffmamba_interp.needle.probes import PROBE, SHUFFLED, stories_of
from diffmamba_interp.needle.records import load_samples
from diffmamba_interp.runs.provenance import device_name, package_versions, weights_sha256

FOLDER = Path(__file__).parent / "paper"
ABOUT = "measures.json"
SEED = 7
BATCH_TOKENS = {"cpu": 8_192, "cuda": 131_072}


def main(
    prompts: Path = Path("prompts.xz"),
    out: Path = Path("runs/needle_measures"),
    read: Path | None = None,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    n: int | None = None,
) -> None:
    """prompts: what run.py prepared. out: for the records. read: such a folder; measure nothing, write the page.

    n: prompts per task and length, to try it; None for all.
    """
    if read is not None:
        take_over(read)
        return
    samples, about = load_samples(prompts, load_demo_tokenizer())
    cells: dict[tuple[str, int], list[NeedleSample]] = {}
    for sample in samples:
        cells.setdefault((sample.task, sample.length), []).append(sample)
    chosen = [sample for cell in cells.values() for sample in cell[:n]]
    tables = [table for name in DEMO_NAMES for table in tables_of(name, chosen, device)]
    columns = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
    order = np.lexsort([columns[key] for key in ("story", "length", "task", "lens", "model")])
    write_records(out / stages.MEASURES_FILE, {key: column[order] for key, column in columns.items()})
    made = {
        "models": {name: weights_sha256(demo_folder(name)) for name in DEMO_NAMES},
        "lenses": {name: lens_sha256(demo_lens_folder(name)) for name in DEMO_NAMES},
        "records": file_sha256(out / stages.MEASURES_FILE),
        "data": about["data"],
        "seed": SEED,
        "device": device_name(device),
        "versions": package_versions(),
    }
    write_text(out / ABOUT, json_text(made, indent=1) + "\n")


def tables_of(name: DemoName, samples: Sequence[NeedleSample], device: str) -> list[dict[str, np.ndarray]]:
    """Of one model: a table of columns for the tuned lens, the probes and the probes of shuffled answers."""
    model, _ = load_demo(name, device=device)
    batch_tokens = BATCH_TOKENS[torch.device(device).type]
    lens = {report.LENSES[0]: load_demo_lens(name, model)}
    trajectory = needle_trajectory(model, lens, samples, name=name, batch_tokens=batch_tokens, max_samples=256)
    probes = probe_answers(model, samples, name=name, seed=SEED, batch_tokens=batch_tokens, max_samples=256)
    on_top = trajectory.measure("is_right")[0] == 1
    return [
        table(name, report.LENSES[0], samples, on_top, trajectory.measure("calibrated_bits")[0]),
        table(name, PROBE, samples, probes.is_right, probes.bits),
        table(name, SHUFFLED, samples, probes.shuffled_right, None),
    ]


def table(
    name: str, lens: str, samples: Sequence[NeedleSample], on_top: np.ndarray, bits: np.ndarray | None
) -> dict[str, np.ndarray]:
    """A line for each prompt."""
    tenths = np.full(on_top.shape, stages.NO_BITS) if bits is None else np.round(10 * bits).astype(int)
    columns: dict[str, Any] = {
        "model": np.full(len(samples), name),
        "lens": np.full(len(samples), lens),
        "task": np.array([sample.task for sample in samples]),
        "length": np.array([sample.length for sample in samples]),
        "story": np.array([sample.story_key for sample in samples]),
        "told": stories_of(samples),
    }
    columns |= {f"on_top_{stage}": on_top[:, stage].astype(int) for stage in range(on_top.shape[1])}
    return columns | {f"tenth_bits_{stage}": tenths[:, stage] for stage in range(on_top.shape[1])}


def take_over(measured: Path) -> None:
    """Records and what they were made with into the folder of the recipe, then results and page."""
    made = read_json_object(measured / ABOUT)
    write_bytes(FOLDER / stages.MEASURES_FILE, (measured / stages.MEASURES_FILE).read_bytes())
    results = read_results(FOLDER / "results.json")
    provenance = results.pop("provenance")
    write_results(FOLDER / "results.json", provenance, results | {stages.MEASURES_MADE: made})
    report.PAGE.complete(FOLDER)
    report.PAGE.write()


if __name__ == "__main__":
    sys.exit(run_command(main))
