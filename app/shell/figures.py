"""A figure on a page: in colours for the page's ground, with words for those who cannot see it, and buttons."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from diffmamba_interp.drawing.colours import SIGNED, SIGNED_ON_DARK, Scale, faded, on_dark

BUTTONS = {"displaylogo": False, "toImageButtonOptions": {"format": "svg", "width": 1400, "height": 700}}
"""The camera above a figure saves it as SVG; `png_button.html` puts one for PNG beside it."""

LEGEND_BELOW = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.25, "yref": "paper", "yanchor": "top"}
LEGEND_ABOVE = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yref": "paper", "yanchor": "bottom"}
"""Beside the panels. All of it is said: what is left out keeps what the figure came with."""

_HEX, _FADED = re.compile(r"#[0-9A-Fa-f]{6}"), re.compile(r"rgba\((\d+), (\d+), (\d+), ([0-9.]+)\)")
_BREAK, _TAG = re.compile(r"<br ?/?>"), re.compile(r"</?(sub|sup|b|i)>")


def draw_figure(figure: go.Figure, key: str, *, on_select: Callable[[], None] | None = None) -> None:
    """The figure, as wide as there is room. on_select: called when a point of it is clicked."""
    selection: dict[str, Any] = {"selection_mode": "points", "on_select": on_select} if on_select else {}
    # The page's script gives the picture its name from here: Plotly has no place for it.
    figure.update_layout(meta={"label": in_words(figure)})
    shown = for_dark(figure) if is_dark() else figure
    st.plotly_chart(shown, width="stretch", key=key, config=BUTTONS, **selection)


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
    return go.Figure(_brightened(spec), skip_invalid=False)


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
