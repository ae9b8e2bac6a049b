"""What a needle run finds: curves by stage, the differences of two models, and which of them the answer stands out in.

A verdict is one answer per task, length and lens, not one per stage: which model has the higher signal-to-noise ratio?

    inner stages   d = mean over stages but the embedding and the output of snr_db(second) - snr_db(first), per prompt
    output         d = the same at the model's own output
    verdict        mean of d over prompts, its 95 % bootstrap interval, p-value of a sign-flip test

The paper speaks of intermediate representations (section 4.4 of arXiv 2507.06204), hence the first; a single number per
cell needs no correction for the number of stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from diffmamba_interp.files.table_text import aligned_table
from diffmamba_interp.needle.curves import Curve, Group, GroupRecord, PairedCurve, compare, matched, summarise
from diffmamba_interp.needle.formation import (
    Criterion,
    Formation,
    FormationDifference,
    compare_formation,
    formation_table,
    summarise_formation,
)
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.needle.trajectory_records import MEASURED, Measure, NeedleTrajectory
from diffmamba_interp.resampling import N_RESAMPLES
from diffmamba_interp.statistics import paired_test

Place = Literal["inner stages", "output"]

MIN_PROMPTS = 10
"""With fewer prompts an interval is too narrow to decide anything."""


RUN_RESAMPLES = 2_000
"""Bootstrap draws of every interval of a run."""

SHOWN_CRITERION: Criterion = "7 dB"
"""Of when an answer forms, in the terminal; the report has all."""

REPORTED: tuple[Measure, ...] = tuple(name for name, measured in MEASURED.items() if measured.reported)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Curves and formation stages by length and by task and length; differences and verdicts are empty without a
    baseline."""

    curves: list[Curve]
    differences: list[PairedCurve]
    verdicts: list[Verdict]
    formations: list[Formation]
    formation_differences: list[FormationDifference]


def find(trajectories: Sequence[NeedleTrajectory], seed: int = 0) -> Findings:
    """Curves of all trajectories, and, of two, the second against the first."""
    findings = Findings(curves=[], differences=[], verdicts=[], formations=[], formation_differences=[])
    draws: dict[str, Any] = {"n_resamples": RUN_RESAMPLES, "seed": seed}
    for by in (("length",), ("task", "length")):
        findings.curves.extend(summarise(trajectories, measures=REPORTED, by=by, **draws))
        findings.formations.extend(summarise_formation(trajectories, by=by, **draws))
        if len(trajectories) == 2:
            findings.differences.extend(compare(*trajectories, measures=REPORTED, by=by, **draws))
            findings.formation_differences.extend(compare_formation(*trajectories, by=by, **draws))
    if len(trajectories) == 2:
        findings.verdicts.extend(verdicts(*trajectories, **draws))
    return findings


@dataclass(frozen=True, kw_only=True)
class Verdict(GroupRecord):
    """Second model (`model`) against the first (`baseline`) on the same prompts.

    group: (("length", "512"),) for all tasks, or (("task", "qa1"), ("length", "512")). n: prompts.
    baseline_db, model_db: mean signal-to-noise ratios, dB. difference_db, low, high: model less baseline and its 95 %
    interval, dB. p_value: two-sided, not corrected for the number of verdicts.
    """

    baseline: str
    model: str
    lens: str
    place: Place
    group: Group
    n: int
    baseline_db: float
    model_db: float
    difference_db: float
    low: float
    high: float
    p_value: float

    @property
    def winner(self) -> str | None:
        """The model with the higher ratio; None where the interval holds 0 or there are fewer than 10 prompts."""
        if self.n < MIN_PROMPTS or self.low <= 0 <= self.high:
            return None
        return self.model if self.difference_db > 0 else self.baseline

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, `winner` among them; `from_dict` gives the same verdict back."""
        return super().to_dict() | {"winner": self.winner}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_dict`."""
        return super().from_dict({name: value for name, value in values.items() if name != "winner"})


def verdicts(
    first: NeedleTrajectory, second: NeedleTrajectory, *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> list[Verdict]:
    """For every lens that both have: all tasks by length, then task by task. Raises ValueError as `compare` does."""
    second = matched(first, second)
    snr = {lens: [one.snr_db[one.lens_index(lens)] for one in (first, second)] for lens in first.lenses}
    return [
        verdict
        for group, indices in groups(first.samples).items()
        for lens, (a, b) in snr.items()
        for verdict in judge(
            a[indices],
            b[indices],
            names=(first.model, second.model),
            lens=lens,
            group=group,
            n_resamples=n_resamples,
            seed=seed,
        )
    ]


def judge(
    first_db: Float[np.ndarray, "sample stage"],
    second_db: Float[np.ndarray, "sample stage"],
    *,
    names: tuple[str, str],
    lens: str,
    group: Group,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[Verdict]:
    """The verdicts of both places, from signal-to-noise ratios in dB; the first stage is the embedding, the last the
    output. Raises ValueError if the shapes differ or there is no stage between those.
    """
    if first_db.shape[-1] < 3:
        raise ValueError(f"there are {first_db.shape[-1]} stages, none between embedding and output: nothing to judge.")
    places: dict[Place, slice] = {"inner stages": slice(1, -1), "output": slice(-1, None)}
    judged = []
    for place, stages in places.items():
        a, b = (values[:, stages].mean(axis=1) for values in (first_db, second_db))
        tested = paired_test(a, b, n_resamples=n_resamples, seed=seed)
        judged.append(
            Verdict(
                baseline=names[0],
                model=names[1],
                lens=lens,
                place=place,
                group=group,
                n=tested.n,
                baseline_db=float(a.mean()),
                model_db=float(b.mean()),
                difference_db=float(tested.value),
                low=float(tested.low),
                high=float(tested.high),
                p_value=float(tested.p_value),
            )
        )
    return judged


def groups(samples: Sequence[ReadSample]) -> dict[Group, list[int]]:
    """Indices of the prompts of all tasks by length, then of each task and length, sorted."""
    indices: dict[Group, list[int]] = {}
    for length in sorted({sample.length for sample in samples}):
        indices[(("length", str(length)),)] = [i for i, sample in enumerate(samples) if sample.length == length]
    for task, length in sorted({(sample.task, sample.length) for sample in samples}):
        indices[("task", task), ("length", str(length))] = [
            i for i, sample in enumerate(samples) if (sample.task, sample.length) == (task, length)
        ]
    return indices


def findings_table(findings: Findings) -> list[str]:
    """What the terminal shows, by the first lens: verdicts and when the answer forms; of a single model, what was
    measured of it."""
    lens = findings.curves[0].lens
    if findings.verdicts:
        wanted = (lens, SHOWN_CRITERION)
        formations = [one for one in findings.formations if (one.lens, one.criterion) == wanted]
        differences = [one for one in findings.formation_differences if (one.lens, one.criterion) == wanted]
        return [
            *verdict_table([verdict for verdict in findings.verdicts if verdict.lens == lens]),
            "",
            f"The first stage from which the SNR stays above {SHOWN_CRITERION} (the embedding is 0):",
            "",
            *formation_table(formations, differences),
        ]
    stages = findings.curves[0].stages
    middle = stages[len(stages) // 2]
    rows: list[tuple[str, ...]] = [("task", "length", "n", "of the answer", f"{middle} [95 % CI]", "at the output")]
    for curve in findings.curves:
        if (curve.lens, curve.statistic) != (lens, "mean"):
            continue
        form = "+.2f" if curve.measure == "snr_db" else ".3g"
        shown = (
            f"{curve.value[i]:{form}} [{curve.low[i]:{form}}, {curve.high[i]:{form}}]"
            for i in (stages.index(middle), -1)
        )
        group = dict(curve.group)
        name = MEASURED[curve.measure].title.removesuffix(" of the answer")
        rows.append((group.get("task", "all"), group["length"], str(curve.n), name, *shown))
    return aligned_table(rows)


def verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    """Lines of a Markdown table that also reads well in a terminal; a row per verdict."""
    rows = [("task", "length", "n", "lens", "where", *_names(verdicts), "difference [95 % CI], dB", "p", "higher SNR")]
    for one in verdicts:
        group = dict(one.group)
        interval = f"{one.difference_db:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"
        rows.append(
            (
                *(group.get("task", "all"), group["length"], str(one.n), one.lens, one.place),
                *(f"{one.baseline_db:+.2f}", f"{one.model_db:+.2f}", interval),
                *(f"{one.p_value:.2g}", one.winner or "undecided"),
            )
        )
    return aligned_table(rows)


def _names(verdicts: Sequence[Verdict]) -> tuple[str, str]:
    if not verdicts:
        raise ValueError("there are no verdicts to tabulate: judge at least one pair first.")
    return f"{verdicts[0].baseline}, dB", f"{verdicts[0].model}, dB"
