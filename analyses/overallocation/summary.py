"""What the records say: shares by task, length and picture with intervals, and paired differences of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.results import N_RESAMPLES, read_records
from diffmamba_interp.implicit_attention.allocation import CLASSES
from diffmamba_interp.statistics import DB_PER_NAT, Estimate, bootstrap_of, mean_of, paired_test

PICTURES = ("plain", "difference", "minuend", "lambda_subtrahend")
"""plain: the plain model. The others are of the differential model: what it really writes, and its two branches."""

WRITTEN = ("plain", "difference")
"""What the two models really write."""

NOISE = ("distractors", "filler")
ALL_TASKS = "all"
COMPARED = (("difference", "plain"), ("difference", "minuend"))
MEASURES = (*CLASSES, "noise", "snr_db", "contrast_needle", "contrast_noise")
TESTED = ("noise", "contrast_noise")
TEXT = ("model", "picture", "task", "story")

Records = dict[str, np.ndarray]


def read(path: Path) -> Records:
    return read_records(path)


def summarise(records: Records) -> list[dict[str, Any]]:
    """One cell per task and length, and one over all tasks: `shares`, `differences`, and their sign-flip `p_values`."""
    tasks = [ALL_TASKS, *sorted(set(records["task"].tolist()))]
    lengths = sorted(set(records["length"].tolist()))
    return [cell(records, task, int(length)) for length in lengths for task in tasks]


def cell(records: Records, task: str, length: int) -> dict[str, Any]:
    chosen = (records["length"] == length) & ((records["task"] == task) | (task == ALL_TASKS))
    values = np.stack([of_picture(records, chosen & (records["picture"] == name)) for name in PICTURES], axis=1)
    found = bootstrap_of(mean_of(values), len(values), n_resamples=N_RESAMPLES).stacked
    shares = {
        picture: {measure: Estimate(*map(float, found[:, i, j])) for j, measure in enumerate(MEASURES)}
        for i, picture in enumerate(PICTURES)
    }
    differences, p_values = {}, {}
    for first, second in COMPARED:
        a, b = (values[:, PICTURES.index(name)] for name in (first, second))
        # Where nothing is noise, a signal-to-noise ratio is infinite and its differences are unknown.
        with np.errstate(invalid="ignore"):
            difference = a - b
        estimates = bootstrap_of(mean_of(difference), len(values), n_resamples=N_RESAMPLES).stacked
        name = f"{first} - {second}"
        differences[name] = {m: Estimate(*map(float, estimates[:, j])) for j, m in enumerate(MEASURES)}
        noise = [MEASURES.index(measure) for measure in TESTED]
        found = paired_test(b[:, noise], a[:, noise]).p_value
        p_values[name] = dict(zip(TESTED, map(float, found), strict=True))
    return {
        "task": task,
        "length": length,
        "n": len(values),
        "shares": shares,
        "differences": differences,
        "p_values": p_values,
    }


def of_picture(records: Records, chosen: np.ndarray) -> np.ndarray:
    """[prompt, measure], prompts in an order that every picture shares."""
    own = {name: column[chosen] for name, column in records.items()}
    order = np.lexsort((own["story"], own["task"]))
    own = {name: column[order] for name, column in own.items()}
    own["other"] = 1 - sum(own[name] for name in CLASSES if name != "other")
    own["noise"] = own["distractors"] + own["filler"]
    own["snr_db"] = needle_snr_db(own)
    return np.stack([own[measure] for measure in MEASURES], axis=1)


def needle_snr_db(own: Records) -> np.ndarray:
    """Mean |contribution| of a needle token over that of any other token, all blocks together."""
    signal = own["needle"] / own["n_needle"]
    noise = (1 - own["needle"]) / (own["n_tokens"] - own["n_needle"])
    with np.errstate(divide="ignore"):
        return DB_PER_NAT * np.log(signal / noise)


def by_block(blocks: Records) -> list[dict[str, Any]]:
    """Noise share (%) and needle's signal-to-noise ratio (dB) of each block, by picture and length, over all tasks."""
    n_blocks = sum(name.startswith("noise_") for name in blocks)
    found = []
    for length in sorted(set(blocks["length"].tolist())):
        for picture in PICTURES:
            chosen = (blocks["length"] == length) & (blocks["picture"] == picture)
            line: dict[str, Any] = {"picture": picture, "length": int(length), "n": int(chosen.sum())}
            for measure in ("noise", "snr_db"):
                values = np.stack([blocks[f"{measure}_{block}"][chosen] for block in range(n_blocks)], axis=1)
                line[measure] = bootstrap_of(mean_of(values), len(values), n_resamples=N_RESAMPLES).estimates
            found.append(line)
    return found
