"""One look and one short name for each model, branch, span, lens and state, on every page and in every figure.

Okabe and Ito's colours and Tol's muted ones stay apart for every kind of colour vision; dashes and markers tell lines
apart in grey. The colours of models are of models alone. Colour scales are lists of colours at equal distances. All
are those of a light ground; `on_dark` gives each its place on a dark one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Dash = Literal["solid", "dash", "dot", "dashdot"]
Symbol = Literal["circle", "square", "diamond", "x"]

DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")
SYMBOLS: tuple[Symbol, ...] = ("circle", "square", "diamond", "x")


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a line is drawn; of bars and frames, the colour."""

    colour: str
    dash: Dash = "solid"
    symbol: Symbol = "circle"


MODELS = {
    "mamba2": Style(colour="#0072B2"),
    "diff-mamba2": Style(colour="#D55E00", dash="dash", symbol="square"),
}
"""The bundled pair. Other models choose among `OTHER_MODELS` by their name."""

OTHER_MODELS = (
    Style(colour="#56B4E9", dash="dot", symbol="diamond"),
    Style(colour="#882255", dash="dashdot", symbol="x"),
    Style(colour="#332288", dash="solid", symbol="diamond"),
    Style(colour="#9933FF", dash="dash", symbol="circle"),
)

BRANCHES = {
    "net": Style(colour="#222222"),
    "difference": Style(colour="#222222"),
    "weights": Style(colour="#222222"),
    "minuend": Style(colour="#44AA99", dash="dot", symbol="diamond"),
    "subtrahend": Style(colour="#999933", dash="dashdot", symbol="x"),
    "lambda_subtrahend": Style(colour="#999933", dash="dashdot", symbol="x"),
}

SPANS = {
    "needle": Style(colour="#E69F00"),
    "question": Style(colour="#009E73", dash="dot", symbol="diamond"),
    "distractors": Style(colour="#CC79A7", dash="dashdot", symbol="x"),
    "filler": Style(colour="#7F7F7F", dash="dash", symbol="square"),
    "noise": Style(colour="#7F7F7F", dash="dash", symbol="square"),
    "other": Style(colour="#E5E5E5"),
}
"""noise: distractors and filler together."""

LENSES = {
    "tuned": Style(colour="#117733"),
    "logit": Style(colour="#AA4499", dash="dash", symbol="square"),
    "jacobian": Style(colour="#661100", dash="dot", symbol="diamond"),
}

STATES = {
    "before": Style(colour="#666666", dash="dash", symbol="square"),
    "after": Style(colour="#117733"),
}

SERIES = (
    Style(colour="#117733"),
    Style(colour="#AA4499", dash="dash", symbol="square"),
    Style(colour="#44AA99", dash="dot", symbol="diamond"),
    Style(colour="#999933", dash="dashdot", symbol="x"),
)
"""For what has no look of its own: groups of prompts or of blocks, doses."""

NAMES = {
    "net": "written",
    "subtrahend": "subtrahend (without λ)",
    "lambda_subtrahend": "λ · subtrahend",
    "noise": "distractors and filler",
}
"""Short names of what is not called in figures as it is in code."""

LIGHT_GROUND, DARK_GROUND = "#FFFFFF", "#171614"
"""Of the explorer's pages in both themes."""

LEAST_CONTRAST = 3.0
"""Of a line and its ground, as the accessibility guidelines ask it of pictures (WCAG 2.2, 1.4.11)."""

GREY = "#666666"
"""Of lines to compare with: zero, chance, where something started."""

Scale = tuple[str, ...]

SIGNED: Scale = (
    "#053061", "#2166AC", "#4393C3", "#92C5DE", "#D1E5F0", "#F7F7F7", "#FDDBC7", "#F4A582", "#D6604D", "#B2182B",
    "#67001F",
)  # fmt: skip
"""Blue below 0, red above, white at 0: of a difference, red where the model has more than its baseline."""

SIGNED_ON_DARK: Scale = (
    "#C6E2F6", "#8FC2EB", "#5B9FD8", "#3A78B0", "#294D6E", "#1F1F1F", "#6E302C", "#AE4740", "#DB6A55", "#F29C80",
    "#FBD3C2",
)  # fmt: skip
"""`SIGNED` where the page is dark: 0 is as dark as the page."""

MAGNITUDE: Scale = (
    "#00224E", "#123570", "#3B496C", "#575D6D", "#707173", "#8A8678", "#A59C74", "#C3B369", "#E1CC55", "#FEE838",
)  # fmt: skip
"""Cividis, for values that are never negative."""

DEPTH: Scale = (
    "#440154", "#482878", "#3E4989", "#31688E", "#26828E", "#1F9E89", "#35B779", "#6ECE58", "#B5DE2B", "#FDE725",
)  # fmt: skip
"""Viridis: probabilities, and blocks where there are more of them than styles."""

NEGATIVE, POSITIVE = SIGNED[1], SIGNED[-2]
"""Colours of bars below and above 0."""


def short_name(name: str) -> str:
    """What figures call it; of a bundled model, its name alone."""
    return NAMES.get(name, name.removeprefix("bundled:"))


def model_styles(names: Iterable[str]) -> dict[str, Style]:
    """A look for each model, different ones for up to four models beside the bundled pair.

    A model keeps its look from one figure to the next: its name chooses it. Where two names choose the same one, the
    later takes the next that is free. A model before and after a change has the looks of the two states.
    """
    styles: dict[str, Style] = {}
    known = MODELS | STATES
    for name in dict.fromkeys(names):
        start = zlib.crc32(name.encode()) % len(OTHER_MODELS)
        choice = [*OTHER_MODELS[start:], *OTHER_MODELS[:start]]
        free = [style for style in choice if style not in styles.values()]
        styles[name] = known.get(short_name(name)) or (free or choice)[0]
    return styles


def series_styles(names: Iterable[str]) -> dict[str, Style]:
    """A look for each name: that of what it names, else one of `SERIES`, or a colour by depth where they are many."""
    names = list(dict.fromkeys(names))
    known = MODELS | BRANCHES | SPANS | LENSES | STATES
    others = [name for name in names if name not in known]
    styles = {name: known[name] for name in names if name in known}
    for number, name in enumerate(others):
        style = SERIES[number % len(SERIES)]
        if len(others) > len(SERIES):
            style = replace(style, colour=colour_at(DEPTH, number / (len(others) - 1)))
        styles[name] = style
    return styles


def signed_root(value: float) -> float:
    """Where a value stands on a scale that spreads the small ones: the root of its size, with its sign."""
    return math.copysign(abs(value) ** 0.5, value)


def colour_at(scale: Scale, share: float) -> str:
    """The colour at a share of the scale's length; beyond its ends, those of the ends."""
    place = min(max(share, 0.0), 1.0) * (len(scale) - 1)
    below = min(int(place), len(scale) - 2)
    part = place - below
    pairs = zip(_channels(scale[below]), _channels(scale[below + 1]), strict=True)
    return "#" + "".join(f"{round(low + (high - low) * part):02X}" for low, high in pairs)


def contrast(colour: str, other: str) -> float:
    """The ratio of two colours' luminances, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    darker, brighter = sorted(map(_luminance, (colour, other)))
    return (brighter + 0.05) / (darker + 0.05)


def on_dark(colour: str) -> str:
    """The colour that takes another's place on the dark ground: itself where it can be seen, else brighter.

    The further it lies below `LEAST_CONTRAST` the further above it is put, so that colours that differ in brightness
    still do; what is nearly black, which stands out most on a light ground, becomes nearly white.
    """
    lacking = LEAST_CONTRAST - contrast(colour, DARK_GROUND)
    if lacking <= 0:
        return colour
    if max(_channels(colour)) < 0x40:
        return "#EEEEEE"
    mixed = (colour_at((colour, "#FFFFFF"), step / 20) for step in range(21))
    return next(bright for bright in mixed if contrast(bright, DARK_GROUND) >= LEAST_CONTRAST + 2 * lacking)


INKS = ("#FFFFFF", "#000000")
"""On every colour one of them has a contrast of 4.5, which text needs: their own is 21, and its root 4.58."""


def text_on(ground: str) -> str:
    """The colour of text that is read best on a ground."""
    return max(INKS, key=lambda ink: contrast(ink, ground))


def faded(colour: str, opacity: float) -> str:
    """As CSS has it."""
    return f"rgba({', '.join(map(str, _channels(colour)))}, {opacity})"


def _luminance(colour: str) -> float:
    """Relative luminance, 0 to 1, of an sRGB colour (WCAG 2.2)."""
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> Sequence[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
