"""When the answer forms, how clean it is there, and how much of a model's lead is only that it forms earlier.

    clear[i]     at stage i: SNR of 3, 7 or 10 dB or more, or the answer on top of the labels
    stage f      the first from which all are clear, counted from the embedding (0); the number of stages, one past the
                 last, where the output is not clear: the answer never forms
    SNR at f     of prompts in which it forms; in a difference, of those in which it does in both models

A ratio averaged over the inner stages is high where the answer forms early. With s the inner stages' mean of a prompt,
P(f) the share of prompts that form at f and g(f) their mean s, the lead of model a over model b is split into

    mean s_a - mean s_b = sum_f [P_a(f) - P_b(f)] g(f) + sum_f P(f) [g_a(f) - g_b(f)]      timing + the rest

once with g of b and P of a, once with g of a and P of b (Kitagawa 1955), the sums over stages within tasks. Where only
one of the models has prompts that form at f, its g serves for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from diffmamba_interp.argument_checks import Resamples, Seed, checked
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.drawing.panels import minus
from diffmamba_interp.files.table_text import aligned_table
from diffmamba_interp.needle.curves import Group, GroupKey, GroupRecord, matched, prompt_groups
from diffmamba_interp.needle.trajectory_records import Measure, NeedleTrajectory
from diffmamba_interp.resampling import N_RESAMPLES, Counts
from diffmamba_interp.stages import formation_stage, stage_words
from diffmamba_interp.statistics import (
    Estimate,
    WeightedStatistic,
    bootstrap,
    bootstrap_of,
    mean_of,
    paired_test,
    weighted_sum,
)

Criterion = Literal["3 dB", "7 dB", "10 dB", "on top"]
CRITERIA: Mapping[Criterion, Measure] = {
    "3 dB": "formed_3db",
    "7 dB": "formed_7db",
    "10 dB": "formed_10db",
    "on top": "formed_on_top",
}
"""What has to hold from a stage on, and the measure that says at which stages it does."""


@dataclass(frozen=True, kw_only=True)
class Formation(GroupRecord):
    """When the answer forms in one model's prompts of a group.

    n: prompts. n_stages: the stage of a prompt in which it never forms. median, mean: of the stage, with such prompts.
    share_formed: of prompts in which it forms at all, in [0, 1]. snr_db: mean SNR at the stage of formation, of these.
    """

    model: str
    lens: str
    criterion: Criterion
    group: Group
    n: int
    n_stages: int
    median: Estimate
    mean: Estimate
    share_formed: Estimate
    snr_db: Estimate


@dataclass(frozen=True, kw_only=True)
class FormationDifference(GroupRecord):
    """`model` minus `baseline` on the same prompts.

    n, n_both: prompts, and those in which the answer forms in both. mean, median: of the paired differences of the
    stage, negative where it forms earlier in `model`; p_value: of the mean, two-sided, not corrected. share_formed: in
    [-1, 1]. snr_db: at each model's own stage of formation, over `n_both`. inner_db: of the mean SNR over the inner
    stages; timing_db: how much of it is timing, with the baseline's and with the model's SNR by stage of formation.
    """

    baseline: str
    model: str
    lens: str
    criterion: Criterion
    group: Group
    n: int
    n_both: int
    mean: Estimate
    median: Estimate
    p_value: float
    share_formed: Estimate
    snr_db: Estimate
    inner_db: Estimate
    timing_db: tuple[Estimate, Estimate]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clearness:
    """Prompts of one model. snr_db: by stage. is_clear: whether the criterion holds there."""

    snr_db: Float[np.ndarray, "*batch stage"]
    is_clear: Bool[np.ndarray, "*batch stage"]

    def select(self, at: Any) -> Clearness:
        """Some prompts, of one lens."""
        return Clearness(snr_db=self.snr_db[at], is_clear=self.is_clear[at])

    @property
    def stage(self) -> Int[np.ndarray, "*batch"]:
        """Of formation; the number of stages for never."""
        return formation_stage(self.is_clear)

    @property
    def has_formed(self) -> Bool[np.ndarray, "*batch"]:
        return self.is_clear[..., -1]

    @property
    def snr_db_there(self) -> Float[np.ndarray, "*batch"]:
        """SNR at the stage of formation, NaN for never."""
        at = np.minimum(self.stage, self.is_clear.shape[-1] - 1)
        there = np.take_along_axis(self.snr_db, at[..., None], axis=-1)[..., 0]
        return np.where(self.has_formed, there, np.nan)

    @property
    def inner_db(self) -> Float[np.ndarray, "*batch"]:
        """Mean SNR over the inner stages, NaN where there are none."""
        if self.snr_db.shape[-1] < 3:
            return np.full(self.snr_db.shape[:-1], np.nan)
        return self.snr_db[..., 1:-1].mean(axis=-1)


@checked
def formation_stages(trajectory: NeedleTrajectory, criterion: Criterion = "7 dB") -> Int[np.ndarray, "lens sample"]:
    """The first stage from which the criterion holds to the output; the number of stages where it never forms."""
    formed = trajectory.measure(CRITERIA[criterion])
    return (len(trajectory.stages) - formed.sum(axis=-1)).astype(np.int64)


@checked
def summarise_formation(
    trajectories: Sequence[NeedleTrajectory],
    *,
    criteria: Sequence[Criterion] = tuple(CRITERIA),
    by: Sequence[GroupKey] = ("task", "length"),
    n_resamples: Resamples = N_RESAMPLES,
    seed: Seed = 0,
) -> list[Formation]:
    """When the answer forms, of every trajectory, lens, group and criterion, in that order; 95 % bootstrap intervals.

    Arguments as in `summarise`.
    """
    formations = []
    for trajectory in trajectories:
        read = _clearness(trajectory, criteria)
        for place, lens in enumerate(trajectory.lenses):
            for group, indices in prompt_groups(trajectory.samples, by).items():
                for criterion in criteria:
                    about = {"model": trajectory.model, "lens": lens, "criterion": criterion, "group": group}
                    chosen = read[criterion].select((place, indices))
                    formations.append(estimate_formation(chosen, about=about, n_resamples=n_resamples, seed=seed))
    return formations


@checked
def compare_formation(
    first: NeedleTrajectory,
    second: NeedleTrajectory,
    *,
    criteria: Sequence[Criterion] = tuple(CRITERIA),
    by: Sequence[GroupKey] = ("task", "length"),
    n_resamples: Resamples = N_RESAMPLES,
    seed: Seed = 0,
) -> list[FormationDifference]:
    """Second minus first on the same prompts, in every lens that both have. Raises ValueError as `compare` does."""
    second = matched(first, second)
    if first.stages != second.stages:
        raise ValueError(
            f"the models have {len(first.stages)} and {len(second.stages)} stages: when an answer forms can be "
            "compared in models of equally many blocks only."
        )
    lenses = [lens for lens in first.lenses if lens in second.lenses]
    if not lenses:
        raise ValueError(f"no lens is common to both: {', '.join(first.lenses)} and {', '.join(second.lenses)}.")
    tasks = np.array([sample.task for sample in first.samples])
    read = _clearness(first, criteria), _clearness(second, criteria)
    differences = []
    for lens in lenses:
        for group, indices in prompt_groups(first.samples, by).items():
            for criterion in criteria:
                one, other = (
                    by_criterion[criterion].select((whole.lens_index(lens), indices))
                    for whole, by_criterion in zip((first, second), read, strict=True)
                )
                about = {
                    **{"baseline": first.model, "model": second.model, "lens": lens},
                    **{"criterion": criterion, "group": group},
                }
                difference = estimate_difference(
                    one, other, tasks[indices], about=about, n_resamples=n_resamples, seed=seed
                )
                differences.append(difference)
    return differences


def estimate_formation(
    read: Clearness, *, about: Mapping[str, Any], n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Formation:
    """From SNR and clearness by stage. about: the fields that say what was read."""
    draws: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed}
    mean, share_formed = bootstrap(np.stack([read.stage, read.has_formed], axis=1).astype(float), **draws).estimates
    (median,) = bootstrap(read.stage.astype(float), statistic="median", **draws).estimates
    (snr_db,) = bootstrap_of(mean_of(read.snr_db_there), len(read.stage), **draws).estimates
    return Formation(
        **about,
        n=len(read.stage),
        n_stages=read.is_clear.shape[-1],
        median=median,
        mean=mean,
        share_formed=share_formed,
        snr_db=snr_db,
    )


def estimate_difference(
    first: Clearness,
    second: Clearness,
    tasks: np.ndarray,
    *,
    about: Mapping[str, Any],
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> FormationDifference:
    """Second minus first, prompts in one order. tasks: of each prompt."""
    draws: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed}
    stages = [one.stage.astype(float) for one in (first, second)]
    tested = paired_test(*stages, **draws)
    (median,) = bootstrap(stages[1] - stages[0], statistic="median", **draws).estimates
    (share_formed,) = paired_test(*(one.has_formed.astype(float) for one in (first, second)), **draws).estimates
    both = second.snr_db_there - first.snr_db_there
    (snr_db,) = bootstrap_of(mean_of(both), len(both), **draws).estimates
    inner_db, *timing_db = bootstrap_of(lead_and_timing(first, second, tasks), len(tasks), **draws).estimates
    return FormationDifference(
        **about,
        n=tested.n,
        n_both=int(np.isfinite(both).sum()),
        mean=tested.estimates[0],
        median=median,
        p_value=float(tested.p_value),
        share_formed=share_formed,
        snr_db=snr_db,
        inner_db=inner_db,
        timing_db=(timing_db[0], timing_db[1]),
    )


def lead_and_timing(first: Clearness, second: Clearness, tasks: np.ndarray) -> WeightedStatistic:
    """Of the inner stages' mean SNR, [resample, 3]: second minus first; its timing with the SNR of each model."""
    n_stages = first.is_clear.shape[-1]
    of_task = np.unique(tasks, return_inverse=True)[1] * (n_stages + 1)
    kinds = [np.eye(of_task.max() + n_stages + 1)[of_task + one.stage] for one in (first, second)]
    inner = [one.inner_db for one in (first, second)]

    def statistic(counts: Counts) -> np.ndarray:
        n = counts.sum(axis=1)
        of_kind = [weighted_sum(counts, kind) for kind in kinds]
        sums = [weighted_sum(counts, kind * values[:, None]) for kind, values in zip(kinds, inner, strict=True)]
        with np.errstate(invalid="ignore"):
            by_kind = [total / number for total, number in zip(sums, of_kind, strict=True)]
        more = of_kind[1] - of_kind[0]
        curves = [
            np.where(np.isnan(own), np.where(np.isnan(other), 0.0, other), own)
            for own, other in (by_kind, by_kind[::-1])
        ]
        lead = (sums[1] - sums[0]).sum(axis=1)
        return np.stack([lead, *((more * curve).sum(axis=1) for curve in curves)], axis=1) / n[:, None]

    return statistic


def _clearness(trajectory: NeedleTrajectory, criteria: Sequence[Criterion]) -> dict[Criterion, Clearness]:
    snr_db = trajectory.snr_db
    return {c: Clearness(snr_db=snr_db, is_clear=trajectory.measure(CRITERIA[c]) > 0) for c in criteria}


def comes_in(one: Formation) -> str:
    """After which block, by the median, and the interval of that, as `after block 3 [1 to 3]`."""
    low, high = math.floor(one.median.low), math.ceil(one.median.high)
    # Of two middle prompts the later: by then half of them have it.
    middle = stage_words(math.ceil(one.median.value), one.n_stages)
    if low >= one.n_stages or low == high:
        return middle
    first, last = (stage_words(stage, one.n_stages).split()[-1] for stage in (low, high))
    return f"{middle} [{first} to {last}]"


@checked
def formation_table(
    formations: Sequence[Formation], differences: Sequence[FormationDifference] = (), *, named: bool = False
) -> list[str]:
    """Lines of a Markdown table that also reads well in a terminal: a row for each formation, then each difference.

    named: stages by their names, as `after block 3`, and differences in blocks, in place of numbers. Raises ValueError
    if there are no formations.
    """
    if not formations:
        raise ValueError("formations is empty: summarise at least one trajectory first.")
    where = "comes in (median)" if named else "median stage"
    heads = ("task", "length", "n", "lens", "criterion", "model", where, "never forms", "SNR there, dB")
    rows: list[tuple[str, ...]] = [heads]
    for one in by_cell(formations, differences):
        what = group_texts(one)
        if isinstance(one, Formation):
            never = f"{1 - one.share_formed.value:.1%}"
            stage = comes_in(one) if named else one.median.text(1)
            rows.append((*what, short_name(one.model), stage, never, one.snr_db.text(1)))
        else:
            never = f"{0 - one.share_formed.value:+.1%}"
            there = f"{one.snr_db.text(1, signed=True)}, n = {one.n_both}"
            whose = minus(short_name(one.model), short_name(one.baseline))
            stages = one.median.text(1, signed=True) + " blocks" * named
            rows.append((*what, whose, stages, never, there))
    return aligned_table(rows)


def by_cell(
    formations: Sequence[Formation], differences: Sequence[FormationDifference]
) -> list[Formation | FormationDifference]:
    """Group by group, lens by lens and criterion by criterion: the models, then their difference."""
    every: list[Formation | FormationDifference] = [*formations, *differences]
    cells = list(dict.fromkeys((one.group, one.lens, one.criterion) for one in every))
    return sorted(every, key=lambda one: cells.index((one.group, one.lens, one.criterion)))


def group_texts(one: Formation | FormationDifference) -> tuple[str, ...]:
    """Task, length, n, lens and criterion."""
    group = dict(one.group)
    return group.get("task", "all"), group.get("length", "all"), str(one.n), one.lens, one.criterion
