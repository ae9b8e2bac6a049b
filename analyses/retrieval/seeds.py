"""Several training seeds of the pair: what they are called, and what they say together.

For one seed both models saw the same rows in the same order, so differences are taken seed by seed:

    d_k = accuracy of the differential model - accuracy of the plain one, both of seed k
    mean +- t(n - 1, 97.5 %) * s / sqrt(n),   s = standard deviation of d_1 ... d_n
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffmamba_interp.needle.accuracy_grid import Cell
from diffmamba_interp.statistics import t_test

FIRST, SECOND = "mamba2", "diff-mamba2"


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
        (estimate,) = t_test(np.array(values)[:, None]).estimates
        return cls(values=tuple(values), mean=estimate.value, low=estimate.low, high=estimate.high)

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
