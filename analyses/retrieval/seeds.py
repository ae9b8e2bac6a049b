"""Several training seeds of the pair: what they are called, and what they say together.

For one seed both models saw the same rows in the same order, so differences are taken seed by seed:

    d_k = accuracy of the differential model - accuracy of the plain one, both of seed k
    mean +- t(n - 1, 97.5 %) * s / sqrt(n),   s = standard deviation of d_1 ... d_n
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from diffmamba_interp.needle.accuracy_grid import Cell

FIRST, SECOND = "mamba2", "diff-mamba2"
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, the normal one.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
NORMAL_975 = 1.960


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Differences of all seeds: each one, their mean and its 95 % t interval over seeds (shares, in [-1, 1])."""

    values: tuple[float, ...]
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError for fewer than two seeds, which have no spread."""
        n = len(values)
        if n < 2:
            raise ValueError(f"{n} seed has no spread: give at least two.")
        t = T_975[n - 2] if n - 2 < len(T_975) else NORMAL_975
        mean, half = statistics.mean(values), t * statistics.stdev(values) / math.sqrt(n)
        return cls(values=tuple(values), mean=mean, low=mean - half, high=mean + half)

    @property
    def winner(self) -> str:
        """The model that is ahead with every seed; empty if seeds disagree or tie."""
        if all(value > 0 for value in self.values):
            return SECOND
        return FIRST if all(value < 0 for value in self.values) else ""


def name_of(model: str, seed: int) -> str:
    """What records call a model: the bundled one (seed 0) by its name alone."""
    return model if seed == 0 else f"{model} seed {seed}"


def pair_of(seed: int) -> tuple[str, str]:
    """The two models of one seed, the plain one first."""
    return name_of(FIRST, seed), name_of(SECOND, seed)


def pooled(cells: Sequence[Cell], length: int) -> tuple[int, float, float]:
    """n and both models' accuracies over all tasks at one length, every prompt counting once."""
    own = [cell for cell in cells if cell.length == length]
    n = sum(cell.n for cell in own)
    first, second = (sum(cell.models[k].n_right for cell in own) / n for k in (0, 1))
    return n, first, second


def spread_at(grids: Sequence[Sequence[Cell]], length: int) -> Spread:
    """The spread over seeds of the difference over all tasks at one length. grids: the cells of each seed."""
    accuracies = [pooled(cells, length)[1:] for cells in grids]
    return Spread.of([second - first for first, second in accuracies])
