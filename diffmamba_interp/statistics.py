"""Error bars, one home for all: bootstrap intervals, paired differences with p-values, signal-to-noise ratios in dB.

    theta* = theta(x_1*, ..., x_n*)      x*: n samples drawn with replacement     interval: quantiles of theta*
    p      = share of sign patterns s with |mean(s d)| >= |mean(d)|              d: paired differences
    dB     = 10 log10(signal / noise)

Percentile bootstrap (Efron and Tibshirani 1993, chapter 13) and the paired sign-flip permutation test (Fisher 1935).
scipy.stats is imported where it is needed, since that takes most of a second.
The same values and seed give the same numbers. Values are [sample, ...]; every column has the interval of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from diffmamba_interp.resampling import (
    DRAWS_AT_ONCE,
    N_RESAMPLES,
    Counts,
    clustered_counts,
    exchanges,
    members_of,
    plain_counts,
)

Statistic = Literal["mean", "median"]
WeightedStatistic = Callable[[Counts], np.ndarray]
"""A statistic of how often each sample counts: [resample, sample] to [resample, ...] (`mean_of`, `ratio_of`)."""
Test = Literal["sign_flip", "wilcoxon"]

MIN_SAMPLES = 10
"""With fewer samples a bootstrap interval is too narrow to decide anything."""
DB_PER_NAT = 10 / math.log(10)
"""10 log10(x) = DB_PER_NAT * ln(x)."""
# Sums that are equal but for rounding count as equal, which makes a p-value larger, never smaller.
_RELATIVE_ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, in the unit of what was estimated; NaN where there was nothing."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def sign(self, n_samples: int) -> int:
        """1 or -1 where the interval of `n_samples` samples decides, 0 where it does not or they are fewer than 10."""
        return 0 if n_samples < MIN_SAMPLES or not self.excludes_zero else 1 if self.value > 0 else -1

    def text(self, decimals: int = 3, *, signed: bool = False) -> str:
        """`0.123 [0.100, 0.150]`, with a dash for what could not be estimated, the interval or all of it."""
        if not np.isfinite(self.value):
            return "–"
        style = f"{'+' if signed else ''}.{decimals}f"
        bounds = f"{self.low:{style}}, {self.high:{style}}" if np.isfinite([self.low, self.high]).all() else "–"
        return f"{self.value:{style}} [{bounds}]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Interval:
    """Estimates with their intervals, one per column of the values, in the values' unit.

    value: of all samples. low, high: bounds of the interval. n: samples.
    """

    value: Float[np.ndarray, " ..."]
    low: Float[np.ndarray, " ..."]
    high: Float[np.ndarray, " ..."]
    n: int

    @property
    def stacked(self) -> Float[np.ndarray, "3 ..."]:
        """value, low and high along a first axis."""
        return np.stack([self.value, self.low, self.high])

    @property
    def estimates(self) -> list[Estimate]:
        """One per column, in the order of the flattened axes."""
        return [Estimate(*map(float, column)) for column in self.stacked.reshape(3, -1).T]


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedTest(Interval):
    """An `Interval` of the paired difference, second minus first.

    p_value: two-sided, of no difference, one per column; not corrected for the number of columns (see `holm`).
    """

    p_value: Float[np.ndarray, " ..."]


def bootstrap(
    values: Float[np.ndarray, "sample ..."],
    *,
    statistic: Statistic = "mean",
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean or median over samples with its percentile bootstrap interval.

    Args:
        values: one row per sample, without NaN.
        statistic: of the samples.
        clusters: one key per sample, for example its seed: keys are drawn first, then samples within each, so that
            the interval covers both. With fewer than about five clusters it is too narrow.
        level: probability that the interval is to cover.
        n_resamples: draws.
        seed: of the draws.

    Raises:
        ValueError: no samples, NaN, one cluster only, or keys that do not match the samples.
    """
    rows = _rows(values)
    if statistic not in get_args(Statistic):
        raise ValueError(f"statistic is {statistic!r}: it must be one of {', '.join(get_args(Statistic))}.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: it must lie between 0 and 1, such as 0.95.")
    n = len(rows)
    if clusters is None:
        counts = plain_counts(n, n_resamples, seed)
    else:
        counts = clustered_counts(members_of(clusters, n), n, n_resamples, seed)
    chunks = [counts[first : first + DRAWS_AT_ONCE] for first in range(0, n_resamples, DRAWS_AT_ONCE)]
    by_median = _medians if clusters is not None else _medians_by_rank
    resampled = np.concatenate([(_means if statistic == "mean" else by_median)(rows, chunk) for chunk in chunks])
    value = rows.mean(axis=0) if statistic == "mean" else np.median(rows, axis=0)
    low, high = np.quantile(resampled, ((1 - level) / 2, (1 + level) / 2), axis=0)
    shape = values.shape[1:]
    return Interval(value=value.reshape(shape), low=low.reshape(shape), high=high.reshape(shape), n=n)


def bootstrap_of(
    statistic: WeightedStatistic,
    n_samples: int,
    *,
    counts: Counts | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Any statistic with its 95 % percentile bootstrap interval: ratios of sums, or of samples that lack some values.

    Args:
        statistic: of how often each sample counts; computed once with every sample counted once, and again for counts
            drawn with replacement. Sums weighted by the counts keep it fast (`weighted_sum`). All of its entries see
            the same resamples. Where it has NaN, so has the interval.
        n_samples: that are drawn from.
        counts: draws made elsewhere; None draws `n_resamples` with `seed`.

    Raises:
        ValueError: no samples.
    """
    if n_samples < 1:
        raise ValueError("there are no samples to draw from: measure at least one.")
    drawn = plain_counts(n_samples, n_resamples, seed).astype(np.float64) if counts is None else counts
    value, resampled = np.asarray(statistic(np.ones((1, n_samples))))[0], np.asarray(statistic(drawn))
    # A ratio over nothing is infinite in some resamples.
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    return Interval(value=np.asarray(value), low=np.asarray(low), high=np.asarray(high), n=n_samples)


def weighted_sum(counts: Counts, values: Float[np.ndarray, "sample ..."]) -> Float[np.ndarray, "resample ..."]:
    """Sum over samples, each as often as it counts."""
    return np.tensordot(counts, values, axes=1)


def mean_of(values: Float[np.ndarray, "sample ..."]) -> WeightedStatistic:
    """The samples' mean as a statistic; a sample that is NaN counts for nothing."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)

    def statistic(counts: Counts) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return weighted_sum(counts, filled) / weighted_sum(counts, known.astype(np.float64))

    return statistic


def ratio_of(above: Float[np.ndarray, "sample ..."], below: Float[np.ndarray, "sample ..."]) -> WeightedStatistic:
    """Sum of `above` over sum of `below` as a statistic: a sample with next to nothing below does not decide."""

    def statistic(counts: Counts) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return weighted_sum(counts, above) / weighted_sum(counts, below)

    return statistic


def paired_test(
    first: Float[np.ndarray, "sample ..."],
    second: Float[np.ndarray, "sample ..."],
    *,
    statistic: Statistic = "mean",
    test: Test = "sign_flip",
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Second minus first on the same samples: mean or median of the differences, interval and p-value.

    test: "sign_flip" flips the signs of the differences at random (all patterns, where they are at most
        `n_resamples`) and looks at their mean, whatever the statistic; with clusters it flips whole clusters.
        "wilcoxon" is the signed-rank test on the differences.
    Other arguments as in `bootstrap`. Raises ValueError if the shapes differ, and as `bootstrap` does.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"the values have shapes {first.shape} and {second.shape}: a paired comparison needs the same samples and "
            "columns, in the same order."
        )
    if test not in get_args(Test):
        raise ValueError(f"test is {test!r}: it must be one of {', '.join(get_args(Test))}.")
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    draws: dict[str, Any] = {"clusters": clusters, "level": level, "n_resamples": n_resamples, "seed": seed}
    interval = bootstrap(differences, statistic=statistic, **draws)
    rows = _rows(differences)
    if test == "wilcoxon":
        if clusters is not None:
            raise ValueError("the Wilcoxon test takes every sample as independent: with clusters take 'sign_flip'.")
        from scipy.stats import wilcoxon

        # Models that never differ have p = 1.
        p_value = np.array([float(wilcoxon(column).pvalue) if column.any() else 1.0 for column in rows.T])
    else:
        p_value = _sign_flip(rows, clusters, n_resamples, seed)
    return PairedTest(**vars(interval), p_value=p_value.reshape(interval.value.shape))


def t_test(differences: Float[np.ndarray, "run ..."], *, level: float = 0.95) -> PairedTest:
    """Mean of a few independent differences, such as one per training seed, with Student's t interval and test.

    For so few values a bootstrap is too narrow. `n` of the result counts the runs. Raises ValueError for fewer than two
    runs, or NaN.
    """
    from scipy.stats import t

    rows = _rows(differences)
    n = len(rows)
    if n < 2:
        raise ValueError("there is one run: the spread between runs needs at least two.")
    mean, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(n)
    half = t.ppf((1 + level) / 2, n - 1) * error
    # Runs that agree exactly have no spread: certain if they differ from 0, and p = 1 if not.
    ratio = np.divide(np.abs(mean), error, out=np.where(mean == 0, 0.0, np.inf), where=error > 0)
    p_value = 2 * t.sf(ratio, n - 1)
    value, low, high, p_value = (
        part.reshape(differences.shape[1:]) for part in (mean, mean - half, mean + half, p_value)
    )
    return PairedTest(value=value, low=low, high=high, n=n, p_value=p_value)


@dataclass(frozen=True)
class PairedDifference(Estimate):
    """Accuracy of the second model minus that of the first on the same stories, as a share in [-1, 1].

    n: stories. n_first_only, n_second_only: stories that only one of them got right.
    """

    n: int
    n_first_only: int
    n_second_only: int


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> PairedDifference:
    """The difference between two models from which stories each of them got right, with both answers drawn together.

    second - first is -1, 0 or 1, so a resample is one draw of a multinomial: no story need be touched. Raises
    ValueError unless both hold the same number of stories, at least one.
    """
    n = len(first)
    if n != len(second) or not n:
        raise ValueError(
            f"the models answered {n} and {len(second)} stories: a paired comparison needs the same ones, at least one."
        )
    differences = np.asarray(second, dtype=np.int64) - np.asarray(first, dtype=np.int64)
    only = np.array([(differences == sign).sum() for sign in (-1, 1, 0)])
    drawn = np.random.default_rng(seed).multinomial(n, only / n, size=n_resamples)
    low, high = map(float, np.quantile((drawn[:, 1] - drawn[:, 0]) / n, (0.025, 0.975)))
    value = float(only[1] - only[0]) / n
    return PairedDifference(value, low, high, n=n, n_first_only=int(only[0]), n_second_only=int(only[1]))


def snr_db(log_signal: Any, log_noise: Any, n_noise: Any) -> Any:
    """10 log10 of the signal over the mean noise, from natural logs: of the signal, of the noise's sum over `n_noise`.

    In logs, since probabilities of 1e-40 have a ratio, too. Arrays or tensors of one shape.
    """
    return DB_PER_NAT * (log_signal - (log_noise - np.log(n_noise)))


def holm(p_values: Float[np.ndarray, " ..."]) -> Float[np.ndarray, " ..."]:
    """p-values corrected for their number (Holm 1979): below a, the chance of any false finding is below a."""
    flat = np.asarray(p_values, dtype=np.float64).ravel()
    order = np.argsort(flat)
    corrected = np.empty_like(flat)
    corrected[order] = np.minimum(np.maximum.accumulate(flat[order] * np.arange(len(flat), 0, -1)), 1.0)
    return corrected.reshape(np.shape(p_values))


def smallest_p(n: int, *, n_resamples: int = N_RESAMPLES) -> float:
    """The smallest p-value that the sign-flip test of `paired_test` can give n samples, all of which differ one way.

    Of 2^n patterns of signs two are that extreme; where there are too many to try all, one of those tried.
    """
    return 2 / 2**n if n < 63 and 2**n <= n_resamples else 1 / (n_resamples + 1)


def least_samples(n_tests: int, *, level: float = 0.05) -> int:
    """How many samples the sign-flip test needs before one of `n_tests` can lie below the level, corrected by `holm`.

    Raises ValueError where no number of samples is enough.
    """
    if n_tests * smallest_p(2**10) >= level:
        raise ValueError(f"{n_tests} tests at the level {level} need more resamples than {N_RESAMPLES}: do fewer.")
    return next(n for n in range(1, 2**10) if n_tests * smallest_p(n) < level)


def _rows(values: np.ndarray) -> np.ndarray:
    """[sample, column] in float64. Raises ValueError if there are none, or for NaN."""
    if values.ndim < 1 or not len(values):
        raise ValueError(f"the values have shape {values.shape}: give at least one sample on the first axis.")
    rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    if not np.isfinite(rows).all():
        raise ValueError(
            "the values hold NaN or infinity: an interval of them has no meaning; leave those samples out."
        )
    return rows


def _means(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of every draw and column, [draw, column]."""
    return counts.astype(np.float64) @ rows / counts.sum(axis=1)[:, None]


def _medians(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Median of every draw and column, [draw, column]."""
    orders = np.argsort(rows, axis=0, kind="stable").T
    columns = [rows[order, i][_middles(counts[:, order])].mean(axis=0) for i, order in enumerate(orders)]
    return np.stack(columns, axis=1)


def _medians_by_rank(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The same in distribution, column by column, at the cost of one: samples by rank are as likely as any other."""
    return np.sort(rows, axis=0)[_middles(counts)].mean(axis=0)


def _middles(counts: np.ndarray) -> np.ndarray:
    """Places of each draw's two middle samples (the same one twice if their number is odd), [2, draw].

    counts: of the samples in order of value; a draw's k-th smallest is where the running count first exceeds k.
    """
    reached = counts.cumsum(axis=1)
    totals = reached[:, -1:]
    return np.stack([(reached <= k).sum(axis=1) for k in ((totals - 1) // 2, totals // 2)])


def _sign_flip(rows: np.ndarray, clusters: Sequence[object] | None, n_resamples: int, seed: int) -> np.ndarray:
    """Two-sided p-value of every column's mean under exchange of the two models, sample by sample or by cluster."""
    sums = rows
    if clusters is not None:
        sums = np.stack([rows[cluster].sum(axis=0) for cluster in members_of(clusters, len(rows))])
    observed = np.abs(sums.sum(axis=0))
    bound = observed - _RELATIVE_ROUNDING * np.abs(sums).sum(axis=0)
    n = len(sums)
    if n < 63 and 2**n <= n_resamples:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return (np.abs((1 - 2 * patterns) @ sums) >= bound).mean(axis=0)
    flips, as_extreme = exchanges(n, n_resamples, seed), np.ones(rows.shape[1])
    for first in range(0, n_resamples, DRAWS_AT_ONCE):
        signs = 1.0 - 2.0 * flips[first : first + DRAWS_AT_ONCE]
        as_extreme += (np.abs(signs @ sums) >= bound).sum(axis=0)
    # The pattern that was observed is one of them, so no p-value is 0.
    return as_extreme / (n_resamples + 1)
