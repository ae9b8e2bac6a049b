"""Curves by stage with error bars: one model's, and the paired difference of two, by task, length, depth and seed.

Curve         statistic over a group's prompts of one measure at every stage, with its interval
PairedCurve   the same of the differences second - first, matched by prompt, with p-values
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from diffmamba_interp.argument_checks import Resamples, Seed, checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.needle.trajectory_records import Measure, NeedleTrajectory
from diffmamba_interp.resampling import N_RESAMPLES
from diffmamba_interp.statistics import Interval, PairedTest, Statistic, Test, bootstrap, holm, paired_test, t_test

GroupKey = Literal["task", "length", "depth", "needle_depth", "seed"]
Group = tuple[tuple[str, str], ...]
R = TypeVar("R", bound="GroupRecord")

N_DEPTH_BINS = 5


class GroupRecord(JsonRecord):
    """Base of dataclasses about the prompts of one `group`, which is a mapping in JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives the same record back."""
        values = super().to_dict()
        return values | {"group": dict(values["group"])}

    @classmethod
    def from_dict(cls: type[R], values: Mapping[str, Any]) -> R:
        """The inverse of `to_dict`."""
        return super().from_dict(dict(values) | {"group": tuple(values["group"].items())})


@dataclass(frozen=True, kw_only=True)
class Curve(GroupRecord):
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
        # Of all prompts at once: what is fitted on other prompts does not change with the grouping.
        measured = {measure: trajectory.measure(measure) for measure in measures}
        groups = prompt_groups(trajectory.samples, by)
        for lens, (group, indices) in itertools.product(trajectory.lenses, groups.items()):
            keys = None if clusters is None else [_key(trajectory.samples[i], clusters) for i in indices]
            for measure, statistic in itertools.product(measures, statistics):
                values = measured[measure][trajectory.lens_index(lens), indices]
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
    measured = {measure: (first.measure(measure), second.measure(measure)) for measure in measures}
    for lens, (group, indices) in itertools.product(lenses, prompt_groups(first.samples, by).items()):
        keys = None if clusters is None else [_key(first.samples[i], clusters) for i in indices]
        places = first.lens_index(lens), second.lens_index(lens)
        for measure, statistic in itertools.product(measures, statistics):
            tested = paired_test(
                *(values[place, indices] for values, place in zip(measured[measure], places, strict=True)),
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
    settings = {(one.stages, one.lenses, tuple(prompt_groups(one.samples, by))) for pair in pairs for one in pair}
    if len(pairs) < 2 or len(settings) > 1:
        raise ValueError(
            f"{len(pairs)} pairs with {len(settings)} kinds of stages, lenses and groups: give at least two pairs, all "
            "read with the same lenses on the same tasks and lengths."
        )
    first, second = pairs[0]
    curves = []
    differences = {
        measure: [other.measure(measure) - one.measure(measure) for one, other in pairs] for measure in measures
    }
    places = [prompt_groups(one.samples, by) for one, _ in pairs]
    for lens, group, measure in itertools.product(first.lenses, places[0], measures):
        k = first.lens_index(lens)
        each = zip(differences[measure], places, strict=True)
        means = [values[k, of_pair[group]].mean(axis=0) for values, of_pair in each]
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


def prompt_groups(samples: Sequence[ReadSample], by: Sequence[GroupKey]) -> dict[Group, list[int]]:
    """Indices of the prompts of each group, sorted by the groups' values."""
    unknown = [key for key in by if key not in get_args(GroupKey)]
    if unknown:
        raise ValueError(f"by holds {unknown}: prompts are grouped by {', '.join(get_args(GroupKey))}.")
    indices: dict[tuple[Any, ...], list[int]] = {}
    for index, sample in enumerate(samples):
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
