"""The log of a run: one JSON object per line with the step that it is of, and TensorBoard or Weights & Biases if asked.

Damaged lines are passed over: a kill may leave half a line at the end, and a full disk one in the middle, and neither
keeps a run from going on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from diffmamba_interp.files.atomic import naming, write_bytes
from diffmamba_interp.files.json_files import json_text, parse_json
from diffmamba_interp.runs.command import RunError

Reporter = Literal["none", "tensorboard", "wandb"]

LOG_FILE = "log.jsonl"

logger = logging.getLogger(__name__)


class RunLog:
    """Appends one record per step to `path`; those of steps after `step`, which a resumed run takes again, are dropped.

    report_to: where each step's scalars go, too. settings: of the run, which Weights & Biases shows beside them.
    Raises ImportError, with what to install, if `report_to` names a package that is missing.
    """

    def __init__(
        self, path: Path, *, step: int, report_to: Reporter = "none", settings: Mapping[str, Any] | None = None
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_log(path, step)
        self._path = path
        try:
            self._report, self._close = _reporter(report_to, path.parent, settings or {})
        except ImportError as error:
            raise ImportError(
                f"report_to is {report_to!r}, which is not installed: pip install {report_to}, or leave the option out "
                "(log.jsonl is always written)."
            ) from error

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def write(self, record: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """Add a step's record to the file, and its scalars to the curves that are kept elsewhere."""
        append_record(self._path, record)
        self._report(scalars, record["step"])


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


def _reporter(
    report_to: Reporter, folder: Path, settings: Mapping[str, Any]
) -> tuple[Callable[[Mapping[str, float], int], Any], Callable[[], Any]]:
    """What takes the scalars of a step, and what closes it."""
    if report_to == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder / "tensorboard"))

        def add(scalars: Mapping[str, float], step: int) -> None:
            for name, value in scalars.items():
                writer.add_scalar(name, value, step)

        return add, writer.close
    if report_to == "wandb":
        import wandb

        try:
            run = wandb.init(project="diffmamba-interp", config=dict(settings), dir=str(folder), resume="allow")
        except wandb.errors.Error as error:
            raise RunError(
                f"report_to is 'wandb', which could not start ({error}): log in with `wandb login`, set "
                "WANDB_MODE=offline, or leave the option out (log.jsonl is always written)."
            ) from error
        return lambda scalars, step: run.log(dict(scalars), step=step), run.finish
    return lambda scalars, step: None, lambda: None
