"""Records in a session file: how each kind is written, read with checks, and drawn."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import plotly.graph_objects as go

from app.attention_files import record_bytes
from diffmamba_interp.figures.attention import attention_figure
from diffmamba_interp.implicit_attention.record import AttentionRecord

if TYPE_CHECKING:
    from app.needle_found import NeedleRun
    from app.panels.kept_records import KeptRecord
    from diffmamba_interp.lens import LensTrajectory

MAX_ARRAY_BYTES = 512 * 2**20
MAX_CELLS = 256


@dataclass(frozen=True, kw_only=True)
class RecordKind:
    """write: the record as NPZ. read: the inverse; raises ValueError. draw: its figures, which need no model."""

    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]
    draw: Callable[[KeptRecord], list[go.Figure]]


def kind_of(record: object) -> str:
    """Name of the record's kind in a session file."""
    # By name, so that no library is loaded only to tell them apart.
    return {"AttentionRecord": "attention", "NeedleRun": "needle"}.get(type(record).__name__, "lens")


def read_attention(content: bytes) -> AttentionRecord:
    require_modest_arrays(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.npz"
        path.write_bytes(content)
        record = AttentionRecord.load(path)
    n_batch, n_pos = record.tokens.shape
    n_heads = [len(record.heads)] if record.per_head else []
    wanted = (n_batch, *n_heads, record.rows.shape[1], n_pos)
    if any(tuple(part.shape) != wanted for part in record.parts) or bool((record.rows >= n_pos).any()):
        raise ValueError(f"a record of the session file is not of one piece: its pictures should be {wanted}.")
    return record


def draw_attention(kept: KeptRecord) -> list[go.Figure]:
    assert isinstance(kept.record, AttentionRecord)
    record = kept.record
    only = record.heads[0] if record.per_head and len(record.heads) == 1 else None
    return [attention_figure(record, head=only, max_cells=MAX_CELLS)]


def write_lens(record: LensTrajectory) -> bytes:
    from app.lens_files import trajectory_bytes

    return trajectory_bytes(record)


def read_lens(content: bytes) -> LensTrajectory:
    from diffmamba_interp.lens import LensTrajectory

    require_modest_arrays(content)
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    stages = [str(stage) for stage in arrays.pop("stages")]
    record = LensTrajectory.from_dict({"stages": stages, **arrays})
    wanted = (*record.tokens.shape[:1], len(stages), *record.tokens.shape[1:])
    if record.top_tokens.ndim != 4 or any(
        array.shape[:3] != wanted for array in (record.top_tokens, record.entropy_nats, record.kl_to_final_nats)
    ):
        raise ValueError(f"a record of the session file is not of one piece: its arrays should be {wanted}.")
    return record


def draw_lens(kept: KeptRecord) -> list[go.Figure]:
    from diffmamba_interp.figures.lens import lens_heat_map

    return [lens_heat_map(cast("LensTrajectory", kept.record), lambda token: kept.words.get(token, str(token)))]


def write_needle(run: NeedleRun) -> bytes:
    from app import needle_records

    return needle_records.write_needle(run)


def read_needle(content: bytes) -> NeedleRun:
    from app import needle_records

    require_modest_arrays(content)
    return needle_records.read_needle(content)


def draw_needle(kept: KeptRecord) -> list[go.Figure]:
    from app.needle_pictures import attention_picture, curve_figures

    run = cast("NeedleRun", kept.record)
    figures, _ = curve_figures(run)
    read = attention_picture(run)
    return [*figures.values(), *([read[0]] if read else [])]


def require_modest_arrays(content: bytes) -> None:
    """Raise ValueError if the arrays would unpack to more than fits."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        n_bytes = sum(info.file_size for info in archive.infolist())
    if n_bytes > MAX_ARRAY_BYTES:
        raise ValueError(f"a record of the session file would unpack to {n_bytes / 2**20:,.0f} MiB, which is too much.")


KINDS = {
    "attention": RecordKind(write=record_bytes, read=read_attention, draw=draw_attention),
    "lens": RecordKind(write=write_lens, read=read_lens, draw=draw_lens),
    "needle": RecordKind(write=write_needle, read=read_needle, draw=draw_needle),
}
