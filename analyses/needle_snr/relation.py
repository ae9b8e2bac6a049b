"""Where a block reads the needle rather than the rest, does the answer stand out more after it?

    attention SNR   |contribution to the answer's logit| per needle token over that per other token, dB, by block
                    (analyses/overallocation)
    lens SNR        p(answer) over the mean p of the distractors, dB, by stage, read by the tuned lens
    relation        Spearman's rank correlation over prompts, ranked within each task, so that a task in which both are
                    high does not count

A correlation over prompts is no effect: a hard prompt may lower both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.results import N_RESAMPLES, Records, read_records, read_results
from diffmamba_interp.resampling import Counts
from diffmamba_interp.statistics import bootstrap_of, weighted_sum

OVERALLOCATION = Path(__file__).parents[1] / "overallocation"
PICTURES = {"mamba2": "plain", "diff-mamba2": "difference"}
LENS = "tuned"


def attention(made: dict[str, Any]) -> Records | None:
    """The other analysis' blocks of the same recipe, seed and weights; None where there are none."""
    folder = OVERALLOCATION / made["recipe"]["name"]
    if not (folder / "results.json").exists() or not (folder / "blocks.parquet").exists():
        return None
    theirs = read_results(folder / "results.json")["provenance"]
    if any(theirs[key] != made[key] for key in ("models", "seed", "tokenizer")):
        return None
    return read_records(folder / "blocks.parquet")


def lines_of(records: Records, blocks: Records | None) -> list[dict[str, Any]]:
    """One line per model and length: n, and the correlations with their intervals.

    output: mean attention SNR over the blocks with the lens SNR of the model's output. after: attention SNR of each
    block with the lens SNR after it. gain: with what that block adds to the lens SNR.
    """
    if blocks is None:
        return []
    lines = []
    for model in PICTURES:
        for length in sorted(set(records["length"].tolist()) & set(blocks["length"].tolist())):
            read, lens, task = joined(records, blocks, model, length)
            pairs = np.concatenate([read.mean(axis=1, keepdims=True), read, read], axis=1)
            others = np.concatenate([lens[:, -1:], lens[:, 1:], np.diff(lens, axis=1)], axis=1)
            low_to_high = rank_correlation(pairs, others, task).T.tolist()
            n_blocks = read.shape[1]
            lines.append(
                {
                    "model": model,
                    "length": int(length),
                    "n": len(read),
                    "output": low_to_high[0],
                    "after": low_to_high[1 : 1 + n_blocks],
                    "gain": low_to_high[1 + n_blocks :],
                }
            )
    return lines


def joined(records: Records, blocks: Records, model: str, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention SNR [prompt, block], lens SNR [prompt, stage] and task of the prompts that both have."""
    read = by_prompt(blocks, (blocks["picture"] == PICTURES[model]) & (blocks["length"] == length))
    lens = by_prompt(records, (records["model"] == model) & (records["lens"] == LENS) & (records["length"] == length))
    # A prompt in which a block reads nothing but the needle, or nothing of it, has no ratio there.
    both = [key for key in sorted(set(read) & set(lens)) if np.isfinite(read[key]).all()]
    return (
        np.array([read[key] for key in both]),
        np.array([lens[key] for key in both]),
        np.array([task for task, _ in both]),
    )


def by_prompt(records: Records, chosen: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    n = sum(name.startswith("snr_db_") for name in records)
    values = np.stack([records[f"snr_db_{i}"][chosen] for i in range(n)], axis=1)
    keys = zip(records["task"][chosen].tolist(), records["story"][chosen].tolist(), strict=True)
    return dict(zip(keys, values, strict=True))


def rank_correlation(a: np.ndarray, b: np.ndarray, task: np.ndarray) -> np.ndarray:
    """[3, column]: Spearman's correlation of each column of a and b within tasks, and its 95 % interval."""
    x, y = (ranks_within(values, task) for values in (a, b))

    def statistic(counts: Counts) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            xy, xx, yy = (weighted_sum(counts, product) for product in (x * y, x * x, y * y))
            return xy / np.sqrt(xx * yy)

    return bootstrap_of(statistic, len(x), n_resamples=N_RESAMPLES).stacked


def ranks_within(values: np.ndarray, task: np.ndarray) -> np.ndarray:
    """Ranks among the prompts of the same task, from -1 to 1; prompts that are equal share a rank."""
    from scipy.stats import rankdata  # a machine that only measures need not have it

    ranks = np.empty(values.shape)
    for name in set(task.tolist()):
        of_task = task == name
        ranks[of_task] = (2 * rankdata(values[of_task], axis=0) - of_task.sum() - 1) / of_task.sum()
    return ranks
