"""Calibrated bits: what a stage knows of the answer once its certainty has been set right.

    q_T(label)   = softmax over the prompt's K labels of log p(label) / T
    T            = argmin of the mean -ln q_T(answer) over the prompts of the other folds
    bits         = log2 K + log2 q_T(answer)         log2 K where the answer is certain, 0 where nothing is known

One temperature for each lens, stage, task and length, so a model that is merely too certain gains nothing and loses
nothing; a ratio in dB has no bound, bits have. Temperature scaling: Guo et al. 2017 (arXiv 1706.04599).

Folds are of the prompts of one task and length, by their ids, so that two models share them. Departure: T is fitted as
if one more prompt had been read, an average one whose answer is each label with equal probability; without it, T runs
to 0 where the other folds are answered without a mistake, and the first mistake after that costs infinitely many bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from diffmamba_interp.argument_checks import Count, checked
from diffmamba_interp.needle.records import ReadSample

N_FOLDS = 5
MAX_SHARPENING = 1e6
"""Logits are never multiplied by more than this over their mean range."""

N_STEPS = 60
TOLERANCE = 1e-10
"""Of the slope that is to be 0, relative to the mean range of the logits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """bits: about each prompt's answer, at most log2 of the number of its labels, negative where the wrong label was
    believed. temperature: with which they were read, fitted on other prompts; infinite where no sharper reading helps.
    """

    bits: Float[np.ndarray, "lens sample stage"]
    temperature: Float[np.ndarray, "lens sample stage"]


@checked
def calibrate(
    log_probs: Float[np.ndarray, "lens sample stage label"], samples: Sequence[ReadSample], *, n_folds: Count = N_FOLDS
) -> Calibration:
    """Bits about each answer at temperatures fitted on other prompts of its task and length.

    Args:
        log_probs: of whole labels, in nats, NaN beyond a prompt's own; a `NeedleTrajectory` has both arguments.
        samples: the prompts, in the order of `log_probs`.
        n_folds: parts of the prompts of a task and length, each read at a temperature fitted on the others; as many
            as there are prompts where those are fewer. A prompt that is alone is read at temperature 1.

    Raises:
        ValueError: one fold, or another number of samples than `log_probs` has.
    """
    if n_folds < 2:
        raise ValueError(f"n_folds is {n_folds}: a temperature is fitted on other folds, so give at least 2.")
    if len(samples) != log_probs.shape[1]:
        raise ValueError(f"there are {len(samples)} samples, but log_probs has {log_probs.shape[1]} of them.")
    answers = np.array([sample.answer_index for sample in samples], dtype=np.int64)
    beta = np.ones(log_probs.shape[:3])
    cells: dict[tuple[str, int], list[int]] = {}
    for i, sample in enumerate(samples):
        cells.setdefault((sample.task, sample.length), []).append(i)
    for indices in map(np.array, cells.values()):
        folds = cross_validation_folds([samples[i].id for i in indices], n_folds)
        for fold in sorted(set(folds.tolist())) if folds.max() > 0 else ():
            others, held_out = indices[folds != fold], indices[folds == fold]
            beta[:, held_out] = fit_sharpening(log_probs[:, others], answers[others])[:, None]
    log_share = _log_share(log_probs, answers, beta)
    n_labels = (~np.isnan(log_probs)).sum(axis=-1)
    with np.errstate(divide="ignore"):
        return Calibration(bits=np.log2(n_labels) + log_share / math.log(2), temperature=1 / beta)


def cross_validation_folds(groups: Sequence[object], n_folds: int) -> Int[np.ndarray, " sample"]:
    """Which fold each sample is in, from 0: groups of equal keys stay together, folds hold equally many groups.

    By the sha256 of the keys' text, so the same keys give the same folds in any order and on any machine. There are as
    many folds as groups where those are fewer. Raises ValueError for no samples or fewer than one fold.
    """
    if not len(groups) or n_folds < 1:
        raise ValueError(f"{len(groups)} samples cannot be put into {n_folds} folds: give at least one of each.")
    distinct = sorted(set(map(str, groups)), key=lambda key: hashlib.sha256(key.encode("utf-8")).digest())
    places = {key: place % n_folds for place, key in enumerate(distinct)}
    return np.array([places[str(key)] for key in groups], dtype=np.int64)


def fit_sharpening(
    log_probs: Float[np.ndarray, "lens sample stage label"], answers: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, "lens stage"]:
    """1 / T of every lens and stage, 0 or more, by Newton's method between bounds.

    With b = 1 / T, n prompts and z their logits, the loss is convex in b:

        slope(b) = mean over prompts of (1 + 1/n) E_b[z] - z[answer] - (1/n) mean_k z[k]
        bend(b)  = mean over prompts of (1 + 1/n) Var_b[z]
    """
    z, is_label = _centred(log_probs)
    weight = 1 + 1 / z.shape[1]
    of_answer = np.take_along_axis(z, answers[None, :, None, None], axis=-1)[..., 0]
    at_zero = of_answer.mean(axis=1)
    span = (np.where(is_label, z, -np.inf).max(axis=-1) - np.where(is_label, z, np.inf).min(axis=-1)).mean(axis=1)
    # What no logits tell apart, and what is better ignored, is read at infinite temperature.
    helps = at_zero > TOLERANCE * span
    low = np.zeros(span.shape)
    high = np.where(helps, MAX_SHARPENING / np.where(span > 0, span, 1.0), 0.0)
    beta = np.where(helps, 1 / np.where(span > 0, span, 1.0), 0.0)
    for _ in range(N_STEPS):
        shares = _shares(beta[:, None, :, None] * z, is_label)
        mean = (shares * z).sum(axis=-1)
        variance = (shares * z**2).sum(axis=-1) - mean**2
        slope, bend = (weight * mean - of_answer).mean(axis=1), weight * variance.mean(axis=1)
        low, high = np.where(slope < 0, beta, low), np.where(slope < 0, high, beta)
        if (np.abs(slope) <= TOLERANCE * span)[helps].all():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = beta - slope / bend
        # Between bounds that are orders of magnitude apart, the middle is that of their logarithms.
        middle = np.where(low > 0, np.sqrt(low * high), high / 8)
        beta = np.where(helps, np.where((newton > low) & (newton < high), newton, middle), 0.0)
    return beta


def _centred(
    log_probs: Float[np.ndarray, "lens sample stage label"],
) -> tuple[Float[np.ndarray, "lens sample stage label"], Bool[np.ndarray, "lens sample stage label"]]:
    """Logits less their mean over a prompt's labels, 0 where there is no label; and where there is one."""
    is_label = ~np.isnan(log_probs)
    # A label of probability 0 is as improbable as float64 can say.
    z = np.where(is_label, np.maximum(log_probs.astype(np.float64), math.log(np.finfo(np.float64).tiny)), 0.0)
    mean = z.sum(axis=-1, keepdims=True) / is_label.sum(axis=-1, keepdims=True)
    return np.where(is_label, z - mean, 0.0), is_label


def _shares(logits: np.ndarray, is_label: np.ndarray) -> np.ndarray:
    """Softmax over the labels."""
    logits = np.where(is_label, logits, -np.inf)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _log_share(
    log_probs: Float[np.ndarray, "lens sample stage label"],
    answers: Int[np.ndarray, " sample"],
    beta: Float[np.ndarray, "lens sample stage"],
) -> Float[np.ndarray, "lens sample stage"]:
    """ln of the answer's share at 1 / T = beta."""
    z, is_label = _centred(log_probs)
    logits = np.where(is_label, beta[..., None] * z, -np.inf)
    of_answer = np.take_along_axis(logits, answers[None, :, None, None], axis=-1)[..., 0]
    return of_answer - np.logaddexp.reduce(logits, axis=-1)
