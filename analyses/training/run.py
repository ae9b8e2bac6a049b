"""How does retrieval form during training, and does it form otherwise with differential mixers? Seeds of both models.

    python -m diffmamba_interp.train_lm --recipe recipes/demo_mamba2.toml --seed 1     8 runs, minutes each on a GPU
    python analyses/training/run.py --runs runs/demo_mamba2-seed1 runs/demo_diff_mamba2-seed1 ...
    python analyses/training/run.py          the page alone, from the records

With --runs: records.npz.xz, from what the runs read along the way and from the bundled pair (seed 0), which is read on
the same prompts and texts; every run's results and thinned log in analyses/retrieval/training. Then, from the records
alone, results.json, the figures and README.md.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

import torch

from analyses.training import report
from analyses.training.records import Records, read_runs
from diffmamba_interp.analysis.question import run_command
from diffmamba_interp.commands.lm_run import RECIPE_FILE
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.locks import folder_lock
from diffmamba_interp.lm_training.evaluation import EvaluationSet, text_bits_per_byte
from diffmamba_interp.lm_training.preparation import open_stream
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.lm_training.stage_readings import StageReading
from diffmamba_interp.models.demo import DEMO_NAMES, load_demo
from diffmamba_interp.runs.run_log import LOG_FILE
from diffmamba_interp.runs.settings import read_toml

HERE = Path(__file__).parent
RECORDS = HERE / "records.npz.xz"
# Beside the bundled pair's.
LOGS = HERE.parent / "retrieval" / "training"
LOG_EVERY = 200


def main(runs: tuple[Path, ...] = (), device: str = "cuda" if torch.cuda.is_available() else "cpu") -> None:
    """Collect the runs if there are some, then write the page. runs: folders of `train_lm`, of both models."""
    with folder_lock(HERE):
        if runs:
            collect(runs, device)
        report.write(HERE)


def collect(runs: tuple[Path, ...], device: str) -> None:
    """records.npz.xz and logs/ from finished runs, which keep their results and recipes too."""
    readings, samples = read_runs(runs)
    last = max(one.step for own in readings.values() for one in own)
    recipe = read_toml(Recipe, runs[0] / RECIPE_FILE)
    assert recipe.evaluation is not None
    for name in DEMO_NAMES:
        model, tokenizer = load_demo(name, device=device)
        texts = {path: open_stream(path, tokenizer) for path in recipe.evaluation.text}
        held_out = EvaluationSet(texts, {}, max_tokens=recipe.evaluation.max_tokens)
        bits = text_bits_per_byte(model, held_out, length=recipe.data.length)
        readings[(name, 0)] = [StageReading.of(model, samples, step=last, bits_per_byte=bits)]
    Records.of(readings, samples).save(RECORDS)
    for (name, seed), folder in zip(list(readings)[: len(runs)], runs, strict=True):
        kept = LOGS / f"{name}-seed{seed}"
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "results.json", kept / "results.json")
        write_bytes(kept / f"{LOG_FILE}.gz", gzip.compress(thinned(folder / LOG_FILE), mtime=0))


def thinned(log: Path) -> bytes:
    """The lines of every `LOG_EVERY` steps, and those of evaluations."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] % LOG_EVERY == 0 or "loss" not in json.loads(line)]
    return "".join(kept).encode()


if __name__ == "__main__":
    sys.exit(run_command(main))
