"""A session as one file: what was looked at and the state of the widgets, readable where no model is.

A zip archive without compression around it:

    session.json       format, state of the widgets, and for each record title, kind, model, dtype, device, tokens' text
    records/00.npz     the arrays of a record, or a record as JSON (00.json); nothing is pickled

What is read is checked before it is used: its sum (`files.archives`), names, sizes (of what is packed too), types and
shapes.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.pages_.session.kinds import KINDS, REMEDY, VIEWS, kind_of
from app.shell.downloads import KeptRecord
from diffmamba_interp.files.archives import files_from_bytes, files_to_bytes
from diffmamba_interp.files.checksums import DamagedFileError
from diffmamba_interp.files.json_files import parse_json
from diffmamba_interp.spans import SPAN_CLASSES, Spans

FORMAT = "diffmamba_interp.explorer/1"
MANIFEST = "session.json"
RECORD_NAME = re.compile(r"records/\d\d\.(npz|json)")
MAX_FILES = 40
MAX_PACKED_BYTES = 64 * 2**20
MAX_BYTES = 512 * 2**20
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_STATE = 300_000
"""Characters of a widget's state: a prompt is the longest."""


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
        kind = kind_of(kept.record)
        name = f"records/{number:02d}.{KINDS[kind].ending}"
        files[name] = KINDS[kind].write(kept.record)
        entries.append(
            {
                "file": name, "kind": kind, "title": kept.title, "model": kept.model, "dtype": kept.dtype,
                "device": kept.device, "strings": list(kept.strings),
                "words": {str(token): text for token, text in kept.words.items()},
                "view": kept.view, "spans": asdict(kept.spans),
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
    spans = _spans(entry.get("spans", {}))
    spans.masks(len(strings))
    view = _text(entry.get("view", "positions"), 30)
    if view not in VIEWS:
        raise ValueError(f"the session file asks for a view that there is not: {view!r}.")
    return KeptRecord(
        title=_text(entry["title"], 300), model=_text(entry["model"], 1000), dtype=_text(entry["dtype"], 30),
        device=_text(entry["device"], 30), strings=strings, record=KINDS[entry["kind"]].read(files[entry["file"]]),
        words={int(token): _text(text, 1000) for token, text in entry["words"].items()}, view=view, spans=spans,
    )  # fmt: skip


def _spans(value: Any) -> Spans:
    """Raises ValueError and TypeError for what are no intervals."""
    return Spans(**{name: tuple((start, end) for start, end in value.get(name, ())) for name in SPAN_CLASSES})


def _text(value: Any, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise ValueError(f"the session file holds {str(value)[:40]!r}, not a text of up to {limit:,} characters.")
    return value
