"""A session as one file: what was looked at and the state of the widgets, readable where no model is.

A zip archive without compression around it:

    session.json       format, state of the widgets, and for each record title, kind, model, dtype, device, tokens' text
    records/00.npz     the arrays of a record; nothing is pickled

What is read is checked before it is used: its sum (`files.archives`), names, sizes (of what is packed too), types and
shapes.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import plotly.graph_objects as go

from app.shell.downloads import KeptRecord, record_bytes
from diffmamba_interp.figures.attention import attention_figure
from diffmamba_interp.files.archives import arrays_from_bytes, files_from_bytes, files_to_bytes, require_modest
from diffmamba_interp.files.checksums import DamagedFileError
from diffmamba_interp.files.json_files import parse_json
from diffmamba_interp.implicit_attention.record import AttentionRecord

if TYPE_CHECKING:
    from app.shell.downloads import KeptRecord
    from app.shell.needle_runs import NeedleRun
    from diffmamba_interp.lens import LensTrajectory

FORMAT = "diffmamba_interp.explorer/1"
MANIFEST = "session.json"
RECORD_NAME = re.compile(r"records/\d\d\.npz")
MAX_FILES = 40
MAX_PACKED_BYTES = 64 * 2**20
MAX_BYTES = 512 * 2**20
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_STATE = 300_000
"""Characters of a widget's state: a prompt is the longest."""

MAX_ARRAY_BYTES = 512 * 2**20
OF_SESSION, REMEDY = "a record of the session file", "Save the session file again."
MAX_CELLS = 256


@dataclass(frozen=True, kw_only=True)
class Session:
    """page: which page the state belongs to. state: what the widgets say, as an address would."""

    page: str
    state: dict[str, str]
    records: tuple[KeptRecord, ...]


def write_session(page: str, state: Mapping[str, str], records: Sequence[KeptRecord]) -> bytes:
    """The session as a file's content."""
    entries, files = [], {}
    for number, kept in enumerate(records):
        name, kind = f"records/{number:02d}.npz", kind_of(kept.record)
        files[name] = KINDS[kind].write(kept.record)
        entries.append(
            {
                "file": name, "kind": kind, "title": kept.title, "model": kept.model, "dtype": kept.dtype,
                "device": kept.device, "strings": list(kept.strings),
                "words": {str(token): text for token, text in kept.words.items()},
            }
        )  # fmt: skip
    manifest = {"format": FORMAT, "page": page, "state": dict(state), "records": entries}
    return files_to_bytes({MANIFEST: json.dumps(manifest, indent=1), **files})


def read_session(content: bytes) -> Session:
    """The inverse of `write_session`. Raises ValueError, saying what is wrong, for any other file."""
    if len(content) > MAX_PACKED_BYTES:
        raise ValueError(f"the file has {len(content) / 2**20:.0f} MiB: {MAX_PACKED_BYTES // 2**20} at most.")
    try:
        files = files_from_bytes(content, require_few, source="the file", remedy=REMEDY)
        return _session(parse_json(files.pop(MANIFEST), source=MANIFEST), files)
    except DamagedFileError as error:
        raise ValueError(f"this is no session file, or a damaged one: {error}") from error
    # Parts that are missing, or are not what they should be.
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"this is no session file, or a damaged one ({type(error).__name__}: {error}).") from error


def require_few(infos: Sequence[zipfile.ZipInfo]) -> None:
    """Raise ValueError unless the files are few, rightly named, and do not unpack to more than fits."""
    names = [info.filename for info in infos]
    strange = [name for name in names if name != MANIFEST and not RECORD_NAME.fullmatch(name)]
    if strange or len(infos) > MAX_FILES or len(set(names)) != len(names):
        raise ValueError(f"this is no session file: it holds {len(infos)} files, among them {strange[:3]}.")
    for info in infos:
        limit = MAX_MANIFEST_BYTES if info.filename == MANIFEST else MAX_BYTES
        if info.file_size > limit:
            raise ValueError(f"{info.filename} would unpack to {info.file_size / 2**20:,.0f} MiB, which is too much.")
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise ValueError(f"the file would unpack to more than {MAX_BYTES / 2**20:.0f} MiB.")


def _session(manifest: Any, files: Mapping[str, bytes]) -> Session:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"this is no session file of the format {FORMAT!r}.")
    state = {_text(key, 100): _text(value, MAX_STATE) for key, value in manifest["state"].items()}
    records = tuple(_record(entry, files) for entry in manifest["records"])
    return Session(page=_text(manifest["page"], 100), state=state, records=records)


def _record(entry: Mapping[str, Any], files: Mapping[str, bytes]) -> KeptRecord:
    if entry["kind"] not in KINDS:
        raise ValueError(f"the session file holds a record of the unknown kind {str(entry['kind'])[:40]!r}.")
    strings = tuple(_text(text, 1000) for text in entry["strings"])
    return KeptRecord(
        title=_text(entry["title"], 300), model=_text(entry["model"], 1000), dtype=_text(entry["dtype"], 30),
        device=_text(entry["device"], 30), strings=strings, record=KINDS[entry["kind"]].read(files[entry["file"]]),
        words={int(token): _text(text, 1000) for token, text in entry["words"].items()},
    )  # fmt: skip


def _text(value: Any, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise ValueError(f"the session file holds {str(value)[:40]!r}, not a text of up to {limit:,} characters.")
    return value


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
    require_modest(content, MAX_ARRAY_BYTES, source=OF_SESSION, remedy=REMEDY)
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
    from app.shell.lens_reading import trajectory_bytes

    return trajectory_bytes(record)


def read_lens(content: bytes) -> LensTrajectory:
    from diffmamba_interp.lens import LensTrajectory

    require_modest(content, MAX_ARRAY_BYTES, source=OF_SESSION, remedy=REMEDY)
    arrays = arrays_from_bytes(content, source=OF_SESSION, remedy=REMEDY)
    stages = [str(stage) for stage in arrays.pop("stages")]
    record = LensTrajectory.from_dict({"stages": stages, **arrays})
    wanted = (*record.tokens.shape[:1], len(stages), *record.tokens.shape[1:])
    if record.top_tokens.ndim != 4 or any(
        array.shape[:3] != wanted for array in (record.top_tokens, record.entropy_nats, record.kl_to_final_nats)
    ):
        raise ValueError(f"a record of the session file is not of one piece: its arrays should be {wanted}.")
    if len(record.places) != record.tokens.shape[1]:
        raise ValueError(f"a record of the session file is not of one piece: it has {len(record.places)} positions.")
    return record


def draw_lens(kept: KeptRecord) -> list[go.Figure]:
    from diffmamba_interp.figures.lens import lens_heat_map

    return [lens_heat_map(cast("LensTrajectory", kept.record), lambda token: kept.words.get(token, str(token)))]


def write_needle(run: NeedleRun) -> bytes:
    from app.shell import needle_runs

    return needle_runs.write_needle(run)


def read_needle(content: bytes) -> NeedleRun:
    from app.shell import needle_runs

    require_modest(content, MAX_ARRAY_BYTES, source=OF_SESSION, remedy=REMEDY)
    return needle_runs.read_needle(content)


def draw_needle(kept: KeptRecord) -> list[go.Figure]:
    from app.shell.needle_pictures import attention_picture, curve_figures

    run = cast("NeedleRun", kept.record)
    figures, _ = curve_figures(run)
    read = attention_picture(run)
    return [*figures.values(), *([read[0]] if read else [])]


KINDS = {
    "attention": RecordKind(write=record_bytes, read=read_attention, draw=draw_attention),
    "lens": RecordKind(write=write_lens, read=read_lens, draw=draw_lens),
    "needle": RecordKind(write=write_needle, read=read_needle, draw=draw_needle),
}
