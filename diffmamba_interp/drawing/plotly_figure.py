"""A `Drawing` as a Plotly figure, to be looked at closely: pointing at a mark shows its numbers."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import plotly.graph_objects as go

from diffmamba_interp.drawing.colours import INKS, LIGHT_GROUND, Scale, colour_at, faded, text_on
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
    Place,
    Targets,
    runs,
)

PANEL_GAP = 0.03
"""Space between two panels, as a share of the figure's plotting width."""

TITLE_ROOM = 0.16
"""Space for the titles of a further row of panels, as a share of the figure's plotting height."""

LETTER_WIDTH = 6.5
"""Of a tick's label, pixels; most letters are narrower."""

BAND_OPACITY = 0.18

WORDS = "words on cells"
"""By this `meta` the traces of `inked` are known."""

KEPT_HERE = {"showSendToCloud": False, "plotlyServerURL": ""}
"""Configuration of a figure in a file of HTML: without the button that sends it to Plotly's own service."""

_Arguments = ParamSpec("_Arguments")
Trace = dict[str, Any]


def as_plotly(draw: Callable[_Arguments, Drawing]) -> Callable[_Arguments, go.Figure]:
    """The function that returns as a Plotly figure what `draw` returns as a drawing."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> go.Figure:
        return to_plotly(draw(*arguments, **options))

    return drawn


def to_plotly(drawing: Drawing) -> go.Figure:
    """One figure with all panels; every text is shown as the characters that it has."""
    traces: list[Trace] = []
    layout: dict[str, Any] = {
        "title": {"text": _title(drawing)},
        "annotations": [],
        "shapes": [],
        "showlegend": bool(drawing.legend),
        "legend": {"orientation": "h", "y": -0.3} if len(drawing.panels) == 1 else _ABOVE_THE_TITLE,
        "bargap": 0.1,
        "barmode": "overlay",
    }
    if any(drawing.marks(Targets)):
        # Without a limit to the distance, the nearest target is that of the cell under the pointer.
        layout["hoverdistance"] = -1
    if drawing.scale is not None:
        layout["coloraxis"] = _colour_axis(drawing.scale)
        layout["legend"] = _ABOVE_THE_TITLE
        layout["margin"] = _margins(drawing)
    unnamed = set(drawing.legend)
    for number, panel in enumerate(drawing.panels):
        place = str(number + 1) if number else ""
        _add_axes(layout, drawing, panel, number, place)
        for mark in panel.marks:
            for trace in _traces(mark, drawing):
                name = trace.get("legendgroup")
                if trace.get("showlegend"):
                    trace["showlegend"] = name in unnamed
                    unnamed.discard(name)
                if isinstance(mark, Frame) and not trace["showlegend"]:
                    continue
                traces.append({**trace, "xaxis": f"x{place}", "yaxis": f"y{place}"})
        # The first frame lies on top of the others.
        layout["shapes"] += [_shape(mark, place) for mark in reversed(panel.marks) if isinstance(mark, Frame | Level)]
    # In one piece: adding shapes and axes one by one would check the whole figure again each time.
    return go.Figure({"data": traces, "layout": layout})


def plain(text: str) -> str:
    """Text for a Plotly label, shown as the characters that it has; a line feed breaks the line.

    Plotly reads a few HTML tags, entities, $...$ and, where something is pointed at, %{...}. It shows &quot; as it is;
    quotes are harmless in a label.
    """
    escaped = html.escape(text, quote=False).replace("$", "&#36;").replace("%{", "%&#123;")
    return escaped.replace("\n", "<br>")


_ABOVE_THE_TITLE = {
    "orientation": "h", "x": 0, "xref": "container", "xanchor": "left",
    "y": 0.99, "yref": "container", "yanchor": "top",
}  # fmt: skip
"""Hanging from the top edge, on the left: on the right are the buttons."""


def _title(drawing: Drawing) -> str:
    parts = [plain(drawing.title), f"<sub>{plain(drawing.subtitle)}</sub>" if drawing.subtitle else ""]
    return "<br>".join(part for part in parts if part)


# ---------------------------------------------------------------- axes


def _add_axes(layout: dict[str, Any], drawing: Drawing, panel: Panel, number: int, place: str) -> None:
    n_columns = min(drawing.columns, len(drawing.panels))
    n_rows = -(-len(drawing.panels) // n_columns)
    row, column = divmod(number, n_columns)
    gap = PANEL_GAP if drawing.shared_y else 3 * PANEL_GAP
    width, height = (1 - gap * (n_columns - 1)) / n_columns, (1 - TITLE_ROOM * (n_rows - 1)) / n_rows
    left, bottom = column * (width + gap), (n_rows - 1 - row) * (height + TITLE_ROOM)
    x = _axis(drawing.x, panel.ticks) | {"anchor": f"y{place}", "domain": [left, min(left + width, 1)]}
    y = _axis(drawing.y, None) | {"anchor": f"x{place}", "domain": [bottom, min(bottom + height, 1)]}
    if drawing.scale is not None:
        # The margins have room for all labels: Plotly need not measure each whenever it draws.
        x["ticklabeloverflow"] = y["ticklabeloverflow"] = "allow"
    if number + n_columns < len(drawing.panels):
        x["title"] = {}
    if number and drawing.shared_y:
        y |= {"matches": "y", "showticklabels": column == 0}
        y["title"] = y["title"] if column == 0 else {}
    layout[f"xaxis{place}"], layout[f"yaxis{place}"] = x, y
    if panel.title:
        layout["annotations"].append(
            {
                "text": plain(panel.title), "x": left + width / 2, "y": bottom + height, "xref": "paper",
                "yref": "paper", "xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": 16},
            }
        )  # fmt: skip


def _axis(axis: Axis, ticks: Mapping[Place, str] | None) -> dict[str, Any]:
    ticks = axis.ticks if ticks is None else ticks
    layout: dict[str, Any] = {"title": {"text": plain(axis.title)}}
    if axis.kind != "linear":
        layout["type"] = axis.kind
    if axis.kind == "log":
        layout["exponentformat"] = "power"
    if ticks is not None:
        layout |= {"tickmode": "array", "tickvals": list(ticks), "ticktext": [plain(label) for label in ticks.values()]}
    if axis.upright:
        layout["tickangle"] = 90
    if axis.names is not None:
        # Plotly looks a place up by its text.
        layout |= {"hoverformat": ".1f", "labelalias": {f"{at:.1f}": plain(name) for at, name in axis.names.items()}}
    if axis.limits is not None:
        limits = map(math.log10, axis.limits) if axis.kind == "log" else axis.limits
        layout["range"] = list(limits)[:: -1 if axis.backwards else 1]
    elif axis.backwards:
        layout["autorange"] = "reversed"
    return layout


def _colour_axis(scale: ColourScale) -> dict[str, Any]:
    bar: dict[str, Any] = {"title": {"text": plain(scale.title)}}
    if scale.ticks is not None:
        bar |= {"tickvals": list(scale.ticks), "ticktext": [plain(label) for label in scale.ticks.values()]}
    shares = [number / (len(scale.colours) - 1) for number in range(len(scale.colours))]
    if scale.rooted:
        shares = [round((scale.value_at(share) - scale.low) / (scale.high - scale.low), 6) for share in shares]
    return {
        "colorscale": [[share, colour] for share, colour in zip(shares, scale.colours, strict=True)],
        "cmin": scale.low,
        "cmax": scale.high,
        "colorbar": bar,
    }


def _margins(drawing: Drawing) -> dict[str, float]:
    """Room for a title of two lines, upright labels below, level ones on the left and the colour bar.

    Plotly would find the room itself, by drawing everything a second time: this makes up to a third of the time
    until a figure is seen. It still does where a label is wider than is thought here.
    """
    below, left = (max(map(len, (axis.ticks or {}).values()), default=0) for axis in (drawing.x, drawing.y))
    bottom = 44 + LETTER_WIDTH * below if drawing.x.upright else 60.0
    return {"t": 110.0, "b": bottom, "l": 48 + LETTER_WIDTH * left, "r": 125.0}


# ---------------------------------------------------------------- marks


def _traces(mark: Any, drawing: Drawing) -> list[Trace]:
    if isinstance(mark, Line):
        return [*_interval_traces(mark), _line_trace(mark)]
    if isinstance(mark, Bars):
        return [_bar_trace(mark)]
    if isinstance(mark, HeatMap):
        return [_heat_trace(mark, drawing), *_words_of(mark, drawing)]
    if isinstance(mark, Targets):
        return [_target_trace(mark)]
    if isinstance(mark, Frame):
        return [_swatch(mark)]
    return []


def _interval_traces(line: Line) -> list[Trace]:
    if line.interval == "bars" or line.low is None or line.high is None:
        return []
    x: list[Place | None] = []
    y: list[float | None] = []
    for run in runs([low + high for low, high in zip(line.low, line.high, strict=True)]):
        x += [*(line.x[i] for i in run), *(line.x[i] for i in reversed(run)), None]
        y += [*(line.high[i] for i in run), *(line.low[i] for i in reversed(run)), None]
    if not x:
        return []
    return [
        {
            "type": "scatter", "x": x[:-1], "y": y[:-1], "fill": "toself", "mode": "lines", "line": {"width": 0},
            "fillcolor": faded(line.style.colour, BAND_OPACITY), "hoverinfo": "skip", "showlegend": False,
            "legendgroup": line.name,
        }
    ]  # fmt: skip


def _line_trace(line: Line) -> Trace:
    hollow = line.hollow or [False] * len(line.x)
    symbols = [f"{line.style.symbol}-open" if open_ else line.style.symbol for open_ in hollow]
    trace: Trace = {
        "type": "scatter",
        "x": list(line.x),
        "y": [float(value) for value in line.y],
        "name": plain(line.name),
        "legendgroup": line.name,
        "showlegend": bool(line.name),
        "mode": "+".join(["lines"] * line.joined + ["markers"] * line.markers),
        "line": {"color": line.style.colour, "dash": line.style.dash, "width": line.width},
        **({"opacity": line.opacity} if line.opacity < 1 else {}),
    }
    if line.markers:
        trace["marker"] = {"symbol": symbols if any(hollow) else line.style.symbol, "size": 8}
    return trace | _ends(line) | ({"hoverinfo": "skip"} if line.quiet else _hover(line))


def _bar_trace(bars: Bars) -> Trace:
    trace: Trace = {
        "type": "bar",
        "x": list(bars.x),
        "y": [float(value) for value in bars.y],
        "marker": {"color": list(bars.colours)},
        "name": plain(bars.name),
        "legendgroup": bars.name,
        "showlegend": bool(bars.name),
    }
    if bars.base is not None:
        trace["base"] = list(bars.base)
    if bars.text is not None:
        inks = [text_on(colour) for colour in bars.colours]
        trace |= {"text": [plain(text) for text in bars.text], "textposition": "inside"}
        trace["insidetextfont"] = {"color": inks}
    return trace | _ends(bars) | _hover(bars)


def _ends(mark: Line | Bars) -> Trace:
    """The interval as bars of its own."""
    if mark.low is None or mark.high is None or getattr(mark, "interval", "bars") != "bars":
        return {}
    above = [high - value for high, value in zip(mark.high, mark.y, strict=True)]
    below = [value - low for low, value in zip(mark.low, mark.y, strict=True)]
    return {"error_y": {"type": "data", "symmetric": False, "array": above, "arrayminus": below}}


def _hover(mark: Line | Bars) -> Trace:
    """Place, value, interval and notes."""
    columns: list[Sequence[Any]] = []
    template = "%{x}: %{y:.4g}"
    if mark.low is not None and mark.high is not None:
        columns += [mark.low, mark.high]
        template += " [%{customdata[0]:.4g}, %{customdata[1]:.4g}]"
    if mark.notes is not None:
        template += f" %{{customdata[{len(columns)}]}}"
        columns.append([plain(note) for note in mark.notes])
    name = "<extra>%{fullData.name}</extra>" if mark.name else "<extra></extra>"
    data = {"customdata": [list(values) for values in zip(*columns, strict=True)]} if columns else {}
    return {"hovertemplate": template + name, **data}


def _heat_trace(heat: HeatMap, drawing: Drawing) -> Trace:
    trace: Trace = {"type": "heatmap", "z": heat.values, "coloraxis": "coloraxis"}
    for axis, places in (("x", heat.x), ("y", heat.y)):
        numbers = [place for place in places if not isinstance(place, str)]
        # Places of which nothing is said one by one are at equal distances: a large picture need not list them.
        evenly = heat.notes is None and not heat.verb and len(numbers) == len(places) > 1
        trace |= {f"{axis}0": numbers[0], f"d{axis}": numbers[1] - numbers[0]} if evenly else {axis: list(places)}
    if heat.text is not None:
        # Drawn by `inked`; here it stands for those who read the figure.
        trace["text"] = [[plain(label) for label in row] for row in heat.text]
    if any(drawing.marks(Targets)):
        return trace | {"hoverinfo": "skip"}
    if heat.notes is not None:
        notes = [[plain(note) for note in row] for row in heat.notes]
        return trace | {"customdata": notes, "hovertemplate": "%{customdata}<extra></extra>"}
    value = f"{plain(heat.name)}: %{{z:.4~g}}" if heat.name else "%{z:.4~g}"
    lines = [f"{plain(axis.title)} %{{{name}}}" for name, axis in (("x", drawing.x), ("y", drawing.y))]
    if heat.verb:
        lines = [f"%{{y}} {plain(heat.verb)} %{{x}}"]
    return trace | {"hovertemplate": "<br>".join([*lines, f"{value}<extra></extra>"])}


def _words_of(heat: HeatMap, drawing: Drawing) -> list[Trace]:
    """What stands in the cells."""
    if heat.text is None or drawing.scale is None:
        return []
    words = [
        (x, y, plain(text), float(value))
        for y, texts, row in zip(heat.y, heat.text, heat.values, strict=True)
        for x, text, value in zip(heat.x, texts, row, strict=True)
        if text
    ]
    scale = drawing.scale
    return inked(words, scale.colours, (float(scale.low), float(scale.high)))


def inked(
    words: Sequence[tuple[Place, Place, str, float]],
    colours: Scale,
    ends: tuple[float, float],
    ground: str = LIGHT_GROUND,
) -> list[Trace]:
    """Words on cells, a trace for each ink: of a heat map's own text Plotly chooses a grey that some colours swallow.

    words: x, y, text and value of each. colours: of the cells, between the `ends` of the scale. ground: the page's,
    which is seen in an empty cell. A trace's custom data are the values, from which the ink is chosen anew where the
    colours are others.
    """
    low, high = ends
    by_ink: dict[str, list[tuple[Place, Place, str, float]]] = {ink: [] for ink in INKS}
    for word in words:
        value = word[3]
        cell = colour_at(colours, (value - low) / (high - low)) if math.isfinite(value) else ground
        by_ink[text_on(cell)].append(word)
    traces = []
    for ink, own in by_ink.items():
        if own:
            x, y, text, values = (list(column) for column in zip(*own, strict=True))
            kept = {"textfont": {"color": ink}}  # whatever is clicked
            traces.append(
                {
                    "type": "scatter", "mode": "text", "x": x, "y": y, "text": text, "customdata": values,
                    "textfont": {"size": 10, "color": ink}, "selected": kept, "unselected": kept, "hoverinfo": "skip",
                    "showlegend": False, "meta": WORDS,
                }
            )  # fmt: skip
    return traces


def _target_trace(targets: Targets) -> Trace:
    unseen = {"marker": {"opacity": 0}}
    return {
        "type": "scatter", "mode": "markers", "x": list(targets.x), "y": list(targets.y),
        "customdata": [list(row) for row in targets.data], "text": [plain(label) for label in targets.labels],
        "marker": {"opacity": 0, "size": 30}, "selected": unseen, "unselected": unseen, "showlegend": False,
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _swatch(frame: Frame) -> Trace:
    return {
        "type": "scatter", "x": [None], "y": [None], "mode": "markers", "name": plain(frame.name),
        "legendgroup": frame.name, "showlegend": True,
        "marker": {"color": frame.colour, "symbol": "square", "size": 12},
    }  # fmt: skip


def _shape(mark: Frame | Level, place: str) -> dict[str, Any]:
    axes = {"xref": f"x{place}", "yref": f"y{place}"}
    if isinstance(mark, Frame):
        (x0, x1), (y0, y1) = mark.x, mark.y
        line: dict[str, Any] = {"color": mark.colour, "width": mark.width}
        return {"type": "rect", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": line, **axes}
    across = "x" if mark.axis == "y" else "y"
    ends = {f"{mark.axis}0": mark.at, f"{mark.axis}1": mark.at, f"{across}0": 0, f"{across}1": 1}
    line = {"color": mark.colour, "width": 1, "dash": "dot" if mark.dashed else "solid"}
    return {"type": "line", **ends, "line": line, **axes, f"{across}ref": f"{across}{place} domain"}
