"""Places on the axes of a drawing to pixels, for pictures that no library lays out: ends, round levels and ticks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from diffmamba_interp.drawing.panels import Axis, Bars, Drawing, Frame, HeatMap, Level, Line, Number, Panel, Place

PAD = 14
"""Pixels between a panel's edge and its first place, where lines are drawn."""


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """low, high: the ends of the axis, of logarithms if `log`. categories: their places are 0, 1, 2, ..."""

    low: Number
    high: Number
    ticks: Mapping[Number, str]
    categories: Sequence[str] = ()
    log: bool = False
    pad: Number = 0.0
    backwards: bool = False
    start: Number = 0.0
    end: Number = 0.0

    def on(self, start: Number, end: Number) -> Coordinates:
        """The same from one pixel to another."""
        start, end = (end, start) if self.backwards else (start, end)
        return replace(self, start=start, end=end)

    def __call__(self, place: Place) -> float:
        """The pixel of a place; what lies beyond the ends stands at them."""
        share = (min(max(self.number(place), self.low), self.high) - self.low) / (self.high - self.low)
        pad = math.copysign(self.pad, self.end - self.start)
        return self.start + pad + (self.end - self.start - 2 * pad) * share

    def number(self, place: Place) -> float:
        """A place as it is counted along the axis."""
        if isinstance(place, str):
            return float(self.categories.index(place))
        if self.log:
            return math.log10(place) if place > 0 else math.nan
        return float(place)


def x_coordinates(drawing: Drawing, panel: Panel) -> Coordinates:
    """Of one panel, which may have places of its own."""
    return _coordinates([panel], drawing.x, "x", drawing.x.ticks if panel.ticks is None else panel.ticks)


def y_coordinates(drawing: Drawing) -> list[Coordinates]:
    """Of every panel; the same for all where they share it."""
    together = (
        [list(drawing.panels)] * len(drawing.panels) if drawing.shared_y else [[panel] for panel in drawing.panels]
    )
    return [_coordinates(panels, drawing.y, "y", drawing.y.ticks) for panels in together]


def _coordinates(panels: Sequence[Panel], axis: Axis, which: str, ticks: Mapping[Place, str] | None) -> Coordinates:
    places = [place for panel in panels for mark in panel.marks for place in _places(mark, which)]
    categories = list(dict.fromkeys(place for place in places if isinstance(place, str)))
    marks = [mark for panel in panels for mark in panel.marks]
    broad = any(isinstance(mark, HeatMap) or (which == "x" and isinstance(mark, Bars)) for mark in marks)
    bare = Coordinates(low=0.0, high=1.0, ticks={}, categories=categories, log=axis.kind == "log")
    numbers = [number for number in map(bare.number, places) if math.isfinite(number)]
    if not numbers:
        raise ValueError("there are no points to draw: give at least one finite value.")
    if axis.limits is not None:
        low, high = sorted(map(bare.number, axis.limits))
        levels = [level for level in _levels(low, high, log=bare.log) if low <= level <= high]
    else:
        low, high = min(numbers), max(numbers)
        levels = _levels(low, high, log=bare.log)
        if broad:
            low, high = low - 0.5, high + 0.5
        elif which == "y":
            low, high = levels[0], levels[-1]
    if ticks is not None:
        shown = {bare.number(place): label for place, label in ticks.items()}
    elif categories:
        shown = {float(number): name for number, name in enumerate(categories)}
    else:
        shown = {
            level: f"{10**level:g}" if bare.log and abs(level) < 4 else f"1e{level:g}" if bare.log else f"{level:g}"
            for level in levels
            if low <= level <= high
        }
    high = high if high > low else low + 1
    pad = PAD if which == "x" and not broad else 0
    return replace(bare, low=low, high=high, ticks=shown, pad=float(pad), backwards=axis.backwards)


def _places(mark: object, which: str) -> Iterator[Place]:
    """What must have room on an axis."""
    if isinstance(mark, Line | Bars):
        if which == "x":
            yield from mark.x
            return
        base = getattr(mark, "base", None) or [0.0] * len(mark.y)
        yield from ([b + y for b, y in zip(base, mark.y, strict=True)] if isinstance(mark, Bars) else mark.y)
        yield from base if isinstance(mark, Bars) else ()
        yield from (mark.low or ())
        yield from (mark.high or ())
    elif isinstance(mark, HeatMap):
        yield from getattr(mark, which)
    elif isinstance(mark, Frame):
        yield from (side + 0.5 if at == 0 else side - 0.5 for at, side in enumerate(sorted(getattr(mark, which))))
    elif isinstance(mark, Level) and mark.axis == which:
        yield mark.at


def _levels(low: Number, high: Number, *, log: bool) -> list[float]:
    """Round levels around [low, high], about five; of logarithms, whole ones."""
    room = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(room / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if room / (step * factor) <= 6)
    step = max(1.0, float(math.ceil(step))) if log else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
