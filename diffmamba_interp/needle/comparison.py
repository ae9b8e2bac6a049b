"""Two models on the same stories: the difference of their accuracies, with a paired bootstrap interval.

    d_i = right_second[i] - right_first[i],  difference = mean of d_i

Stories are drawn with replacement, each with both models' answers, so what makes a story hard for both cancels.
d_i is -1, 0 or 1, so a resample is one draw of a multinomial: no story need be touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

N_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Accuracy of the second model minus that of the first, as a share in [-1, 1].

    low, high: 95 % percentile bootstrap interval over stories. n: stories. n_first_only, n_second_only: stories
    that only one of them got right.
    """

    value: float
    low: float
    high: float
    n: int
    n_first_only: int
    n_second_only: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval says which of them is better."""
        return self.low > 0 or self.high < 0


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> PairedDifference:
    """The difference between two models from which stories each of them got right.

    Raises ValueError unless both hold the same number of stories, at least one.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"the models answered {len(first)} and {len(second)} stories: a paired comparison needs the same ones, "
            "at least one."
        )
    n = len(first)
    n_first = sum(a and not b for a, b in zip(first, second, strict=True))
    n_second = sum(b and not a for a, b in zip(first, second, strict=True))
    shares = np.array([n_first, n_second, n - n_first - n_second]) / n
    draws = np.random.default_rng(seed).multinomial(n, shares, size=n_resamples)
    low, high = np.quantile((draws[:, 1] - draws[:, 0]) / n, (0.025, 0.975))
    return PairedDifference(
        value=(n_second - n_first) / n,
        low=float(low),
        high=float(high),
        n=n,
        n_first_only=n_first,
        n_second_only=n_second,
    )
