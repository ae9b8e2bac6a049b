"""What a figure can be taken away as: HTML, CSV, NPZ, and the Python that makes it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

FIGURE_BUTTONS = {"displaylogo": False, "toImageButtonOptions": {"format": "svg", "width": 1400, "height": 700}}
"""The camera above a figure saves it as SVG; `png_button.html` puts one for PNG beside it."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that is made when it is asked for. ending: of its name. make: its content."""

    ending: str
    mime: str
    make: Callable[[], bytes]


def draw_downloads(files: list[Download], code: str, *, name: str) -> None:
    """Buttons for the files, named `name`, and the Python to copy."""
    with st.expander("Take it away: HTML, PNG, SVG, CSV, NPZ, Python", icon=":material/download:"):
        for column, file in zip(st.columns(len(files)), files, strict=True):
            column.download_button(
                file.ending.upper(), file.make, f"{name}.{file.ending}", file.mime,
                key=f"download_{file.ending}", on_click="ignore", width="stretch",
            )  # fmt: skip
        st.caption("The cameras above a figure save it as SVG and as PNG. This Python gives the same numbers:")
        st.code(code, language="python", wrap_lines=True)


def html_file(figure: go.Figure) -> Download:
    """One page that needs nothing else, not even a network."""
    return Download(ending="html", mime="text/html", make=lambda: figure.to_html(include_plotlyjs=True).encode())
