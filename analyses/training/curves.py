"""From the records to curves over training: each run's value after each step, and the models' difference over seeds.

formation stage   the first stage from which SNR stays at a threshold or above; the number of stages if it never does
difference        d_k = differential - plain, both of seed k: mean +- t(n - 1, 97.5 %) s / sqrt(n)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analyses.training.records import Records
from diffmamba_interp.stages import formation_stage
from diffmamba_interp.statistics import Estimate, t_test

FIRST, SECOND = "mamba2", "diff-mamba2"
THRESHOLDS_DB = (3, 7, 10)
MEANS = ("accuracy", "output SNR", "inner SNR")


def measures(records: Records, length: int) -> dict[str, Float[np.ndarray, "run step"]]:
    """By name, over the prompts of one length: accuracy, SNR (dB) at the output and over the stages between embedding
    and output, median formation stages.

    Every task counts the same: means and medians are taken within tasks, then averaged. NaN where a run was not read.
    """
    chosen = np.array(records.lengths) == length
    tasks = np.array(records.tasks)
    was_read = ~np.isnan(records.snr_db[:, :, 0, 0])
    by_prompt = {
        "accuracy": records.is_top[..., -1].astype(float),
        "output SNR": records.snr_db[..., -1],
        "inner SNR": records.snr_db[..., 1:-1].mean(axis=-1),
        "on top": formation_stage(records.is_top).astype(float),
        **{f"{db} dB": formation_stage(records.snr_db >= db).astype(float) for db in THRESHOLDS_DB},
    }
    curves = {}
    for name, values in by_prompt.items():
        middle = np.mean if name in MEANS else np.median
        own = [middle(values[:, :, chosen & (tasks == task)], axis=-1) for task in sorted(set(records.tasks))]
        curves[name] = np.where(was_read, np.mean(own, axis=0), np.nan)
    return curves


def rows_of(records: Records, model: str, *, with_shipped: bool) -> list[int]:
    """Places of a model's runs by seed. with_shipped: seed 0 too, which was read after its last step alone."""
    own = {seed: row for row, (name, seed) in enumerate(records.runs) if name == model}
    return [own[seed] for seed in sorted(own) if seed or with_shipped]


def differences(records: Records, values: Float[np.ndarray, "run step"], step: int) -> list[float]:
    """Of each seed that was read then: the differential model's value minus the plain one's."""
    at = records.steps.index(step)
    first, second = (values[rows_of(records, model, with_shipped=True), at] for model in (FIRST, SECOND))
    return [float(value) for value in second - first if np.isfinite(value)]


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over seeds with its t interval; NaN for what no run has."""
    known = np.array([value for value in values if np.isfinite(value)])
    return t_test(known).estimates[0] if len(known) > 1 else Estimate(np.nan, np.nan, np.nan)


def passes(levels: Sequence[float], rising: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """What `levels` are where `rising` first reaches each wanted value, on straight lines; NaN where it never does."""
    reached = []
    for value in wanted:
        above = np.flatnonzero(np.asarray(rising) >= value)
        if not len(above):
            reached.append(np.nan)
            continue
        i = max(int(above[0]), 1)
        share = (value - rising[i - 1]) / (rising[i] - rising[i - 1])
        reached.append(float(levels[i - 1] + min(max(share, 0.0), 1.0) * (levels[i] - levels[i - 1])))
    return reached


def trained_rows(records: Records) -> dict[str, list[int]]:
    """Places of the runs that were read along the way, by model, in the order of their seeds."""
    return {model: rows_of(records, model, with_shipped=False) for model in (FIRST, SECOND)}
