"""A `Drawing` as a small SVG file, for pages that are read where no script runs. The same drawing gives the same bytes.

`to_svg` lays out the figure, `_Plot` draws one panel, where `coordinates` says; the rest are shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from diffmamba_interp.drawing.colours import colour_at, text_on
from diffmamba_interp.drawing.coordinates import Coordinates, x_coordinates, y_coordinates
from diffmamba_interp.drawing.panels import (
    Bars,
    ColourScale,
    Drawing,
    Frame,
    HeatMap,
    Level,
    Line,
    Number,
    Panel,
    Place,
    runs,
)

GAP, TITLE_HEIGHT, PANEL_HEAD, LEGEND_ROW, LETTER = 26, 26, 20, 18, 6.6
BAND_OPACITY = 0.18
SMALLEST_SHARE = 0.06
"""Of the panel's height: text is not written in a bar that is lower."""

LEAST_SIZE = 0.05
"""Pixels; a bar that is lower is not seen."""

_DASHES = {"solid": "", "dash": ' stroke-dasharray="6 4"', "dot": ' stroke-dasharray="2 3"',
           "dashdot": ' stroke-dasharray="6 3 2 3"'}  # fmt: skip


def to_svg(drawing: Drawing) -> str:
    """The figure as text. Raises ValueError if there is nothing finite to draw."""
    (width, height), n_columns = drawing.panel_size, min(drawing.columns, len(drawing.panels))
    y_axes = y_coordinates(drawing)
    left = _left(drawing, y_axes)
    step = width + (GAP if drawing.shared_y else left)
    right = left + n_columns * step - (step - width)
    whole = right + (90 if drawing.scale else 16)
    legend, top = _legend(drawing, left, whole)
    x_axes = [x_coordinates(drawing, panel) for panel in drawing.panels]
    row_height = PANEL_HEAD + height + _foot(drawing, x_axes)
    n_rows = math.ceil(len(drawing.panels) / n_columns)
    bottom = top + n_rows * row_height
    parts = [_text(left if drawing.legend else 10, 18, drawing.title, 'font-size="14"'), *legend]
    for number, panel in enumerate(drawing.panels):
        row, column = divmod(number, n_columns)
        plot = _Plot(
            x=x_axes[number].on(left + column * step, left + column * step + width),
            y=y_axes[number].on(top + row * row_height + PANEL_HEAD + height, top + row * row_height + PANEL_HEAD),
            drawing=drawing,
        )
        parts += plot.drawn(panel, has_labels=column == 0 or not drawing.shared_y)
    if drawing.scale:
        parts += _colour_bar(drawing.scale, right + 16, top + PANEL_HEAD, height)
    middle = (top + bottom - row_height + PANEL_HEAD + height) / 2
    lines = [text for text in (drawing.x.title, drawing.note, drawing.subtitle) if text]
    parts += [_text(left if at else (left + right) / 2, bottom + 16 + 18 * at, text, "" if at else _MIDDLE)
              for at, text in enumerate(lines, start=0 if drawing.x.title else 1)]  # fmt: skip
    if drawing.y.title:
        turned = f'transform="translate(14 {_short(middle)}) rotate(-90)" {_MIDDLE}'
        parts.append(f"<text {turned}>{_escaped(drawing.y.title)}</text>")
    size = f"{_short(whole)} {_short(bottom + 10 + 18 * (len(lines) + (not drawing.x.title and bool(lines))))}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *filter(None, parts), "</svg>"]) + "\n"


_MIDDLE, _END = 'text-anchor="middle"', 'text-anchor="end"'


# ---------------------------------------------------------------- one panel


@dataclass(frozen=True, kw_only=True)
class _Plot:
    """Where a panel is drawn."""

    x: Coordinates
    y: Coordinates
    drawing: Drawing

    def drawn(self, panel: Panel, *, has_labels: bool) -> list[str]:
        heat_maps = [mark for mark in panel.marks if isinstance(mark, HeatMap)]
        top = min(self.y.start, self.y.end)
        parts = [_text((self.x.start + self.x.end) / 2, top - 8, panel.title, _MIDDLE)]
        parts += [] if heat_maps else self.grid()
        parts += self.x_labels() + (self.y_labels() if has_labels else [])
        frames = [mark for mark in panel.marks if isinstance(mark, Frame)]
        others = [mark for mark in panel.marks if not isinstance(mark, Frame)]
        # The first frame lies on top of the others.
        for mark in [*others, *reversed(frames)]:
            if isinstance(mark, HeatMap):
                parts += self.heat_map(mark)
            elif isinstance(mark, Bars):
                parts += self.bars(mark)
            elif isinstance(mark, Line):
                parts += self.line(mark)
            elif isinstance(mark, Level):
                parts.append(self.level(mark))
            elif isinstance(mark, Frame):
                parts.append(self.frame(mark))
        return parts

    def grid(self) -> list[str]:
        width = _short(self.x.end - self.x.start)
        lines = [f"M{_short(self.x.start)},{_short(self.pixel(level))}h{width}" for level in self.y.ticks]
        return [f'<path d="{"".join(lines)}" stroke="#ddd"/>']

    def pixel(self, level: Number) -> float:
        """Of a number that is counted along the y axis."""
        return self.y(10**level if self.y.log else self.y.categories[int(level)] if self.y.categories else level)

    def y_labels(self) -> list[str]:
        texts = [_text(self.x.start - 6, self.pixel(at) + 4, label) for at, label in self.y.ticks.items()]
        return _group(_END, texts)

    def x_labels(self) -> list[str]:
        """As many as have room, from the first."""
        bottom, upright = max(self.y.start, self.y.end), self.drawing.x.upright
        widest = 14 if upright else 12 + LETTER * max(map(len, self.x.ticks.values()), default=1)
        room = abs(self.x.end - self.x.start) / (self.x.high - self.x.low + (1 if self.x.pad else 0))
        places = sorted(self.x.ticks)
        apart = min((b - a for a, b in zip(places, places[1:], strict=False)), default=1.0) * room
        every = max(1, math.ceil(widest / apart))
        parts = []
        for at in places[::every]:
            x = self.x(self.x.categories[int(at)] if self.x.categories else at)
            if upright:
                turned = f'transform="translate({_short(x + 4)} {_short(bottom + 8)}) rotate(-90)"'
                parts.append(f"<text {turned}>{_escaped(self.x.ticks[at])}</text>")
            else:
                parts.append(_text(x, bottom + 18, self.x.ticks[at]))
        return _group(_END if upright else _MIDDLE, parts)

    def line(self, line: Line) -> list[str]:
        """Interval, line and markers; a stretch without values is a gap."""
        colour, n = line.style.colour, len(line.x)
        faint = f' opacity="{line.opacity:g}"' if line.opacity < 1 else ""
        parts = []
        known = [math.isfinite(value) for value in map(self.y.number, line.y)]
        points = [(self.x(line.x[i]), self.y(line.y[i])) if known[i] else (0.0, 0.0) for i in range(n)]
        if line.low is not None and line.high is not None:
            ends = [self.y.number(a) + self.y.number(b) for a, b in zip(line.low, line.high, strict=True)]
            for run in runs([end if known[i] else math.nan for i, end in enumerate(ends)]):
                high = [(points[i][0], self.y(line.high[i])) for i in run]
                low = [(points[i][0], self.y(line.low[i])) for i in run]
                if line.interval == "band":
                    outline = _path([*high, *reversed(low)])
                    parts.append(f'<path d="{outline}" fill="{colour}" opacity="{BAND_OPACITY}"/>')
                else:
                    bars = [f"M{_point(a)}V{_short(b[1])}" for a, b in zip(high, low, strict=True)]
                    parts.append(f'<path d="{"".join(bars)}" stroke="{colour}"/>')
        for run in runs([0.0 if there and line.joined else math.nan for there in known]):
            parts.append(
                f'<path d="{_path([points[i] for i in run])}" fill="none" stroke="{colour}" '
                f'stroke-width="{line.width:g}"{_DASHES[line.style.dash]}{faint}/>'
            )
        if line.markers:
            hollow = line.hollow or [False] * n
            for is_hollow in (False, True):
                chosen = [points[i] for i in range(n) if known[i] and bool(hollow[i]) is is_hollow]
                parts.append(_markers(chosen, line.style.symbol, colour, is_hollow=is_hollow) if chosen else "")
        return parts

    def bars(self, bars: Bars) -> list[str]:
        step = abs(self.x.end - self.x.start) / (self.x.high - self.x.low)
        width, parts = max(0.86 * step, 1.0), []
        base = bars.base or [0.0] * len(bars.y)
        if bars.notes is bars.text is bars.low is None:
            return self.bare_bars(bars, base, width)
        for i, (place, value) in enumerate(zip(bars.x, bars.y, strict=True)):
            if not math.isfinite(value):
                continue
            x, ends = self.x(place), sorted((self.y(base[i]), self.y(base[i] + value)))
            size = ends[1] - ends[0]
            box = f'<rect x="{_short(x - width / 2)}" y="{_short(ends[0])}" width="{_short(width)}" '
            note = f"<title>{_escaped(bars.notes[i])}</title>" if bars.notes else ""
            parts.append(
                f'{box}height="{_short(size)}" fill="{bars.colours[i]}"' + (f">{note}</rect>" if note else "/>")
            )
            if bars.text is not None and size >= SMALLEST_SHARE * abs(self.y.end - self.y.start):
                look = f'{_MIDDLE} font-size="10" fill="{text_on(bars.colours[i])}"'
                parts.append(_text(x, ends[0] + size / 2 + 4, bars.text[i], look))
            if bars.low is not None and bars.high is not None and math.isfinite(bars.low[i] + bars.high[i]):
                ends_of = f"M{_short(x)},{_short(self.y(bars.high[i]))}V{_short(self.y(bars.low[i]))}"
                parts.append(f'<path d="{ends_of}" stroke="#222"/>')
        return parts

    def bare_bars(self, bars: Bars, base: Sequence[Number], width: Number) -> list[str]:
        """All bars of one colour as one path, without those that are too low to be seen."""
        paths: dict[str, str] = {}
        for place, value, foot, colour in zip(bars.x, bars.y, base, bars.colours, strict=True):
            if math.isfinite(value) and abs(self.y(foot) - self.y(foot + value)) >= LEAST_SIZE:
                path = f"M{_short(self.x(place))},{_short(self.y(foot))}V{_short(self.y(foot + value))}"
                paths[colour] = paths.get(colour, "") + path
        look = f'stroke-width="{_short(width)}"'
        return [f'<path d="{path}" stroke="{colour}" {look}/>' for colour, path in paths.items()]

    def heat_map(self, heat: HeatMap) -> list[str]:
        """Neighbouring cells of one colour in a row are one path."""
        assert self.drawing.scale is not None, "a heat map needs the drawing's scale"
        columns, rows = _edges(heat.x, self.x), _edges(heat.y, self.y)
        parts = []
        values = np.asarray(heat.values, dtype=float)
        for (top, bottom), row in zip(rows, values, strict=True):
            colours = [_ground(value, self.drawing.scale) for value in row]
            first = 0
            for last in range(1, len(colours) + 1):
                if last == len(colours) or colours[last] != colours[first]:
                    if colours[first]:
                        box = f"M{_short(columns[first][0])},{_short(top)}H{_short(columns[last - 1][1])}"
                        box += f"V{_short(bottom)}H{_short(columns[first][0])}"
                        parts.append(f'<path d="{box}" fill="{colours[first]}"/>')
                    first = last
        labels: list[str] = []
        if heat.text is not None:
            for (top, bottom), row, texts in zip(rows, values, heat.text, strict=True):
                for (left, right), value, text in zip(columns, row, texts, strict=True):
                    look = f'fill="{text_on(_ground(value, self.drawing.scale) or "#FFFFFF")}"'
                    labels.append(_text((left + right) / 2, (top + bottom) / 2 + 4, text, look))
        return parts + _group(f'{_MIDDLE} font-size="10"', labels)

    def level(self, level: Level) -> str:
        dashes = _DASHES["dot"] if level.dashed else ""
        if level.axis == "x":
            path = f"M{_short(self.x(level.at))},{_short(self.y.start)}V{_short(self.y.end)}"
        else:
            path = f"M{_short(self.x.start)},{_short(self.y(level.at))}H{_short(self.x.end)}"
        return f'<path d="{path}" stroke="{level.colour}"{dashes}/>'

    def frame(self, frame: Frame) -> str:
        (left, right), (top, bottom) = (
            sorted(map(axis, ends)) for axis, ends in ((self.x, frame.x), (self.y, frame.y))
        )
        box = f"M{_short(left)},{_short(top)}H{_short(right)}V{_short(bottom)}H{_short(left)}z"
        return f'<path d="{box}" fill="none" stroke="{frame.colour}" stroke-width="{frame.width:g}"/>'


# ---------------------------------------------------------------- around the panels


def _left(drawing: Drawing, y_axes: Sequence[Coordinates]) -> float:
    widest = max((len(label) for axis in y_axes for label in axis.ticks.values()), default=1)
    return 16 + LETTER * widest + (20 if drawing.y.title else 0)


def _foot(drawing: Drawing, x_axes: Sequence[Coordinates]) -> float:
    """Room below a panel for the labels of its x axis."""
    if not drawing.x.upright:
        return 30.0
    return 16 + LETTER * max((len(label) for axis in x_axes for label in axis.ticks.values()), default=1)


def _legend(drawing: Drawing, left: Number, width: Number) -> tuple[list[str], float]:
    """Its entries, as many to a line as have room, and where the panels begin."""
    parts, x, y = [], left, TITLE_HEIGHT + 10.0
    for name, mark in drawing.legend.items():
        needed = 54 + LETTER * len(name)
        if x > left and x + needed > width:
            x, y = left, y + LEGEND_ROW
        if isinstance(mark, Line):
            look = f'stroke="{mark.style.colour}" stroke-width="{mark.width:g}"{_DASHES[mark.style.dash]}'
            parts.append(f'<path d="M{_short(x)},{_short(y)}h26" {look}/>')
            if mark.markers:
                parts.append(_markers([(x + 13, y)], mark.style.symbol, mark.style.colour))
        else:
            colour = mark.colour if isinstance(mark, Frame) else mark.colours[0]
            parts.append(f'<rect x="{_short(x + 8)}" y="{_short(y - 6)}" width="11" height="11" fill="{colour}"/>')
        parts.append(_text(x + 32, y + 4, name))
        x += needed
    return parts, y + 10 if parts else float(TITLE_HEIGHT)


def _colour_bar(scale: ColourScale, left: Number, top: Number, height: Number) -> list[str]:
    n = 2 * len(scale.colours)
    parts = [_text(left, top - 8 - 13 * (scale.title.count("\n") - at), line, 'font-size="10"')
             for at, line in enumerate(scale.title.split("\n"))]  # fmt: skip
    for number in range(n):
        y, colour = top + height * (1 - (number + 1) / n), colour_at(scale.colours, number / (n - 1))
        box = f"M{_short(left)},{_short(y)}h12v{_short(height / n + 0.5)}h-12"
        parts.append(f'<path d="{box}" fill="{colour}"/>')
    ticks = scale.ticks or {v: f"{v:.3g}" for v in (scale.low, (scale.low + scale.high) / 2, scale.high)}
    labels = [_text(left + 16, top + height * (1 - scale.share(value)) + 4, label) for value, label in ticks.items()]
    return parts + _group('font-size="10"', labels)


# ---------------------------------------------------------------- shapes


def _markers(points: Sequence[tuple[Number, Number]], symbol: str, colour: str, *, is_hollow: bool = False) -> str:
    """All markers of one look as one path: a dot is a line of no length, with ends that are round or square."""
    if symbol in ("circle", "square") and not is_hollow:
        cap, size = ("round", 6) if symbol == "circle" else ("square", 5)
        path = _path(points, after="h0m")
        return f'<path d="{path}" stroke="{colour}" stroke-width="{size}" stroke-linecap="{cap}"/>'
    outline = {
        "circle": "m-3,0a3,3 0 1 0 6,0a3,3 0 1 0-6,0",
        "square": "m-3-3h6v6h-6z",
        "diamond": "m-4,0l4-4 4 4-4 4z",
        "x": "m-3-3l6 6m0-6l-6 6",
    }[symbol]
    path = "".join(f"M{_point(point)}{outline}" for point in points)
    fill = "white" if is_hollow else colour
    return f'<path d="{path}" fill="{fill}" stroke="{colour}"{_WIDE if symbol == "x" and not is_hollow else ""}/>'


_WIDE = ' stroke-width="2"'


def _ground(value: Number, scale: ColourScale) -> str:
    """A cell's colour; none for NaN."""
    return colour_at(scale.colours, scale.share(value)) if math.isfinite(value) else ""


def _edges(places: Sequence[Place], axis: Coordinates) -> list[tuple[Number, Number]]:
    """First and last pixel of each cell, which reaches half the way to its neighbours."""
    numbers = [axis.number(place) for place in places]
    half = abs(numbers[1] - numbers[0]) / 2 if len(numbers) > 1 else 0.5
    scale = (axis.end - axis.start) / (axis.high - axis.low)
    pixels = [[axis.start + scale * (min(max(n + side, axis.low), axis.high) - axis.low) for side in (-half, half)]
              for n in numbers]  # fmt: skip
    return [(min(pair), max(pair)) for pair in pixels]


def _path(points: Sequence[tuple[Number, Number]], after: str = "") -> str:
    """From point to point, each told from the one before, which takes fewer digits. after: what is drawn at each of
    them, up to the letter that leads on; "": a line through all."""
    at = [(round(10 * x), round(10 * y)) for x, y in points]
    steps = [_pair(x - before_x, y - before_y) for (x, y), (before_x, before_y) in zip(at[1:], at, strict=False)]
    start = f"M{_pair(*at[0])}"
    if after:
        return after.join([start, *steps]) + after[:-1]
    return f"{start}l{' '.join(steps)}" if steps else start


def _pair(x: int, y: int) -> str:
    """Two numbers given in tenths; a sign parts them as well as a comma does."""
    first, second = (_short(tenths / 10).replace("0.", "." if -10 < tenths < 10 else "0.") for tenths in (x, y))
    return f"{first}{second}" if second.startswith("-") else f"{first},{second}"


def _point(point: tuple[Number, Number]) -> str:
    return f"{_short(point[0])},{_short(point[1])}"


def _text(x: Number, y: Number, text: str, look: str = "") -> str:
    if not text:
        return ""
    return f'<text x="{_short(x)}" y="{_short(y)}"{" " if look else ""}{look}>{_escaped(text)}</text>'


def _group(look: str, texts: Sequence[str]) -> list[str]:
    """Texts that look alike."""
    return [f"<g {look}>", *filter(None, texts), "</g>"] if any(texts) else []


def _escaped(text: str) -> str:
    """As XML, which has no place for control characters."""
    return escape("".join(character if character.isprintable() else " " for character in text))


def _short(pixels: Number) -> str:
    """To a tenth of a pixel, without a fraction where there is none."""
    return f"{pixels:.1f}".removesuffix(".0")
