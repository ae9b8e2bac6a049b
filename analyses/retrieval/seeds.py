"""Several training seeds of the pair: what they are called, and what they say together.

For one seed both models saw the same rows in the same order, so differences are taken seed by seed:

    d_k = accuracy of the differential model - accuracy of the plain one, both of seed k
    mean +- t(n - 1, 97.5 %) * s / sqrt(n),   s = standard deviation of d_1 ... d_n

What `train_lm` measured at the end of each run is on a page of its own, from training/<model>-seed<n>/results.json:

    python analyses/retrieval/seeds.py          SEEDS.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmamba_interp.analysis.page import table
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.models.demo import DEMO_NAMES
from diffmamba_interp.needle.accuracy_grid import Cell
from diffmamba_interp.statistics import t_test

FIRST, SECOND = "mamba2", "diff-mamba2"
HERE = Path(__file__).parent
SEEDS = (0, 1, 2, 3, 4)
SHOWN = ("real_qa1_0", "real_qa1_1024", "real_qa2_0", "real_qa3_0", "real_qa4_0", "real_qa5_0")


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


def page() -> str:
    """The text of SEEDS.md."""
    rows = []
    for name in DEMO_NAMES[::-1]:
        for seed in SEEDS:
            made = read_json_object(HERE / "training" / name_of(name, seed).replace(" seed ", "-seed") / "results.json")
            shares = [f"{made['metrics'][f'accuracy/{cell}']:.2f}" for cell in SHOWN]
            rows.append([name, made["seed"], f"{made['tokens'] / 1e6:.0f}M", *shares])
    cells = [cell.split("_") for cell in SHOWN]
    heads = [f"{task} {length_name(int(length))}" for _, task, length in cells]
    lines = [
        "# Training seeds",
        "",
        "What `train_lm` measured at the end of each run: accuracy on 24 held-out bAbI stories a cell, so a cell",
        "is good to about 0.2. Seed 0 is the bundled pair; the others were trained by the same recipe, and read along",
        "the way: see [`analyses/training`](../training/README.md).",
        "",
        *table(["model", "seed", "tokens", *heads], rows),
        "",
        *bits_note(),
    ]
    return "\n".join(lines) + "\n"


def bits_note() -> list[str]:
    """What the bits per byte in the runs' results are of, which differs between seed 0 and the others."""
    pile: list[float] = []
    for name in DEMO_NAMES:
        for seed in SEEDS[1:]:
            made = read_json_object(HERE / "training" / name_of(name, seed).replace(" seed ", "-seed") / "results.json")
            (value,) = (value for key, value in made["metrics"].items() if "pile_eval" in key)
            pile.append(value)
    return [
        "The runs' results also hold bits per byte of the held-out stream `pile_eval`. Those of seed 0 (1.046 in both",
        "models) are of its first 300,000 tokens alone, which are far easier than the rest; those of the others,",
        f"{min(pile):.2f} to {max(pile):.2f}, of a million tokens in documents spread over it: the two are not to be",
        "compared. Held-out Pile as a whole, of the bundled pair: see the models' cards.",
    ]


if __name__ == "__main__":
    write_text(HERE / "SEEDS.md", page())
