"""Needle curves by stage as small SVG files: one panel per task, length and lens, one curve per model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffmamba_interp.figures import curves_svg
from diffmamba_interp.figures.needle import NAMES
from diffmamba_interp.figures.styles import length_name
from diffmamba_interp.needle.curves import Curve, Group, PairedCurve

# An axis of probabilities is not drawn to a smaller scale than this.
_LEAST_PROBABILITY = 1e-6


def stages_svg(curves: Sequence[Curve], *, title: str, log: bool = False) -> str:
    """The models' curves with their bands over the stages, for every group and lens.

    log: draws log10 of the values; where a value or a bound is not positive there is a gap.
    Raises ValueError if there are no curves, or of several measures.
    """
    measures = {curve.measure for curve in curves}
    if len(measures) != 1:
        raise ValueError(f"the curves are of {len(measures)} measures: give those of one measure, at least one.")
    measure = measures.pop()
    is_paired = any(isinstance(curve, PairedCurve) for curve in curves)
    name = f"difference in {NAMES[measure]}" if is_paired else NAMES[measure]
    panels = []
    for group, lens in dict.fromkeys((curve.group, curve.lens) for curve in curves):
        own = [curve for curve in curves if (curve.group, curve.lens) == (group, lens)]
        panels.append(
            curves_svg.Panel(
                title=f"{group_name(group)}, {lens} lens, n = {own[0].n}",
                ticks=[short_stage(stage) for stage in own[0].stages],
                curves=[curves_svg.Curve(name=_name(curve), points=_points(curve, log)) for curve in own],
            )
        )
    y_axis = f"log10 of the {name}" if log else name
    y_range = None
    if measure == "probability" and not log and not is_paired:
        y_range = (0.0, max(*(high for curve in curves for high in curve.high), _LEAST_PROBABILITY))
    return curves_svg.curves_svg(panels, title=title, x_axis="lens reads", y_axis=y_axis, y_range=y_range)


def group_name(group: Group) -> str:
    """`qa1, 1k`, or `all tasks, 1k` for a group that names no task."""
    values = dict(group)
    parts = [values.get("task", "all tasks")]
    return ", ".join([*parts, length_name(int(values["length"]))] if "length" in values else parts)


def short_stage(stage: str) -> str:
    """`emb.`, `0`, `1`, ..., `out`."""
    return {"embedding": "emb.", "output": "out"}.get(stage, stage.removeprefix("after block "))


def _points(curve: Curve, log: bool) -> list[curves_svg.Point]:
    points = list(zip(curve.value, curve.low, curve.high, strict=True))
    if not log:
        return points
    gap = (math.nan, math.nan, math.nan)
    return [
        (math.log10(value), math.log10(low), math.log10(high)) if min(value, low, high) > 0 else gap
        for value, low, high in points
    ]


def _name(curve: Curve) -> str:
    return f"{curve.model} - {curve.baseline}" if isinstance(curve, PairedCurve) else curve.model
