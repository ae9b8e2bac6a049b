"""A session as one file: what was looked at and the state of the widgets, readable where no model is.

A zip archive without compression around it:

    session.json       format, state of the widgets, and for each record title, kind, model, dtype, device, tokens' text
    records/00.npz     the arrays of a record; nothing is pickled

What is read is checked before it is used: its sum (`files.archives`), names, sizes (of what is packed too), types and
shapes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.panels.kept_records import KeptRecord
from app.session_records import KINDS, kind_of
from diffmamba_interp.files.archives import add_sum, check_sum
from diffmamba_interp.files.checksums import DamagedFileError

FORMAT = "diffmamba_interp.explorer/1"
MANIFEST = "session.json"
RECORD_NAME = re.compile(r"records/\d\d\.npz")
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
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
        for name, content in files.items():
            archive.writestr(name, content)
    add_sum(packed)
    return packed.getvalue()


def read_session(content: bytes) -> Session:
    """The inverse of `write_session`. Raises ValueError, saying what is wrong, for any other file."""
    if len(content) > MAX_PACKED_BYTES:
        raise ValueError(f"the file has {len(content) / 2**20:.0f} MiB: {MAX_PACKED_BYTES // 2**20} at most.")
    # All that a damaged archive makes the standard library raise; NotImplementedError: an unknown packing.
    try:
        check_sum(content, source="the file", remedy="Save the session again.")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            require_modest(archive)
            manifest = json.loads(archive.read(MANIFEST))
            files = {name: archive.read(name) for name in archive.namelist() if name != MANIFEST}
        return _session(manifest, files)
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, EOFError, MemoryError, RecursionError,
            NotImplementedError, UnicodeDecodeError, json.JSONDecodeError, RuntimeError, OverflowError, zlib.error,
            DamagedFileError,
            ) as error:  # fmt: skip
        raise ValueError(f"this is no session file, or a damaged one ({type(error).__name__}: {error}).") from error


def require_modest(archive: zipfile.ZipFile) -> None:
    """Raise ValueError unless the archive holds few files, rightly named, that do not unpack to more than fits."""
    infos = archive.infolist()
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
