"""A figure on a page: in colours for the page's ground, with words for those who cannot see it, and buttons."""

from __future__ import annotations

import html
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from app.shell import viewport
from app.shell.plotly_element import draw_element
from app.shell.starting import PLOTLY_SCRIPT
from diffmamba_interp.drawing.colours import DARK_GROUND, SIGNED, SIGNED_ON_DARK, Scale, faded, on_dark, text_on
from diffmamba_interp.drawing.panels import LEAST_END
from diffmamba_interp.drawing.plotly_figure import LETTER_WIDTH, WORDS, inked

_FROM_THE_LEFT = {"orientation": "h", "x": 0, "xref": "paper", "xanchor": "left"}
LEGEND_BELOW = {**_FROM_THE_LEFT, "y": -0.25, "yref": "paper", "yanchor": "top"}
LEGEND_ABOVE = {**_FROM_THE_LEFT, "y": 1.02, "yref": "paper", "yanchor": "bottom"}
"""Beside the panels. All of it is said: what is left out keeps what the figure came with."""

MOST_GROWTH = 1.5
PANEL_HEIGHT, PANEL_GAP, UPRIGHT, LEGEND_ROW, ROOM = 220, 95, 50, 29, 130
"""Pixels of a panel on a telephone, between two, for upright labels, of a line of the legend, and around all."""

FOOT, TWO_LINES, LAST_LINE, FURTHER_LINE, UNDER_TITLE = 22, 40, 52, 17, 24
"""More of them: for the title of the lowest axis, for a title of two lines, from the top to the last of these,
for each line after it, and over a panel's title."""

TITLE_LETTERS, SUBTITLE_LETTERS = 56, 80
"""Of a line on a telephone."""

MOST_STACKED = 12
"""Panels: of more each stays small beside the others."""

LEAST_LABEL, MOST_LABEL = 4, 14
"""Letters of the labels on the left, for which there is room."""

_HEX, _FADED = re.compile(r"#[0-9A-Fa-f]{6}"), re.compile(r"rgba\((\d+), (\d+), (\d+), ([0-9.]+)\)")
_BREAK, _TAG = re.compile(r"<br ?/?>"), re.compile(r"</?(sub|sup|b|i)>")


def legend_by_panel(figure: go.Figure) -> None:
    """Below each panel a legend of its own lines, where a figure came with one for all panels."""
    seen: set[tuple[str, str]] = set()
    for trace in figure.data:
        axis = f"xaxis{(trace.xaxis or 'x')[1:]}"
        if trace.name:
            trace.update(legend=_legend_name(axis), showlegend=(axis, trace.name) not in seen)
            seen.add((axis, trace.name))
    for axis in {axis for axis, _ in seen}:
        left = figure.layout[axis].domain[0]
        figure.layout[_legend_name(axis)] = {**LEGEND_BELOW, "orientation": "v", "x": left}


def _legend_name(axis: str) -> str:
    """Of the panel with this axis. None is the figure's own, whose letters have another colour than the others'."""
    return f"legend{int(axis[5:] or 1) + 1}"


def draw_figure(figure: go.Figure, key: str, *, on_select: Callable[[], None] | None = None) -> None:
    """The figure, as wide as there is room. on_select: called when a point of it is clicked."""
    # The element gives the picture its name from here: Plotly has no place for it.
    figure.update_layout(meta={"label": in_words(figure)})
    shown = fitted(figure, viewport.content_width())
    shown = for_dark(shown) if is_dark() else shown
    draw_element(shown, key, script=PLOTLY_SCRIPT, dark=is_dark(), on_select=on_select)


def fitted(figure: go.Figure, width: int) -> go.Figure:
    """The figure for a page so wide: higher on a wide one, its panels below one another on a narrow one."""
    if width < viewport.NARROW:
        return stacked(figure)
    height, share = figure.layout.height, width / viewport.USUAL_WIDTH
    if height is None or share <= 1:
        return figure
    # Cells get larger in both directions, curves only a little steeper.
    is_map = figure.layout.coloraxis.colorscale is not None
    grown = go.Figure(figure)
    return grown.update_layout(height=height * min(share if is_map else share**0.5, MOST_GROWTH))


def stacked(figure: go.Figure) -> go.Figure:
    """Panels below one another, with what stands beside them above and below, for the width of a telephone."""
    if sum(axis.startswith("xaxis") for axis in figure.layout) > MOST_STACKED:
        return figure
    narrow = go.Figure(figure)
    layout = narrow.layout
    x_axes, y_axes = (sorted(axis for axis in layout if re.fullmatch(rf"{which}axis\d*", axis)) for which in "xy")
    x_axes, y_axes = (sorted(axes, key=lambda axis: int(axis[5:] or 1)) for axes in (x_axes, y_axes))
    n = max(len(x_axes), 1)
    is_alone = n == 1
    plot_height = max((layout.height or PANEL_HEIGHT + ROOM) - ROOM, PANEL_HEIGHT) if is_alone else n * PANEL_HEIGHT
    lines = Counter(trace.legend or "legend" for trace in narrow.data if trace.showlegend and layout.showlegend)
    legend = LEGEND_ROW * max(lines.values(), default=0)
    labels = UPRIGHT if layout.xaxis.tickangle == 90 else 0
    gap = PANEL_GAP + labels + (legend if len(lines) > 1 else 0)
    whole = plot_height + (n - 1) * gap
    titles = [note for note in layout.annotations if note.yref == "paper" and note.yanchor == "bottom"]
    is_map, measured = layout.coloraxis.colorscale is not None, layout.yaxis.title.text
    for place, (x, y) in enumerate(zip(x_axes, y_axes, strict=True)):
        top = 1 - place * (PANEL_HEIGHT + gap) / whole
        layout[x].domain = [0, 1]
        layout[y].domain = [0, 1] if is_alone else [max(top - PANEL_HEIGHT / whole, 0), top]
        layout[y].showticklabels = True
        layout[y].automargin = False
        layout[y].title.text = None
        if place + 1 < n or (is_map and is_alone):
            # Drawn again for another width, Plotly would put it over the cells; the labels and the caption say it, or
            # the last panel's.
            layout[x].title.text = None
        if len(titles) == n:
            titles[place].update(x=0.5, y=top)
        if len(lines) > 1:
            below = top - (PANEL_HEIGHT + 70 + labels) / whole
            layout[_legend_name(x)] = {**LEGEND_BELOW, "orientation": "v", "y": below}
    widest = max((len(label) for y in y_axes for label in layout[y].ticktext or ()), default=LEAST_LABEL)
    left = 15 + LETTER_WIDTH * min(max(widest, LEAST_LABEL), MOST_LABEL)
    # Two lines of a title and a colour bar with its own, one below the other.
    title = _broken(layout.title.text or "")
    further = FURTHER_LINE * max(title.count("<br>") - 1, 0)
    above = TWO_LINES + further if "<br>" in title and (is_map or (measured and titles)) else 0
    narrow.update_layout(
        height=whole + ROOM + FOOT + above + labels + legend,
        title={"font_size": 13, "text": title},
        margin={"l": left, "r": 10, "t": 80 + above, "b": 40 + FOOT + labels + legend},
    )  # fmt: skip
    if len(lines) <= 1:
        narrow.update_layout(legend={**LEGEND_BELOW, "orientation": "v", "y": -(70 + labels) / whole})
    if above:
        narrow.update_layout(title={"y": 1 - LAST_LINE / narrow.layout.height, "yref": "container"})
    if measured and not is_map:
        # There is no room for it beside the axis.
        narrow.add_annotation(
            text=measured, xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="bottom", showarrow=False,
            yshift=UNDER_TITLE if titles else 4,
        )  # fmt: skip
    if is_map:
        bar = {"orientation": "h", "x": 0.5, "xanchor": "center", "len": 0.8, "thickness": 10}
        layout.coloraxis.colorbar.update({**bar, "y": 1 + 30 / whole, "yanchor": "bottom"})
        layout.coloraxis.colorbar.title.side = "top"
    return narrow


def _broken(title: str) -> str:
    """A figure's title and subtitle in lines that a telephone has room for."""
    lines = []
    for line in title.split("<br>"):
        is_small = line.startswith("<sub>")
        letters = SUBTITLE_LETTERS if is_small else TITLE_LETTERS
        words = line.removeprefix("<sub>").removesuffix("</sub>")
        parts = textwrap.wrap(words, letters, break_long_words=False, break_on_hyphens=False)
        lines += [f"<sub>{part}</sub>" if is_small else part for part in parts]
    return "<br>".join(lines)


def paled(figure: go.Figure) -> str:
    """That a map's colours end beyond all of its values, which are small; nothing where they do not."""
    end = figure.layout.coloraxis.cmax
    maps = [np.abs(np.asarray(trace.z, dtype=float)) for trace in figure.data if trace.type == "heatmap"]
    largest = max((float(np.nanmax(values, initial=0.0)) for values in maps), default=0.0)
    if end is None or end > LEAST_END or largest >= LEAST_END:
        return ""
    return f" All changes are small: the largest is {largest:.2g}, and the colours end at ±{LEAST_END:g}."


def is_dark() -> bool:
    """Whether the page's ground is dark."""
    return st.context.theme.type == "dark"


def signed_scale() -> Scale:
    """Of values below and above 0, on the page's ground."""
    return SIGNED_ON_DARK if is_dark() else SIGNED


def for_dark(figure: go.Figure) -> go.Figure:
    """The same figure for a dark ground; the given one, which is what downloads hold, stays as it is."""
    spec = figure.to_plotly_json()
    scale = spec["layout"].get("coloraxis", {}).get("colorscale")
    if scale is not None and [colour for _, colour in scale] == list(SIGNED):
        spec["layout"]["coloraxis"]["colorscale"] = [
            [share, colour] for (share, _), colour in zip(scale, SIGNED_ON_DARK, strict=True)
        ]
    shown = _brightened(spec)
    shown["data"] = _inked_again(shown["data"], spec["layout"].get("coloraxis"))
    for trace in shown["data"]:
        if "insidetextfont" in trace:
            trace["insidetextfont"] = {"color": [text_on(colour) for colour in trace["marker"]["color"]]}
    return go.Figure(shown, skip_invalid=False)


def _inked_again(traces: list[dict[str, Any]], scale: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The traces with the words on cells in the inks for this scale's colours, panel by panel."""
    words: dict[tuple[str, str], list[Any]] = {}
    for trace in traces:
        if trace.get("meta") == WORDS:
            columns = (trace[name] for name in ("x", "y", "text", "customdata"))
            words.setdefault((trace["xaxis"], trace["yaxis"]), []).extend(zip(*columns, strict=True))
    if not words or scale is None:
        return traces
    colours, ends = tuple(colour for _, colour in scale["colorscale"]), (scale["cmin"], scale["cmax"])
    axes = {panel: {"xaxis": panel[0], "yaxis": panel[1]} for panel in words}
    again = [trace | axes[panel] for panel, own in words.items() for trace in inked(own, colours, ends, DARK_GROUND)]
    return [trace for trace in traces if trace.get("meta") != WORDS] + again


def in_words(figure: go.Figure) -> str:
    """What is drawn, in a line: title, panels, axes and the names of the legend."""
    layout, words = figure.layout, []
    title = _spoken(layout.title.text)
    panels = [_spoken(note.text) for note in layout.annotations if note.text]
    axes = [_spoken(getattr(layout, axis).title.text) for axis in ("yaxis", "xaxis")]
    colour = _spoken(layout.coloraxis.colorbar.title.text)
    names = list(dict.fromkeys(_spoken(trace.name) for trace in figure.data if trace.name and trace.showlegend))
    kind = "Map" if colour else "Chart"
    words.append(f"{kind}: {title}" if title else kind)
    if all(axes):
        words.append(f"{axes[0]} by {axes[1]}")
    if colour:
        words.append(f"colour: {colour}")
    if panels:
        words.append(f"panels: {', '.join(panels)}")
    if names:
        words.append(f"lines: {', '.join(names)}")
    return "; ".join(words)


def _spoken(text: str | None) -> str:
    return html.unescape(_TAG.sub("", _BREAK.sub(" ", text or ""))).strip()


def _brightened(value: Any, key: str = "") -> Any:
    """Every colour of a figure's tree by the one that takes its place; scales are not touched."""
    if isinstance(value, dict):
        return {name: _brightened(part, name) for name, part in value.items()}
    if isinstance(value, list | tuple) and key in ("data", "shapes", "annotations", "color"):
        return [_brightened(part, key) for part in value]
    if isinstance(value, str) and "color" in key:
        if _HEX.fullmatch(value):
            return on_dark(value)
        if parts := _FADED.fullmatch(value):
            *channels, opacity = parts.groups()
            return faded(on_dark("#" + "".join(f"{int(channel):02X}" for channel in channels)), float(opacity))
    return value
