"""The log of a run: one JSON object per line with the step that it is of; damaged lines are passed over.

A kill may leave half a line at the end, and a full disk one in the middle: neither keeps a run from going on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffmamba_interp.files.atomic import naming, write_bytes
from diffmamba_interp.files.json_files import json_text, parse_json

LOG_FILE = "log.jsonl"

logger = logging.getLogger(__name__)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line; it is in the file when this returns. Raises OSError, which names the file."""
    with naming(path), path.open("ab") as file:
        file.write(_line(record))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a log, empty if there is none; lines that are no record of a step are left out with a warning."""
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines()
    records = [record for line in lines if (record := _record(line, path)) is not None]
    if len(records) < len(lines):
        logger.warning("%s: %d of %d lines are damaged and were left out", path, len(lines) - len(records), len(lines))
    return records


def cut_log(path: Path, step: int) -> None:
    """Drop the lines that were written after `step`, which will be written again, and the damaged ones."""
    if path.is_file():
        write_bytes(path, b"".join(_line(record) for record in read_records(path) if record["step"] <= step))


def _line(record: Mapping[str, Any]) -> bytes:
    return json_text(record).encode() + b"\n"


def _record(line: bytes, path: Path) -> dict[str, Any] | None:
    try:
        record = parse_json(line, source=path)
    except ValueError:
        return None
    has_step = isinstance(record, dict) and type(record.get("step")) is int
    return record if has_step else None
