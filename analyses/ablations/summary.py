"""What the records of the ablations come to: every cell with its runs and differences, orderings, and what is missing.

bits per byte of a run = sum over held-out documents of bits / sum of bytes
difference    a cell's less the baseline's, both of seed k: mean over seeds +- t(n - 1, 97.5 %) s / sqrt(n)
the same over documents, or prompts: of the seeds' mean, with a bootstrap interval
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyses.ablations.cells import BASELINE, REFERENCE, Unit, runs_of
from diffmamba_interp.analysis.page import RECORDS, Results
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.statistics import Estimate, bootstrap_of, mean_of, ratio_of, t_test

TABLES = ("records", "prompts", "blocks", "log", "rivals", "runs")
ACCURACY = "accuracy"
RIVALS = ("negative_mass", "redundancy", "branch_cosine")
"""What differencing may do beside cancelling noise (`head_rivals`), and the cosine of the branches' outputs."""
LEARNT = 0.5
"""Of the answers in training rows: the step at which so many are right is reported."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An ordering: the cells of `better` do better than those of `worse`, place by place, in the mean over places."""

    says: str
    better: tuple[str, ...]
    worse: tuple[str, ...]


CLAIMS = (
    Claim(says="Diff-Mamba does better than Mamba", better=(REFERENCE,), worse=(BASELINE,)),
    Claim(says="Diff-Mamba re-parameterised does better than Mamba", better=("diff-mamba-exp",), worse=(BASELINE,)),
    Claim(says="Diff-S6 does better than Mamba", better=("diff-s6",), worse=(BASELINE,)),
    Claim(says="Diff-Mamba does better than Diff-S6", better=(REFERENCE,), worse=("diff-s6",)),
    Claim(
        says="normalisation helps Diff-Mamba",
        better=(REFERENCE, "diff-mamba-exp"),
        worse=("diff-mamba-bare", "diff-mamba-exp-bare"),
    ),
    Claim(
        says="normalisation helps Diff-S6",
        better=("diff-s6", "diff-s6-exp"),
        worse=("diff-s6-bare", "diff-s6-exp-bare"),
    ),
    Claim(
        says="lambda as in Eq. 16 does better than re-parameterised",
        better=(REFERENCE, "diff-mamba-bare", "diff-s6", "diff-s6-bare"),
        worse=("diff-mamba-exp", "diff-mamba-exp-bare", "diff-s6-exp", "diff-s6-exp-bare"),
    ),
    Claim(says="every other block does better than all blocks", better=("alternate",), worse=(REFERENCE,)),
    Claim(says="the last quarter does better than all blocks", better=("quarter",), worse=(REFERENCE,)),
    Claim(says="lambda of each token does better than one number", better=("token-gate",), worse=(REFERENCE,)),
    Claim(
        says="lambda of each token and head does better than one number in Diff-S6 without a norm",
        better=("token-head-gate",),
        worse=("diff-s6-bare",),
    ),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """The records of a recipe, by run."""

    tables: Mapping[str, Records]
    planned: Sequence[Unit]

    @classmethod
    def read(cls, folder: Path, recipe: Mapping[str, Any]) -> Runs:
        tables = {name: read_records(folder / RECORDS.replace("records", name)) for name in TABLES}
        return cls(tables=tables, planned=runs_of(recipe["cells"], recipe["n_layers"], recipe["seeds"]))

    def of(self, name: str, unit: Unit) -> Records:
        """The lines of a table that are of a run."""
        lines = self.tables[name]
        cell, n_layers, seed = unit
        chosen = (lines["cell"] == cell) & (lines["n_layers"] == n_layers) & (lines["seed"] == seed)
        return {key: column[chosen] for key, column in lines.items()}

    @property
    def made(self) -> list[Unit]:
        return [unit for unit in self.planned if len(self.of("runs", unit)["steps"])]

    def seeds(self, cell: str, n_layers: int) -> list[int]:
        return [seed for name, blocks, seed in self.made if (name, blocks) == (cell, n_layers)]

    def measures(self) -> list[str]:
        sources = list(dict.fromkeys(self.tables["records"]["source"].tolist()))
        return [*sources, *([ACCURACY] if len(self.tables["prompts"]["task"]) else [])]

    def samples(self, unit: Unit, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Of a run's documents bits and bytes; of its prompts whether they are answered, and ones."""
        if measure == ACCURACY:
            right = self.of("prompts", unit)["is_right"]
            return right, np.ones_like(right)
        lines = self.of("records", unit)
        chosen = lines["source"] == measure
        return lines["bits"][chosen], lines["n_bytes"][chosen]

    def value(self, unit: Unit, measure: str) -> float:
        """Bits per byte, or the share of prompts that are answered; NaN for a run whose loss was no number."""
        if self.of("runs", unit)["has_diverged"][0]:
            return float("nan")
        above, below = self.samples(unit, measure)
        return float(above.sum() / below.sum())


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Every cell with its runs and differences, the orderings, and the runs that were not made."""
    runs = Runs.read(folder, results["provenance"]["recipe"])
    kinds = list(dict.fromkeys((cell, n_layers) for cell, n_layers, _ in runs.made))
    return {
        "measures": runs.measures(),
        "cells": [_cell(runs, cell, n_layers) for cell, n_layers in kinds],
        "claims": [claim for claim in (_claim(runs, claim) for claim in CLAIMS) if claim],
        "depth": _gain_by_depth(runs),
        "rivals": _rivals(runs),
        "missing": [list(unit) for unit in runs.planned if unit not in runs.made],
    }


def _cell(runs: Runs, cell: str, n_layers: int) -> dict[str, Any]:
    units: list[Unit] = [(cell, n_layers, seed) for seed in runs.seeds(cell, n_layers)]
    about = [runs.of("runs", unit) for unit in units]
    blocks = [runs.of("blocks", unit) for unit in units]
    return {
        "cell": cell,
        "n_layers": n_layers,
        "seeds": [seed for _, _, seed in units],
        "n_parameters": int(about[0]["n_parameters"][0]),
        "d_model": int(about[0]["d_model"][0]),
        "seconds": [float(one["seconds"][0]) for one in about],
        "diverged": [seed for (_, _, seed), one in zip(units, about, strict=True) if one["has_diverged"][0]],
        "learnt_at": [_passes(runs.of("log", unit)) for unit in units],
        "lambda": np.mean([one["lambda"] for one in blocks], axis=0).tolist(),
        "lambda_sd": np.mean([one["lambda_sd"] for one in blocks], axis=0).tolist(),
        "measures": {measure: _measure(runs, units, measure) for measure in runs.measures()},
    }


def _measure(runs: Runs, units: Sequence[Unit], measure: str) -> dict[str, Any]:
    """values: of each seed. difference: from the baseline of the same seeds, over seeds. over_samples: the same over
    documents or prompts. n_samples: of these."""
    baselines: list[Unit] = [(BASELINE, n_layers, seed) for _, n_layers, seed in units]
    paired = [(one, base) for one, base in zip(units, baselines, strict=True) if base in runs.made]
    values = [runs.value(unit, measure) for unit in units]
    result = {"values": values, "n_samples": len(runs.samples(units[0], measure)[0])}
    if units[0][0] == BASELINE or not paired:
        return result
    differences = [runs.value(one, measure) - runs.value(base, measure) for one, base in paired]
    return result | {"difference": over_seeds(differences), "over_samples": _over_samples(runs, paired, measure)}


def _over_samples(runs: Runs, pairs: Sequence[tuple[Unit, Unit]], measure: str) -> Estimate:
    """The seeds' mean difference with its interval over documents or prompts, which all runs share."""
    pairs = [pair for pair in pairs if not any(np.isnan(runs.value(unit, measure)) for unit in pair)]
    if not pairs:
        return Estimate(np.nan, np.nan, np.nan)
    above = np.mean([runs.samples(one, measure)[0] - runs.samples(base, measure)[0] for one, base in pairs], axis=0)
    below = runs.samples(pairs[0][0], measure)[1]
    statistic = mean_of(above[:, None]) if measure == ACCURACY else ratio_of(above[:, None], below[:, None])
    return bootstrap_of(statistic, len(above), n_resamples=N_RESAMPLES).estimates[0]


def over_seeds(differences: Sequence[float]) -> Estimate:
    """Mean and t interval; no interval of one seed, and nothing where a run's loss was no number."""
    values = np.asarray(differences, dtype=np.float64)
    if np.isnan(values).any():
        return Estimate(np.nan, np.nan, np.nan)
    if len(values) < 2:
        return Estimate(float(values.mean()), np.nan, np.nan)
    return t_test(values[:, None]).estimates[0]


def _passes(log: Records) -> float:
    """The step at which the share of right answers in training rows first passes `LEARNT`, on the straight line
    between two lines of the log; NaN if never."""
    steps, right = log["step"], log["answer_accuracy"]
    above = np.flatnonzero(right >= LEARNT)
    if not len(above):
        return float("nan")
    first = above[0]
    if first == 0:
        return float(steps[0])
    return float(np.interp(LEARNT, right[first - 1 : first + 1], steps[first - 1 : first + 1]))


def _claim(runs: Runs, claim: Claim) -> dict[str, Any] | None:
    """The difference worse - better in bits, better - worse in accuracy, so that above 0 the ordering holds; over the
    seeds that all of its cells have, of the fewest blocks. None where some cell has no seed."""
    n_layers = min(n for _, n, _ in runs.planned)
    cells = (*claim.better, *claim.worse)
    seeds = [seed for seed in runs.seeds(cells[0], n_layers) if all(seed in runs.seeds(c, n_layers) for c in cells)]
    if not seeds:
        return None

    def gain(seed: int, measure: str) -> float:
        pairs = zip(claim.better, claim.worse, strict=True)
        values = [
            (runs.value((b, n_layers, seed), measure), runs.value((w, n_layers, seed), measure)) for b, w in pairs
        ]
        sign = 1 if measure == ACCURACY else -1
        return float(np.mean([sign * (better - worse) for better, worse in values]))

    gains = {measure: over_seeds([gain(seed, measure) for seed in seeds]) for measure in runs.measures()}
    return {"says": claim.says, "seeds": seeds, "gains": gains}


def _gain_by_depth(runs: Runs) -> dict[str, Any]:
    """Of recipes with several depths: Diff-Mamba's gain over Mamba at each, and how much it grows, over seeds."""
    depths = sorted({n for _, n, _ in runs.planned})
    seeds = [s for s in runs.seeds(BASELINE, depths[0]) if all((REFERENCE, n, s) in runs.made for n in depths)]
    seeds = [s for s in seeds if all((BASELINE, n, s) in runs.made for n in depths)]
    if len(depths) < 2 or not seeds:
        return {}
    measure = runs.measures()[0]
    gains = {
        n: [runs.value((BASELINE, n, s), measure) - runs.value((REFERENCE, n, s), measure) for s in seeds]
        for n in depths
    }
    growth = np.subtract(gains[depths[-1]], gains[depths[0]])
    by_depth = {str(n): over_seeds(values) for n, values in gains.items()}
    return {"seeds": seeds, "gains": by_depth, "growth": over_seeds(growth.tolist())}


def _rivals(runs: Runs) -> list[dict[str, Any]]:
    """Of each cell, part and step that was read: means over blocks and seeds of `RIVALS`."""
    lines = runs.tables["rivals"]
    kinds = dict.fromkeys(zip(lines["cell"].tolist(), lines["part"].tolist(), strict=True))
    made = []
    for cell, part in kinds:
        of_kind = (lines["cell"] == cell) & (lines["part"] == part)
        steps = sorted(set(lines["step"][of_kind].tolist()))
        chosen = [of_kind & (lines["step"] == step) for step in steps]
        means = {name: [float(lines[name][one].mean()) for one in chosen] for name in RIVALS}
        made.append({"cell": cell, "part": part, "steps": steps, **means})
    return made


def verdict(values: Sequence[float | None]) -> str:
    """Of a gain over seeds."""
    gain = estimate_from(values)
    if np.isnan(gain.low):
        return "no verdict"
    return "not told apart" if not gain.excludes_zero else "holds" if gain.value > 0 else "reversed"
