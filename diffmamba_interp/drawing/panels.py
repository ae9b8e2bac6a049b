"""A figure as data: what is drawn, where, in which colours and under which names, before anything draws it.

`Drawing` holds panels, `Panel` holds marks: lines with their intervals, bars, heat maps, frames, levels. All panels
share the axes' titles and scales and one legend, in which every name stands once. All text is plain text: what draws it
escapes it. A line feed breaks a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from diffmamba_interp.drawing.colours import SIGNED, Scale, Style, signed_root

Number = float | int

Place = Number | str
"""A number on the axis, or a category; categories stand at equal distances in the order in which they are met."""

Point = tuple[Number, Number, Number]
"""A value and its interval: value, low, high."""

AxisKind = Literal["linear", "log", "category"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A value at each place, with its interval.

    name: for the legend; lines of one name have one entry, and "" has none. y: NaN leaves a gap. low, high: None for
    no interval. interval: a band along the line, or bars at the places. joined: whether neighbouring places are
    joined. markers: whether places are marked. hollow: which markers are not filled. notes: what else is said about
    each place when it is pointed at. quiet: nothing is said then.
    """

    name: str
    x: Sequence[Place]
    y: Sequence[Number]
    style: Style
    low: Sequence[Number] | None = None
    high: Sequence[Number] | None = None
    interval: Literal["band", "bars"] = "band"
    joined: bool = True
    markers: bool = True
    hollow: Sequence[bool] | None = None
    width: Number = 2.0
    opacity: float = 1.0
    notes: Sequence[str] | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"{self.name} has {len(self.y)} points, but there are {len(self.x)} places for them.")

    @classmethod
    def of_points(cls, name: str, x: Sequence[Place], points: Sequence[Point], style: Style, **more: Any) -> Line:
        """From (value, low, high) at each place."""
        y, low, high = ([float(point[side]) for point in points] for side in range(3))
        return cls(name=name, x=x, y=y, low=low, high=high, style=style, **more)


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A bar at each place, from `base` to `base + y`.

    name: for the legend, "" for no entry. colours: of each bar. base: None for 0. low, high: ends of an interval.
    text: written in the bars. notes: what pointing at a bar says beside its height.
    """

    name: str
    x: Sequence[Place]
    y: Sequence[Number]
    colours: Sequence[str]
    base: Sequence[Number] | None = None
    low: Sequence[Number] | None = None
    high: Sequence[Number] | None = None
    text: Sequence[str] | None = None
    notes: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Cells coloured by the drawing's scale; NaN is left empty.

    values: the first row stands at the first y. x, y: the middle of each column and row; categories where they are
    text. text: written in the cells. notes: what pointing at a cell says; None for its places and its value, under
    `name`. verb: what a row does to a column, told between the axes' names of the two: of many cells a note each takes
    longer to send and to draw than the picture.
    """

    values: Float[np.ndarray, "row column"]
    x: Sequence[Place]
    y: Sequence[Place]
    text: Sequence[Sequence[str]] | None = None
    notes: Sequence[Sequence[str]] | None = None
    verb: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A rectangle around a part of the panel, in its coordinates. name: for the legend."""

    name: str
    x: tuple[Number, Number]
    y: tuple[Number, Number]
    colour: str
    width: Number = 2.0


@dataclass(frozen=True, kw_only=True)
class Level:
    """A straight line across the panel, where `axis` has the value `at`."""

    at: Number
    colour: str
    axis: Literal["x", "y"] = "y"
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Unseen points to point at or to click; `data` is what a click tells. Nothing in a static picture."""

    x: Sequence[Place]
    y: Sequence[Place]
    data: Sequence[Sequence[Any]]
    labels: Sequence[str]


Mark = Line | Bars | HeatMap | Frame | Level | Targets


@dataclass(frozen=True, kw_only=True)
class Panel:
    """title: above it. ticks: of its own x axis; None for those of the drawing."""

    marks: Sequence[Mark]
    title: str = ""
    ticks: Mapping[Place, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Axis:
    """ticks: label by place; None lets the renderer choose. limits: first and last; None fits what is drawn.

    backwards: the first place stands at the top of a y axis, or on the right of an x axis. upright: labels are turned,
    to be read from below. names: of places, given to a tenth, told when a cell there is pointed at.
    """

    title: str = ""
    kind: AxisKind = "linear"
    ticks: Mapping[Place, str] | None = None
    limits: tuple[Number, Number] | None = None
    backwards: bool = False
    upright: bool = False
    names: Mapping[Number, str] | None = None


@dataclass(frozen=True, kw_only=True)
class ColourScale:
    """Of all heat maps of a drawing. title: what the colour is, with its unit. low, high: where it begins and ends.

    ticks: label by value; None lets the renderer choose. rooted: whether colours follow the root of a value's size, by
    which small ones are seen and large ones told apart: a quarter of the end has half of its colour.
    """

    title: str
    low: Number
    high: Number
    colours: Scale = SIGNED
    ticks: Mapping[Number, str] | None = None
    rooted: bool = False

    def share(self, value: Number) -> float:
        """How far along the scale's colours a value lies, 0 to 1 between its ends."""
        low, value, high = map(signed_root if self.rooted else float, (self.low, value, self.high))
        return (value - low) / (high - low)

    def value_at(self, share: float) -> float:
        """The inverse of `share`."""
        if not self.rooted:
            return self.low + share * (self.high - self.low)
        low, high = signed_root(self.low), signed_root(self.high)
        root = low + share * (high - low)
        return root * abs(root)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure. subtitle: below the title, smaller. note: below the panels, in static pictures.

    columns: panels side by side. panel_size: width and height of one in a static picture, pixels. shared_y: whether
    the panels of a line have one y axis. has_legend: whether names are told outside the panels.
    """

    panels: Sequence[Panel]
    title: str = ""
    subtitle: str = ""
    x: Axis = field(default_factory=Axis)
    y: Axis = field(default_factory=Axis)
    scale: ColourScale | None = None
    columns: int = 3
    panel_size: tuple[Number, Number] = (300.0, 196.0)
    shared_y: bool = True
    has_legend: bool = True
    note: str = ""

    def marks(self, kind: type | tuple[type, ...] = object) -> Iterator[Any]:
        """All marks of a kind, panel by panel."""
        return (mark for panel in self.panels for mark in panel.marks if isinstance(mark, kind))

    @property
    def legend(self) -> dict[str, Line | Bars | Frame]:
        """The first mark of each name, in the order in which names are met."""
        entries: dict[str, Line | Bars | Frame] = {}
        for mark in self.marks((Line, Bars, Frame)):
            if mark.name:
                entries.setdefault(mark.name, mark)
        return entries if self.has_legend else {}


def minus(model: str, baseline: str) -> str:
    """What a difference is called everywhere: model − baseline."""
    return f"{model} − {baseline}"


LEAST_END = 0.05
"""Where the scale of a difference ends at least, whatever its unit (a probability, nats, a logit, a share): what is far
smaller stays pale instead of looking like much."""


def symmetric(
    title: str, values: Sequence[np.ndarray], quantile: float = 1.0, *, least: float = 0.0, **more: Any
) -> ColourScale:
    """A signed scale around 0 that ends at a quantile of the values' non-zero magnitudes, and not before `least`."""
    end = max(scale_end(values, quantile), least)
    return ColourScale(title=title, low=-end, high=end, **more)


def scale_end(values: Sequence[np.ndarray], quantile: float = 1.0) -> float:
    """A quantile of the non-zero finite magnitudes; 1 if there are none."""
    sizes = np.concatenate([np.abs(value[np.isfinite(value)]).ravel() for value in values])
    sizes = sizes[sizes > 0]
    return float(np.quantile(sizes, quantile)) if sizes.size else 1.0


def runs(values: Sequence[Number]) -> list[list[int]]:
    """Stretches of neighbouring places whose value is finite."""
    stretches: list[list[int]] = [[]]
    for index, value in enumerate(values):
        if math.isfinite(value):
            stretches[-1].append(index)
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def ticks_at(labels: Sequence[str], *, at_most: int, first: int = 0) -> dict[Place, str]:
    """Labels at first, first + 1, ..., of which every 1st, 2nd, 5th, 10th, ... is shown."""
    fits = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(step for step in fits if step * at_most >= len(labels))
    return {float(first + place): labels[place] for place in range(0, len(labels), step)}
