"""A Plotly figure as an element of the page, in the look of Streamlit's own elements on a light or a dark ground."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.io.json import to_json_plotly
from streamlit.components.v2 import component

from diffmamba_interp.drawing.colours import DARK_GROUND, LIGHT_GROUND

NAME = "diffmamba_figure"
USUAL_HEIGHT = 450
FONT = '"Source Sans", sans-serif'
LIGHT = {"ground": LIGHT_GROUND, "title": "#2F2D2B", "text": "#808495", "legend": "#262730", "grid": "#E6EAF1"}
DARK = {"ground": DARK_GROUND, "title": "#EDEBE8", "text": "#E6EAF1", "legend": "#FAFAFA", "grid": "#31333F"}

_element = component(NAME, js=(Path(__file__).parent / "figure.js").read_text(encoding="utf-8"), isolate_styles=False)


def draw_element(
    figure: go.Figure, key: str, *, script: str, dark: bool, on_select: Callable[[], None] | None = None
) -> None:
    """The figure, as wide as there is room, in place of what `key` showed before.

    script: where the browser finds Plotly, seen from Streamlit's own scripts. on_select: called when a point or a cell
    is clicked, which then stands in `st.session_state[key]["selection"]`.
    """
    spec = figure.to_dict()
    spec["layout"]["template"] = {"layout": look(DARK if dark else LIGHT)}
    height = spec["layout"].setdefault("height", USUAL_HEIGHT)
    # No value is a dict: in those Streamlit looks for tables, and imports pandas for it.
    data = {"figure": to_json_plotly(spec), "height": height, "clickable": on_select is not None, "plotly": script}
    _element(key=key, data=data, on_selection_change=on_select or (lambda: None))


def look(colours: dict[str, str]) -> dict[str, Any]:
    """What a figure's layout leaves open, as Streamlit fills it in."""
    small, large = ({"color": colours["text"], "size": size} for size in (12, 14))
    grid = {"gridcolor": colours["grid"], "zerolinecolor": colours["grid"], "tickcolor": colours["grid"]}
    axis = {**grid, "tickfont": small, "automargin": True}
    legend = {"size": 12, "color": colours["legend"]}
    return {
        "font": {**small, "family": FONT},
        "title": {
            "font": {"size": 16, "color": colours["title"], "weight": 700}, "pad": {"l": 4}, "xanchor": "left", "x": 0
        },
        "legend": {"title": {"font": small}, "font": legend, "bgcolor": "rgba(0, 0, 0, 0)"},
        "paper_bgcolor": colours["ground"],
        "plot_bgcolor": colours["ground"],
        "xaxis": {**axis, "title": {"font": large, "standoff": 20}, "showgrid": False, "zeroline": False},
        "yaxis": {**axis, "title": {"font": large, "standoff": 24}},
        "margin": {"pad": 8, "r": 0, "l": 0},
        "hoverlabel": {"bgcolor": colours["ground"], "bordercolor": colours["grid"], "font": small},
        "coloraxis": {
            "colorbar": {
                "thickness": 16, "xpad": 24, "outlinewidth": 8, "outlinecolor": "transparent", "len": 0.75,
                "y": 0.5745, "title": {"font": large}, "tickfont": small,
            }
        },
    }  # fmt: skip
