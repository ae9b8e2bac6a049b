"""What a figure can be taken away as: HTML, CSV, NPZ, and the Python that makes it again."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from diffmamba_interp.figures.tables import attention_csv, lens_csv
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.lens.trajectory import LensTrajectory

FIGURE_BUTTONS = {"displaylogo": False, "toImageButtonOptions": {"format": "svg", "width": 1400, "height": 700}}
"""The camera above a figure saves it as SVG."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that is made when it is asked for. ending: of its name. make: its content."""

    ending: str
    mime: str
    make: Callable[[], bytes]


def attention_files(record: AttentionRecord, figure: go.Figure) -> list[Download]:
    return [
        html_file(figure),
        Download(ending="csv", mime="text/csv", make=lambda: attention_csv(record).encode()),
        Download(ending="npz", mime="application/octet-stream", make=lambda: record_bytes(record)),
    ]


def lens_files(trajectory: LensTrajectory, figure: go.Figure, token_text: Callable[[int], str]) -> list[Download]:
    return [
        html_file(figure),
        Download(ending="csv", mime="text/csv", make=lambda: lens_csv(trajectory, token_text).encode()),
        Download(ending="npz", mime="application/octet-stream", make=lambda: trajectory_bytes(trajectory)),
    ]


def draw_downloads(files: list[Download], code: str, *, name: str) -> None:
    """Buttons for the files, named `name`, and the Python to copy."""
    with st.expander("Take it away: HTML, CSV, NPZ, Python", icon=":material/download:"):
        for column, file in zip(st.columns(len(files)), files, strict=True):
            column.download_button(
                file.ending.upper(), file.make, f"{name}.{file.ending}", file.mime,
                key=f"download_{file.ending}", on_click="ignore", width="stretch",
            )  # fmt: skip
        st.caption("The camera above the figure saves it as SVG. This Python gives the same numbers:")
        st.code(code, language="python", wrap_lines=True)


def html_file(figure: go.Figure) -> Download:
    """One page that needs nothing else, not even a network."""
    return Download(ending="html", mime="text/html", make=lambda: figure.to_html(include_plotlyjs=True).encode())


def record_bytes(record: AttentionRecord) -> bytes:
    """What `AttentionRecord.load` reads."""
    with tempfile.TemporaryDirectory() as folder:
        return record.save(Path(folder) / "record.npz").read_bytes()


def trajectory_bytes(trajectory: LensTrajectory) -> bytes:
    """Every array by its field's name, and the stages' names."""
    arrays = {name: np.asarray(value) for name, value in vars(trajectory).items() if value is not None}
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
