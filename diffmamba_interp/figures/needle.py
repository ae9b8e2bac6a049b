"""Figures of the needle: probability and signal-to-noise ratio by stage, with 95 % bands, and paired differences.

Models differ in colour, lenses in dashes; every band is the interval of its own stage. A paired curve is its model
minus its baseline, and its label says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffmamba_interp.drawing.colours import DASHES, GREY, Style, model_styles, series_styles, short_name
from diffmamba_interp.drawing.labels import length_name, short_stage
from diffmamba_interp.drawing.panels import Axis, Drawing, Level, Line, Panel, minus
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.needle.curves import Curve, Group, PairedCurve
from diffmamba_interp.needle.trajectory_records import MEASURED, Measure

SIGNIFICANT = 0.05
"""A difference is marked where its corrected p-value lies below this."""

PROBED: Mapping[Measure, str] = {"is_right": "accuracy", "calibrated_bits": "bits about the answer"}
"""What the measures of probes are called on their axes."""

_TOP_OF_SHARES = 1.05
"""Room for markers at 1."""

_LEAST_PROBABILITY = 1e-6
"""An axis of probabilities is not drawn to a smaller scale than this."""


def needle_drawing(curves: Sequence[Curve], *, log: bool = False, title: str = "") -> Drawing:
    """One line per curve over the stages, its interval as a band; `log` for a logarithmic axis.

    All curves must be of one measure. Models differ in colour, lenses in dashes; of one model, groups differ in colour.
    Raises ValueError if there are no curves, or of several measures, or for a logarithmic axis of decibels.
    """
    measure = _common_measure(curves)
    if log and MEASURED[measure].scale == "logarithm":
        raise ValueError(f"{measure} is logarithmic already and may be negative: draw it with log=False.")
    return Drawing(
        title=title,
        x=_stage_axis(curves),
        y=Axis(title=MEASURED[measure].title, kind="log" if log else "linear"),
        panels=[Panel(marks=_lines(curves, full=True))],
    )


curves_by_stage = as_plotly(needle_drawing)


def needle_difference_drawing(curves: Sequence[PairedCurve], *, title: str = "") -> Drawing:
    """Each curve's model minus its baseline, with a band and a line at 0; filled markers where the corrected p < 0.05.

    Raises ValueError if there are no curves, or of several measures.
    """
    measure = _common_measure(curves)
    return Drawing(
        title=title,
        x=_stage_axis(curves),
        y=Axis(title=f"difference in {MEASURED[measure].title}"),
        panels=[Panel(marks=[Level(at=0.0, colour=GREY), *_lines(curves, full=True)])],
    )


difference_by_stage = as_plotly(needle_difference_drawing)


def figures_by_measure(curves: Sequence[Curve], *, log: bool = False) -> dict[Measure, Any]:
    """A Plotly figure for the curves of each measure, or for their differences where those are given.

    log: a logarithmic axis where the measure is not logarithmic itself.
    """
    figures: dict[Measure, Any] = {}
    for measure in dict.fromkeys(curve.measure for curve in curves):
        of_measure = [curve for curve in curves if curve.measure == measure]
        differences = [curve for curve in of_measure if isinstance(curve, PairedCurve)]
        on_log_axis = log and MEASURED[measure].scale != "logarithm"
        figures[measure] = (
            difference_by_stage(differences) if differences else curves_by_stage(of_measure, log=on_log_axis)
        )
    return figures


def stages_drawing(curves: Sequence[Curve], *, title: str, log: bool = False) -> Drawing:
    """A panel for every group and lens with the models' curves, or their differences, on one scale.

    log: a logarithmic axis, on which a value that is not positive is a gap.
    Raises ValueError if there are no curves, or of several measures.
    """
    measure = _common_measure(curves)
    is_paired = any(isinstance(curve, PairedCurve) for curve in curves)
    panels = []
    for group, lens in dict.fromkeys((curve.group, curve.lens) for curve in curves):
        chosen = [curve for curve in curves if (curve.group, curve.lens) == (group, lens)]
        zero = [Level(at=0.0, colour=GREY)] if not log and any(low < 0 for curve in chosen for low in curve.low) else []
        heading = f"{group_name(group)}, {lens} lens, n = {chosen[0].n}"
        panels.append(Panel(title=heading, marks=[*zero, *_lines(chosen, full=False)]))
    limits = None
    if measure == "probability" and not log and not is_paired:
        highest = max(high for curve in curves for high in curve.high if math.isfinite(high))
        limits = (0.0, max(highest, _LEAST_PROBABILITY))
    name = f"difference in {MEASURED[measure].title}" if is_paired else MEASURED[measure].title
    return Drawing(
        title=title,
        x=_stage_axis(curves),
        y=Axis(title=name, kind="log" if log else "linear", limits=limits),
        panels=panels,
    )


def probes_drawing(curves: Sequence[Curve], *, measure: Measure = "is_right", title: str = "") -> Drawing:
    """What probes read, by stage: a panel for every group; models differ in colour, shuffled answers are dashed.

    curves: of `summarise_probes`, or differences of `compare_probes`, with a line at 0; those of `measure` are drawn.
    Raises ValueError if there are none of it.
    """
    chosen = [curve for curve in curves if curve.measure == measure]
    if not chosen:
        raise ValueError(f"curves holds none of {measure!r}: summarise at least one record of probes first.")
    is_paired = isinstance(chosen[0], PairedCurve)
    lenses = list(dict.fromkeys(curve.lens for curve in chosen))
    panels = []
    for group in dict.fromkeys(curve.group for curve in chosen):
        of_group = [curve for curve in chosen if curve.group == group]
        lines = [
            replace(
                line,
                name=f"{line.name}, {curve.lens}",
                style=replace(line.style, dash=DASHES[lenses.index(curve.lens) % len(DASHES)]),
            )
            for line, curve in zip(_lines(of_group, full=False), of_group, strict=True)
        ]
        zero = [Level(at=0.0, colour=GREY)] if any(low < 0 for curve in of_group for low in curve.low) else []
        panels.append(Panel(title=f"{group_name(group)}, n = {of_group[0].n}", marks=[*zero, *lines]))
    what = PROBED.get(measure, MEASURED[measure].title)
    limits = (0.0, _TOP_OF_SHARES) if measure == "is_right" and not is_paired else None
    y = Axis(title=f"difference in {what}" if is_paired else what, limits=limits)
    return Drawing(title=title, x=replace(_stage_axis(chosen), title="stage"), y=y, panels=panels)


probes_by_stage = as_plotly(probes_drawing)


def group_name(group: Group) -> str:
    """`qa1, 1k`, or `all tasks, 1k` for a group that names no task."""
    values = dict(group)
    parts = [values.get("task", "all tasks")]
    return ", ".join([*parts, length_name(int(values["length"]))] if "length" in values else parts)


def _stage_axis(curves: Sequence[Curve]) -> Axis:
    stages = dict.fromkeys(stage for curve in curves for stage in curve.stages)
    return Axis(title="lens reads", kind="category", ticks={stage: short_stage(stage) for stage in stages})


def _lines(curves: Sequence[Curve], *, full: bool) -> list[Line]:
    """full: names say lens and group, which a panel's title may say instead."""
    styles = _styles(curves, by_lens=full)
    several = len({curve.statistic for curve in curves}) > 1
    return [
        Line(
            name=_name(curve, full=full, with_statistic=several),
            x=curve.stages,
            y=curve.value,
            low=curve.low,
            high=curve.high,
            style=style,
            hollow=[not p < SIGNIFICANT for p in curve.p_holm] if isinstance(curve, PairedCurve) else None,
            notes=_notes(curve),
        )
        for curve, style in zip(curves, styles, strict=True)
    ]


def _styles(curves: Sequence[Curve], *, by_lens: bool) -> list[Style]:
    """What tells the curves apart decides the colour: models if there are several, else groups; a difference, its
    model."""
    lenses, groups = (list(dict.fromkeys(getattr(curve, name) for curve in curves)) for name in ("lens", "group"))
    by_model = model_styles(curve.model for curve in curves)
    looks = [by_model[curve.model] for curve in curves]
    if len(by_model) == 1 and len(groups) > 1:
        by_group = series_styles(str(group) for group in groups)
        looks = [by_group[str(curve.group)] for curve in curves]
    if not by_lens or len(lenses) == 1:
        return looks
    dashes = [DASHES[lenses.index(curve.lens) % len(DASHES)] for curve in curves]
    return [replace(look, dash=dash) for look, dash in zip(looks, dashes, strict=True)]


def _notes(curve: Curve) -> list[str]:
    if not isinstance(curve, PairedCurve):
        return [f"n = {curve.n}"] * len(curve.stages)
    pairs = zip(curve.p_value, curve.p_holm, strict=True)
    return [f"p = {p:.3g}, corrected {corrected:.3g}, n = {curve.n}" for p, corrected in pairs]


def _name(curve: Curve, *, full: bool, with_statistic: bool) -> str:
    model = short_name(curve.model)
    parts = [minus(model, short_name(curve.baseline)) if isinstance(curve, PairedCurve) else model]
    if full:
        parts += [f"{curve.lens} lens", *(f"{key} {value}" for key, value in curve.group)]
    return ", ".join([*parts, curve.statistic] if with_statistic else parts)


def _common_measure(curves: Sequence[Curve]) -> Measure:
    if not curves:
        raise ValueError("there are no curves to draw: summarise at least one trajectory first.")
    measures = sorted({curve.measure for curve in curves})
    if len(measures) > 1:
        raise ValueError(f"the curves are of several measures, {', '.join(measures)}: draw a figure for each.")
    return measures[0]
