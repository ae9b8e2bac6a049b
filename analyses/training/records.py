"""What the runs of several training seeds read along the way (`lm_training.stage_readings`), in one small file.

    snr_db   10 log10 of p(answer) / mean_k p(distractor_k) at every stage, in whole dB
    is_top   whether the answer is the most probable of the labels there

lzma( npz( about: JSON, the arrays ) ), of snr_db what is new at a stage since the step before, step by step: neighbours
in the file are then alike; of is_top where it is not what 6 dB or more would say. Whole log-probabilities would take
twenty times as much.
"""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.json_files import parse_json, read_json_object
from diffmamba_interp.lm_training.stage_readings import PROMPTS_FILE, STAGES_FOLDER, StageReading, load_readings
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import NeedleSample
from diffmamba_interp.needle.records import load_samples
from diffmamba_interp.statistics import DB_PER_NAT

MISSING = -128
TOP_DB = 6
_RUN_STAGE_SAMPLE_STEP = (0, 3, 2, 1)  # its own inverse
_RUN_STAGE_STEP_SAMPLE, _BACK = (0, 3, 1, 2), (0, 2, 3, 1)
_PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0}]
_ARRAYS = ("snr_db", "is_top", "branch_cosine", "lambda_", "bits_per_byte")


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """Runs of two models with several seeds, read after the same steps on the same prompts.

    runs: model and seed of each. tasks, lengths: of each prompt. texts: names of the held-out texts.
    snr_db: NaN where a run was not read at a step. branch_cosine: mean over prompts. lambda_, branch_cosine: NaN in
    plain blocks. results: of each run, what `train_lm` wrote at its end, by the run's name.
    """

    runs: tuple[tuple[str, int], ...]
    steps: tuple[int, ...]
    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    texts: tuple[str, ...]
    snr_db: Float[np.ndarray, "run step sample stage"]
    is_top: Bool[np.ndarray, "run step sample stage"]
    branch_cosine: Float[np.ndarray, "run step block"]
    lambda_: Float[np.ndarray, "run step block"]
    bits_per_byte: Float[np.ndarray, "run step text"]

    @classmethod
    def of(cls, readings: dict[tuple[str, int], Sequence[StageReading]], samples: Sequence[NeedleSample]) -> Records:
        """Readings by model and seed. Raises ValueError if one is of other prompts."""
        steps = tuple(sorted({one.step for own in readings.values() for one in own}))
        texts = tuple(sorted({name for own in readings.values() for one in own for name in one.bits_per_byte}))
        answers = np.array([sample.labels.index(sample.answer) for sample in samples])
        first = next(iter(readings.values()))[0]
        n_stages, n_blocks = first.log_probs.shape[1], len(first.lambda_)
        size = (len(readings), len(steps))
        snr = np.full((*size, len(samples), n_stages), np.nan, np.float32)
        arrays = {name: np.full((*size, n_blocks), np.nan, np.float32) for name in ("branch_cosine", "lambda_")}
        is_top, bits = np.zeros(snr.shape, bool), np.full((*size, len(texts)), np.nan, np.float32)
        for row, (run, own) in enumerate(readings.items()):
            for one in own:
                if len(one.log_probs) != len(samples):
                    raise ValueError(f"{run} was read on {len(one.log_probs)} prompts, not on these {len(samples)}.")
                at = row, steps.index(one.step)
                snr[at], is_top[at] = _about_answers(one.log_probs.astype(np.float64), answers)
                arrays["branch_cosine"][at] = one.branch_cosine.mean(axis=0)
                arrays["lambda_"][at] = one.lambda_
                bits[at] = [one.bits_per_byte.get(name, np.nan) for name in texts]
        return cls(
            runs=tuple(readings),
            steps=steps,
            tasks=tuple(sample.task for sample in samples),
            lengths=tuple(sample.length for sample in samples),
            texts=texts,
            snr_db=np.round(snr),
            is_top=is_top,
            bits_per_byte=bits,
            **arrays,
        )

    def save(self, path: Path) -> None:
        """Write the file; the same records give the same bytes."""
        about = {name: getattr(self, name) for name in ("runs", "steps", "tasks", "lengths", "texts")}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        known = np.where(np.isnan(self.snr_db), MISSING, np.clip(self.snr_db, MISSING + 1, 127)).astype(np.int8)
        by_stage = np.diff(known, axis=-1, prepend=np.int8(0))
        arrays["snr_db"] = np.diff(by_stage.transpose(_RUN_STAGE_SAMPLE_STEP), axis=-1, prepend=np.int8(0))
        exceptions = self.is_top != (known >= TOP_DB)
        arrays["is_top"] = np.packbits(exceptions.transpose(_RUN_STAGE_STEP_SAMPLE), axis=-1)
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_bytes(path, lzma.compress(buffer.getvalue(), filters=_PACKING))

    @classmethod
    def load(cls, path: Path) -> Records:
        """The inverse of `save`."""
        with np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False) as held:
            about = parse_json(held["about"].tobytes(), source=path)
            arrays = {name: held[name] for name in _ARRAYS}
        by_stage = np.cumsum(arrays["snr_db"], axis=-1, dtype=np.int8).transpose(_RUN_STAGE_SAMPLE_STEP)
        whole = np.cumsum(by_stage, axis=-1, dtype=np.int8)
        arrays["snr_db"] = np.where(whole == MISSING, np.nan, whole.astype(np.float32))
        exceptions = np.unpackbits(arrays["is_top"], axis=-1, count=whole.shape[2]).astype(bool).transpose(_BACK)
        arrays["is_top"] = exceptions != (whole >= TOP_DB)
        about = {name: tuple(value) for name, value in about.items()}
        runs = tuple((model, seed) for model, seed in about.pop("runs"))
        return cls(runs=runs, **about, **arrays)


def read_runs(folders: Sequence[Path]) -> tuple[dict[tuple[str, int], list[StageReading]], list[NeedleSample]]:
    """Readings of finished runs of `train_lm`, by model and seed, and the prompts that they share.

    Raises ValueError for a run that is not complete, has no other model with its seed, or was read on other prompts.
    """
    readings, prompts = {}, b""
    for folder in folders:
        made = read_json_object(folder / "results.json")
        if not made["is_complete"]:
            raise ValueError(f"{folder} is not complete: it was stopped after step {made['step']}.")
        content = (folder / STAGES_FOLDER / PROMPTS_FILE).read_bytes()
        if prompts and content != prompts:
            raise ValueError(f"{folder} was read on other prompts than {folders[0]}: train both by one recipe.")
        prompts = content
        is_differential = "differential" in made["recipe"]["model"]["config"]
        readings[("diff-mamba2" if is_differential else "mamba2", made["seed"])] = load_readings(folder)
    seeds = {model: sorted(seed for name, seed in readings if name == model) for model in ("mamba2", "diff-mamba2")}
    if seeds["mamba2"] != seeds["diff-mamba2"] or len(readings) != len(folders):
        raise ValueError(f"the runs have the seeds {seeds}: give both models of each seed, once.")
    samples, _ = load_samples(folders[0] / STAGES_FOLDER / PROMPTS_FILE, load_demo_tokenizer())
    return readings, samples


def _about_answers(
    log_probs: Float[np.ndarray, "sample stage label"], answers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """SNR in dB, and whether the answer is on top, [sample, stage] each."""
    rows = np.arange(len(answers))
    answer = log_probs[rows, :, answers]
    others = log_probs.copy()
    others[rows, :, answers] = np.nan
    greatest = np.nanmax(others, axis=-1)
    noise = greatest + np.log(np.nanmean(np.exp(others - greatest[..., None]), axis=-1))
    return DB_PER_NAT * (answer - noise), answer > greatest
