"""Drawings that hold every kind of mark, for the tests of what draws them."""

import numpy as np

from diffmamba_interp.drawing.colours import Style
from diffmamba_interp.drawing.panels import (
    Axis,
    Bars,
    ColourScale,
    Drawing,
    Frame,
    HeatMap,
    Level,
    Line,
    Panel,
    Targets,
)

NAN = float("nan")
RED, BLUE = Style(colour="#D55E00", dash="dash", symbol="square"), Style(colour="#0072B2")


def line(*values: float, name: str = "a", half: float = 0.1, style: Style = BLUE, **more) -> Line:
    x = [str(number) for number in range(len(values))]
    return Line.of_points(name, x, [(value, value - half, value + half) for value in values], style, **more)


def curves(*panels: list, **more) -> Drawing:
    made = {"x": Axis(title="x axis", kind="category"), "y": Axis(title="y axis"), **more}
    return Drawing(panels=[Panel(title=f"panel {n}", marks=marks) for n, marks in enumerate(panels)], **made)


def heat_map(**more) -> Drawing:
    cells = HeatMap(
        values=np.array([[-1.0, 0.0, 1.0], [0.5, NAN, 1.0]]),
        x=["l", "m", "r"],
        y=["up", "down"],
        text=[["minus", "zero", "plus"], ["half", "", "one"]],
    )
    return Drawing(
        panels=[Panel(marks=[cells, *more.pop("marks", [])])],
        x=Axis(title="source", kind="category"),
        y=Axis(title="destination", kind="category", backwards=True),
        scale=ColourScale(title="what\nit is", low=-1.0, high=1.0),
        **more,
    )


def everything() -> Drawing:
    """Every kind of mark at numbers, in two panels."""
    cells = HeatMap(values=np.eye(3), x=[0.0, 1.0, 2.0], y=[0.0, 1.0, 2.0])
    marks = [
        cells,
        Frame(name="frame", x=(-0.5, 0.5), y=(-0.5, 2.5), colour="#E69F00", width=3.0),
        Frame(name="under", x=(0.5, 1.5), y=(-0.5, 2.5), colour="#CC79A7"),
        Level(at=1.0, colour="#666666", axis="x", dashed=True),
        Targets(x=[1.0], y=[1.0], data=[(7, "seven")], labels=["<seven>"]),
    ]
    bars = Bars(
        name="bar", x=[0.0, 1.0], y=[1.0, -1.0], colours=["#111111", "#222222"], low=[0.5, -2.0], high=[2.0, 0.0]
    )
    return Drawing(
        panels=[Panel(title="one", marks=marks), Panel(title="two", marks=[bars, Level(at=0.0, colour="#666666")])],
        scale=ColourScale(title="value", low=0.0, high=1.0),
        title="T <&>",
        subtitle="below",
        note="a note",
        shared_y=False,
    )
