"""What interventions did to a measurement: values per sample, clean beside intervened, and their summary.

    change[i] = intervened[i] - clean[i]         mean over samples i, with a 95 % percentile bootstrap interval

Samples are drawn with replacement, each with both of its values: what makes a sample easy in both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float

from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.resampling import N_RESAMPLES
from diffmamba_interp.statistics import bootstrap_of, weighted_sum

LOG_PROBABILITY, PROBABILITY = "answer_log_probability", "answer_probability"
Values = Mapping[str, Float[np.ndarray, "..."]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Effect:
    """The mean effect on one reading, in its unit; arrays of the axes that the reading has beside the samples.

    clean, intervened: means over samples. change: mean of the differences. low, high: 95 % percentile bootstrap
    interval of `change` over samples, NaN for a single one. n: samples.
    """

    reading: str
    unit: str
    n: int
    clean: Float[np.ndarray, "*axes"]
    intervened: Float[np.ndarray, "*axes"]
    change: Float[np.ndarray, "*axes"]
    low: Float[np.ndarray, "*axes"]
    high: Float[np.ndarray, "*axes"]

    def __str__(self) -> str:
        if self.change.ndim:
            return f"{self.reading}: arrays of shape {self.change.shape}, n = {self.n}"
        unit = f" {self.unit}" if self.unit else ""
        interval = f" [{self.low:+.4g}, {self.high:+.4g}]" if self.n > 1 else ""
        means = f"{self.clean:.4g} -> {self.intervened:.4g}{unit}"
        return f"{self.reading}: {means}, change {self.change:+.4g}{interval}, n = {self.n}"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Readings(JsonRecord):
    """clean: reading -> [sample, ...]. intervened: the same, its samples along `sample_axis`. units: "" for none."""

    clean: Values
    intervened: Values
    units: Mapping[str, str] = field(default_factory=dict)
    sample_axis: ClassVar[int] = 0

    def change(self, reading: str) -> Float[np.ndarray, ...]:
        """Intervened minus clean, per sample. Raises KeyError, with the readings there are, for another one."""
        require_reading(reading, self.clean)
        return self.intervened[reading] - self.clean[reading]

    def effect(self, reading: str, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Effect:
        """Means and intervals over the samples. Raises KeyError for a reading that there is not."""
        by_sample = np.moveaxis(self.change(reading), self.sample_axis, 0)
        low, high = mean_interval(by_sample, n_resamples, seed)
        return Effect(
            reading=reading,
            unit=self.units.get(reading, ""),
            n=len(by_sample),
            clean=np.broadcast_to(self.clean[reading].mean(axis=0), low.shape),
            intervened=np.asarray(self.intervened[reading].mean(axis=self.sample_axis)),
            change=np.asarray(by_sample.mean(axis=0)),
            low=low,
            high=high,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class InterventionRecord(_Readings):
    """Readings without and with interventions.

    interventions: as `describe` gives them. clean, intervened: reading -> [sample, ...].
    units: reading -> unit; "" for a reading without one.
    """

    interventions: tuple[dict[str, Any], ...]

    def summary(self) -> dict[str, Effect]:
        """The effect on every reading."""
        return {reading: self.effect(reading) for reading in self.clean}


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepRecord(_Readings):
    """Readings under one kind of intervention at several doses, in several groups of blocks.

    dose: what is varied, with its unit, for axis titles. doses: its values. groups: the blocks that were changed
    together; None stands for all that there are. clean: reading -> [sample, ...].
    intervened: reading -> [group, dose, sample, ...], and so `change`; effects are [group, dose, ...].
    units: reading -> unit; "" for a reading without one.
    """

    dose: str
    doses: tuple[float, ...]
    groups: tuple[tuple[int, ...] | None, ...]
    sample_axis: ClassVar[int] = 2


Record = TypeVar("Record", InterventionRecord, SweepRecord)


def with_probability(record: Record) -> Record:
    """The record with readings called `answer_probability` beside every `answer_log_probability`, those of lenses too.

    clean and intervened as in the record; no unit.
    """
    names = [name for name in record.clean if name.endswith(LOG_PROBABILITY)]
    clean, intervened = (
        {**values, **{name.removesuffix(LOG_PROBABILITY) + PROBABILITY: np.exp(values[name]) for name in names}}
        for values in (record.clean, record.intervened)
    )
    return replace(record, clean=clean, intervened=intervened)


def mean_interval(
    values: Float[np.ndarray, "sample ..."], n_resamples: int = N_RESAMPLES, seed: int = 0
) -> tuple[Float[np.ndarray, "*axes"], Float[np.ndarray, "*axes"]]:
    """95 % percentile bootstrap interval of the mean over samples; NaN for fewer than two of them.

    All entries of the other axes see the same resamples.
    """
    n, axes = values.shape[0], values.shape[1:]
    if n < 2:
        return np.full(axes, np.nan), np.full(axes, np.nan)
    interval = bootstrap_of(
        lambda counts: weighted_sum(counts, values.astype(np.float64)) / n, n, n_resamples=n_resamples, seed=seed
    )
    return interval.low, interval.high


def require_reading(reading: str, values: Values) -> None:
    """Raise KeyError, with the readings there are, for another one."""
    if reading not in values:
        raise KeyError(f"there is no reading {reading!r}: the record holds {', '.join(values)}.")
