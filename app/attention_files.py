"""An attention figure and its record as files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import plotly.graph_objects as go

from app.panels.downloads import Download, html_file
from diffmamba_interp.figures.tables import attention_csv
from diffmamba_interp.implicit_attention.record import AttentionRecord


def attention_files(record: AttentionRecord, figure: go.Figure) -> list[Download]:
    return [
        html_file(figure),
        Download(ending="csv", mime="text/csv", make=lambda: attention_csv(record).encode()),
        Download(ending="npz", mime="application/octet-stream", make=lambda: record_bytes(record)),
    ]


def record_bytes(record: AttentionRecord) -> bytes:
    """What `AttentionRecord.load` reads."""
    with tempfile.TemporaryDirectory() as folder:
        return record.save(Path(folder) / "record.npz").read_bytes()
