"""Logs of runs, across crashes."""

import errno
import logging
from pathlib import Path

import pytest

from diffmamba_interp.runs.json_log import append_record, cut_log, read_records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for step in (1, 2, 3):
        append_record(tmp_path / "log.jsonl", {"step": step, "loss": 1.5})
    return tmp_path / "log.jsonl"


def test_lines_after_the_snapshot_are_dropped_and_those_before_stay_as_they_were(path: Path) -> None:
    assert path.read_text() == "".join(f'{{"step": {step}, "loss": 1.5}}\n' for step in (1, 2, 3))
    cut_log(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 1.5}\n{"step": 2, "loss": 1.5}\n'


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 4, "lo',
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b"[1, 2]",
        b'{"loss": 1.0}',
        b'{"step": "4"}',
        b'{"step": true}',
        b"null",
        b"",
    ],
    ids=["cut", "bytes", "nested", "list", "no step", "text", "bool", "null", "empty"],
)
def test_a_damaged_line_is_left_out_with_a_warning(path: Path, line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + b"".join(others))
    with caplog.at_level(logging.WARNING):
        assert [record["step"] for record in read_records(path)] == [1, 2, 3]
    assert f"{path}: 1 of 4 lines are damaged and were left out" in caplog.text
    cut_log(path, 3)
    assert len(path.read_bytes().splitlines()) == 3


def test_there_need_be_no_log(tmp_path: Path) -> None:
    cut_log(tmp_path / "log.jsonl", 1)
    assert read_records(tmp_path / "log.jsonl") == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="log.jsonl") as full:
        append_record(tmp_path / "log.jsonl", {"step": 1})
    assert full.value.errno == errno.ENOSPC
