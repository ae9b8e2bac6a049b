"""What the records say: removed and cancelled shares on needle and noise, pooled over prompts, with intervals.

    removed   = 1 - sum |K1 - lambda K2| / sum |K1|                        the minuend is taken for the reader
    cancelled = 1 - sum |K1 - lambda K2| / sum (|K1| + |lambda K2|)        no side is taken; 0 if nothing cancels
    chance    = sum min(|K1|, |lambda K2|) / sum (|K1| + |lambda K2|)      cancelled if signs were independent
    part      = sum |lambda K2| / sum (|K1| + |lambda K2|)                 what the subtrahend reads

Sizes are summed over prompts before a ratio is taken, so that a prompt with next to nothing to remove does not decide.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.results import N_RESAMPLES, read_records
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, HEAD_PICTURES, PICTURES, Allocation
from diffmamba_interp.statistics import Counts, Estimate, bootstrap_of, mean_of, weighted_sum

NOISE = ("distractors", "filler")
SOURCES = ("needle", "noise")
ALL_TASKS = "all"
MEASURES = (
    *(f"{measure}_{source}" for source in SOURCES for measure in ("removed", "cancelled", "chance", "part")),
    "removed_noise_less_needle",
    "cancelled_less_chance_needle",
    "cancelled_less_chance_noise",
    "cancelled_noise_less_needle",
)
TEXT = ("direction", "task", "story")
# A head counts if it writes at least this part of what the mean head writes from the noise.
ENOUGH = 0.25

Records = dict[str, np.ndarray]
Arrays = dict[str, np.ndarray]


def read(path: Path) -> Records:
    return read_records(path)


def summarise(records: Records) -> list[dict[str, Any]]:
    """One cell per direction, task and length, and one over all tasks: n, measures, the branches' mean cosine."""
    tasks = [ALL_TASKS, *sorted(set(records["task"].tolist()))]
    found = []
    for direction in DIRECTIONS:
        for length in sorted(set(records["length"].tolist())):
            for task in tasks:
                chosen = (records["direction"] == direction) & (records["length"] == length)
                chosen &= (records["task"] == task) | (task == ALL_TASKS)
                sizes = np.stack(
                    [
                        np.stack([records[f"{picture}_{source}"][chosen] for source in SOURCES], axis=-1)
                        for picture in (*PICTURES, "smaller")
                    ],
                    axis=1,
                )  # prompt picture source
                cell = {"direction": direction, "task": task, "length": int(length), "n": len(sizes)}
                found.append({**cell, **measures(sizes), "cosine": float(records["cosine"][chosen].mean())})
    return found


def measures(sizes: np.ndarray) -> dict[str, Any]:
    """Every measure with its interval, from [prompt, picture, source] or [prompt, picture, source, more]."""
    found = bootstrap_of(
        lambda counts: ratios(weighted_sum(counts, sizes)), len(sizes), n_resamples=N_RESAMPLES
    ).stacked
    return {name: nested(found[:, number]) for number, name in enumerate(MEASURES)}


def ratios(sums: np.ndarray) -> np.ndarray:
    """[resample, measure, ...] from sums [resample, picture, source, ...]."""
    net, minuend, scaled, smaller = np.moveaxis(sums, 1, 0)  # each [resample, source, ...]
    with np.errstate(invalid="ignore", divide="ignore"):
        either = minuend + scaled
        removed, cancelled, chance, part = 1 - net / minuend, 1 - net / either, smaller / either, scaled / either
    needle, noise = range(2)
    return np.stack(
        [
            *(value[:, source] for source in (needle, noise) for value in (removed, cancelled, chance, part)),
            removed[:, noise] - removed[:, needle],
            cancelled[:, needle] - chance[:, needle],
            cancelled[:, noise] - chance[:, noise],
            cancelled[:, noise] - cancelled[:, needle],
        ],
        axis=1,
    )


def arrays_of(found: Allocation) -> Arrays:
    """What `by_block` and `by_head` need, along the answer's logit.

    sizes: [prompt, picture, source, block]. snr_db_gained, cosine: [prompt, block].
    heads: [prompt, block, head, picture, source].
    """
    assert found.head_mass is not None
    mass = np.concatenate([found.mass[:, 0].numpy(), found.smaller[:, 0, :, None].numpy()], axis=2)
    snr = found.snr_db[:, 0].numpy().clip(-99, 99)
    return {
        "sizes": np.moveaxis(by_source(mass), 1, -1),
        "snr_db_gained": snr[..., PICTURES.index("net")] - snr[..., PICTURES.index("minuend")],
        "cosine": found.cosine[:, 0].numpy(),
        "heads": by_source(found.head_mass[:, 0].numpy()),
    }


def by_block(length: int, arrays: Arrays) -> dict[str, Any]:
    """Each block's measures over all tasks, SNR gained by the subtraction (dB), mean cosine of the branches."""
    n = len(arrays["sizes"])
    return {
        "length": length,
        "n": n,
        **measures(arrays["sizes"]),
        "snr_db_gained": nested(bootstrap_of(mean_of(arrays["snr_db_gained"]), n, n_resamples=N_RESAMPLES).stacked),
        "cosine": arrays["cosine"].mean(axis=0).tolist(),
    }


def by_head(length: int, arrays: Arrays) -> dict[str, Any]:
    """Per block and head: noise and needle removed by the namesake, and its lead over other partners on the noise."""
    heads = arrays["heads"]
    net, minuend, _, strangers = (heads[..., number, :] for number in range(len(HEAD_PICTURES)))

    def statistic(counts: Counts) -> np.ndarray:
        below = weighted_sum(counts, minuend)
        with np.errstate(invalid="ignore", divide="ignore"):
            own, other = (1 - weighted_sum(counts, above) / below for above in (net, strangers))
        return np.stack([own[..., 1], own[..., 0], own[..., 1] - other[..., 1]], axis=1)

    found = bootstrap_of(statistic, len(heads), n_resamples=N_RESAMPLES).stacked
    weight = minuend[..., 1].sum(axis=0)
    names = ("removed_noise", "removed_needle", "namesake_less_strangers")
    return {
        "length": length,
        "n": len(heads),
        "counts": (weight >= ENOUGH * weight.mean()).tolist(),
        **{name: nested(found[:, number]) for number, name in enumerate(names)},
    }


def by_source(mass: np.ndarray) -> np.ndarray:
    """The last axis' classes as needle and noise."""
    noise = [CLASSES.index(name) for name in NOISE]
    return np.stack([mass[..., CLASSES.index("needle")], mass[..., noise].sum(axis=-1)], axis=-1)


def nested(found: np.ndarray) -> Any:
    """[3, ...] as nested lists of estimates."""
    if found.ndim == 1:
        return Estimate(*map(float, found))
    return [nested(found[:, index]) for index in range(found.shape[1])]
