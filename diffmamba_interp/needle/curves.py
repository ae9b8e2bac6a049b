"""Curves by stage with error bars: one model's, and the paired difference of two, by task, length, depth and seed.

Curve         statistic over a group's prompts of one measure at every stage, with its interval
PairedCurve   the same of the differences second - first, matched by prompt, with p-values
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from diffmamba_interp.argument_checks import Resamples, Seed, checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.needle.trajectory_records import Measure, NeedleTrajectory
from diffmamba_interp.statistics import (
    N_RESAMPLES,
    Interval,
    PairedTest,
    Statistic,
    Test,
    bootstrap,
    holm,
    paired_test,
    t_test,
)

GroupKey = Literal["task", "length", "depth", "needle_depth", "seed"]
Group = tuple[tuple[str, str], ...]

N_DEPTH_BINS = 5


@dataclass(frozen=True, kw_only=True)
class Curve(JsonRecord):
    """One measure of one model at every stage, over the prompts of one group.

    group: what the prompts have in common, such as (("task", "qa1"), ("length", "1024")); () for all prompts.
    n: prompts; seeds, from `compare_over_seeds`. value, low, high: one per stage, in the unit of the measure; the
    interval is a 95 % bootstrap over prompts, or Student's over seeds.
    """

    model: str
    lens: str
    measure: Measure
    statistic: Statistic
    group: Group
    n: int
    stages: tuple[str, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives the same curve back."""
        return super().to_dict() | {"group": dict(self.group)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Curve:
        """The inverse of `to_dict`."""
        return super().from_dict(dict(values) | {"group": tuple(values["group"].items())})


@dataclass(frozen=True, kw_only=True)
class PairedCurve(Curve):
    """Second model minus first on the same prompts; `model` is the second's name, `baseline` the first's.

    p_value: two-sided, per stage, not corrected. p_holm: corrected for the number of stages.
    """

    baseline: str
    p_value: tuple[float, ...]
    p_holm: tuple[float, ...]


@checked
def summarise(
    trajectories: Sequence[NeedleTrajectory],
    *,
    measures: Sequence[Measure] = ("snr_db", "probability"),
    statistics: Sequence[Statistic] = ("mean", "median"),
    by: Sequence[GroupKey] = ("task", "length"),
    clusters: GroupKey | None = None,
    n_resamples: Resamples = N_RESAMPLES,
    seed: Seed = 0,
) -> list[Curve]:
    """Curves of every trajectory, lens, group, measure and statistic, in that order; groups sorted.

    by: what splits the prompts into groups; () for none. depth: as asked for ("random" where the facts were
        spread); needle_depth: as measured, in fifths of the context.
    clusters: resample these first, for example "seed", and prompts within them.
    """
    curves = []
    for trajectory in trajectories:
        groups = _groups(trajectory, by)
        for lens, (group, indices) in itertools.product(trajectory.lenses, groups.items()):
            chosen = trajectory.select(indices)
            keys = None if clusters is None else [_key(sample, clusters) for sample in chosen.samples]
            for measure, statistic in itertools.product(measures, statistics):
                values = chosen.measure(measure)[trajectory.lens_index(lens)]
                interval = bootstrap(values, statistic=statistic, clusters=keys, n_resamples=n_resamples, seed=seed)
                curves.append(
                    Curve(
                        model=trajectory.model,
                        lens=lens,
                        measure=measure,
                        statistic=statistic,
                        group=group,
                        stages=trajectory.stages,
                        **_numbers(interval),
                    )
                )
    return curves


@checked
def compare(
    first: NeedleTrajectory,
    second: NeedleTrajectory,
    *,
    measures: Sequence[Measure] = ("snr_db", "probability"),
    statistics: Sequence[Statistic] = ("mean", "median"),
    by: Sequence[GroupKey] = ("task", "length"),
    test: Test = "sign_flip",
    clusters: GroupKey | None = None,
    n_resamples: Resamples = N_RESAMPLES,
    seed: Seed = 0,
) -> list[PairedCurve]:
    """Second minus first on the same prompts, matched by id, in every lens that both have.

    Raises ValueError if the prompts differ, if a prompt occurs twice, or if the numbers of stages differ.
    """
    second = matched(first, second)
    if first.stages != second.stages:
        raise ValueError(
            f"the models have {len(first.stages)} and {len(second.stages)} stages: only models of equally many blocks "
            "can be compared stage by stage."
        )
    lenses = [lens for lens in first.lenses if lens in second.lenses]
    if not lenses:
        raise ValueError(f"no lens is common to both: {', '.join(first.lenses)} and {', '.join(second.lenses)}.")
    curves = []
    for lens, (group, indices) in itertools.product(lenses, _groups(first, by).items()):
        pair = first.select(indices), second.select(indices)
        keys = None if clusters is None else [_key(sample, clusters) for sample in pair[0].samples]
        for measure, statistic in itertools.product(measures, statistics):
            tested = paired_test(
                *(one.measure(measure)[one.lens_index(lens)] for one in pair),
                statistic=statistic,
                test=test,
                clusters=keys,
                n_resamples=n_resamples,
                seed=seed,
            )
            common = {"lens": lens, "measure": measure, "statistic": statistic, "group": group, "stages": first.stages}
            curves.append(_paired_curve(first, second, tested, common))
    return curves


@checked
def compare_over_seeds(
    pairs: Sequence[tuple[NeedleTrajectory, NeedleTrajectory]],
    *,
    measures: Sequence[Measure] = ("snr_db", "probability"),
    by: Sequence[GroupKey] = ("task", "length"),
) -> list[PairedCurve]:
    """Second minus first over training seeds: the mean over prompts per seed, then Student's t over seeds.

    pairs: the two models of every training seed; prompts are matched within each pair. `n` of the curves counts seeds,
    so that they say what another training run would give; the models take the names of the first pair.
    Raises ValueError for fewer than two pairs, or if their stages, lenses or groups differ, and as `compare` does.
    """
    pairs = [(first, matched(first, second)) for first, second in pairs]
    settings = {(one.stages, one.lenses, tuple(_groups(one, by))) for pair in pairs for one in pair}
    if len(pairs) < 2 or len(settings) > 1:
        raise ValueError(
            f"{len(pairs)} pairs with {len(settings)} kinds of stages, lenses and groups: give at least two pairs, all "
            "read with the same lenses on the same tasks and lengths."
        )
    first, second = pairs[0]
    curves = []
    for lens, group, measure in itertools.product(first.lenses, _groups(first, by), measures):
        k = first.lens_index(lens)
        means = []
        for one, other in pairs:
            places = _groups(one, by)[group]
            means.append((other.measure(measure)[k, places] - one.measure(measure)[k, places]).mean(axis=0))
        tested = t_test(np.stack(means))
        common = {"lens": lens, "measure": measure, "statistic": "mean", "group": group, "stages": first.stages}
        curves.append(_paired_curve(first, second, tested, common))
    return curves


def matched(first: NeedleTrajectory, second: NeedleTrajectory) -> NeedleTrajectory:
    """The prompts of `second` in the order of those of `first`. Raises ValueError if they are not the same ones."""
    places = {sample.id: index for index, sample in enumerate(second.samples)}
    ids = [sample.id for sample in first.samples]
    if len(set(ids)) < len(ids) or len(places) < len(second.samples):
        raise ValueError("a prompt occurs twice: a paired comparison matches prompts by id, so each may occur once.")
    if set(ids) != set(places):
        raise ValueError(
            f"the models read different prompts: {len(set(ids) - set(places))} only by {first.model!r}, "
            f"{len(set(places) - set(ids))} only by {second.model!r}. Read the same samples with both."
        )
    return second.select([places[one] for one in ids])


def _groups(trajectory: NeedleTrajectory, by: Sequence[GroupKey]) -> dict[Group, list[int]]:
    """Indices of the prompts of each group, sorted by the groups' values."""
    unknown = [key for key in by if key not in get_args(GroupKey)]
    if unknown:
        raise ValueError(f"by holds {unknown}: prompts are grouped by {', '.join(get_args(GroupKey))}.")
    indices: dict[tuple[Any, ...], list[int]] = {}
    for index, sample in enumerate(trajectory.samples):
        indices.setdefault(tuple(_key(sample, key) for key in by), []).append(index)
    ordered = sorted(indices.items(), key=lambda item: [(isinstance(value, str), value) for value in item[0]])
    return {tuple(zip(by, map(str, values), strict=True)): places for values, places in ordered}


def _key(sample: ReadSample, by: GroupKey) -> str | int | float:
    if by == "depth":
        # Where each fact got a depth of its own, there is no one depth of the prompt.
        return sample.depth if isinstance(sample.depth, float | int) else "random" if sample.depth is None else "each"
    if by == "needle_depth":
        place = min(int(sample.needle_depth * N_DEPTH_BINS), N_DEPTH_BINS - 1)
        return f"{place / N_DEPTH_BINS:g}-{(place + 1) / N_DEPTH_BINS:g}"
    return getattr(sample, by)


def _paired_curve(
    first: NeedleTrajectory, second: NeedleTrajectory, tested: PairedTest, common: dict[str, Any]
) -> PairedCurve:
    p_values: dict[str, Any] = {
        "p_value": tuple(tested.p_value.tolist()),
        "p_holm": tuple(holm(tested.p_value).tolist()),
    }
    return PairedCurve(model=second.model, baseline=first.model, **common, **p_values, **_numbers(tested))


def _numbers(interval: Interval) -> dict[str, Any]:
    bounds = {name: tuple(getattr(interval, name).tolist()) for name in ("value", "low", "high")}
    return {**bounds, "n": interval.n}
