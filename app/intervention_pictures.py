"""Readings before and after changes as figures: the answer by stage, and the changes in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from app.dose_request import PROBABILITY
from app.intervention_request import LENS
from app.needle_pictures import name_stages_shortly
from diffmamba_interp.figures.needle import curves_by_stage
from diffmamba_interp.interventions import InterventionRecord
from diffmamba_interp.needle import Curve, Measure

BEFORE, AFTER = "before", "after"
READINGS: Mapping[Measure, str] = {
    "probability": "answer_log_probability", "label_share": "label_probability", "snr_db": "snr_db",
}  # fmt: skip
"""What is drawn, and the reading that it is made of."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """name: of its file. measure: of `READINGS`. values: before and after, [stage]."""

    name: str
    measure: Measure
    values: dict[str, np.ndarray]
    figure: go.Figure


def by_stage(record: InterventionRecord, measure: Measure) -> dict[str, np.ndarray]:
    """The only sample's values before and after, at every stage that the lens reads and at the output."""
    name = READINGS[measure]
    found = {}
    for when, values in ((BEFORE, record.clean), (AFTER, record.intervened)):
        stages = np.append(values[f"{LENS}.{name}"][0], values[name][0])
        found[when] = np.exp(stages) if measure == "probability" else stages
    return found


def stage_figures(record: InterventionRecord, stages: tuple[str, ...], lens: str, *, log: bool) -> list[Figure]:
    """Probability, and where there are labels the signal-to-noise ratio, by stage."""
    made = []
    for measure in [measure for measure in ("probability", "snr_db") if READINGS[measure] in record.clean]:
        values = by_stage(record, measure)
        curves = [
            Curve(
                model=when, lens=lens, measure=measure, statistic="mean", group=(), n=1, stages=stages,
                value=tuple(v), low=tuple(v), high=tuple(v),
            )
            for when, v in ((when, value.tolist()) for when, value in values.items())
        ]  # fmt: skip
        figure = curves_by_stage(curves, log=log and measure == "probability")
        name_stages_shortly(figure, stages)
        made.append(Figure(name=measure, measure=measure, values=values, figure=figure))
    return made


def at_output(record: InterventionRecord) -> list[tuple[str, float, float, str]]:
    """Name, before, after and unit of every number that is read at the output."""
    found = [("Probability of the answer", *(float(np.exp(v["answer_log_probability"][0])) for v in both(record)), "")]
    names = {"answer_logit": ("Its logit", ""), "label_probability": ("Among the labels", ""), "snr_db": ("SNR", " dB")}
    for name, (words, unit) in names.items():
        if name in record.clean:
            found.append((words, *(float(v[name][0]) for v in both(record)), unit))
    return found


def present_readings(record: InterventionRecord) -> dict[str, float]:
    """Probability and SNR at the output with the changes, by the names of a sweep's readings."""
    found = {PROBABILITY: float(np.exp(record.intervened["answer_log_probability"][0]))}
    return found | {name: float(record.intervened[name][0]) for name in ("snr_db",) if name in record.intervened}


def both(record: InterventionRecord) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    return record.clean, record.intervened


def in_words(change: Mapping[str, object]) -> str:
    """One intervention, as `describe` gives it, on one line."""
    given = (f"{name} {said(value)}" for name, value in change.items() if name != "kind" and value is not None)
    return f"{change['kind']}: {', '.join(given)}"


def said(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) if len(value) <= 16 else f"{value[0]} … {value[-1]} ({len(value)} of them)"
    return f"{value:g}" if isinstance(value, float) else str(value)
