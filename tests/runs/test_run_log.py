"""Logs of runs, across crashes and with other reporters."""

import errno
import json
import logging
import sys
from pathlib import Path

import pytest

from diffmamba_interp.runs.run_log import RunLog, append_record, cut_log, read_records


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


def test_a_resumed_log_drops_the_steps_that_are_taken_again_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, step=0) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "loss": 100.0}, {"loss/block_1": 100.0})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    with RunLog(path, step=2) as log:
        log.write({"step": 3, "loss": 120.0}, {"loss/block_1": 120.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2] == {"step": 3, "loss": 120.0}


def test_a_reporter_that_is_not_installed_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        RunLog(tmp_path / "log.jsonl", step=0, report_to="wandb")


def test_scalars_go_to_the_reporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, float] = {}

    class Writer:
        def __init__(self, folder: str) -> None:
            assert Path(folder).parent == tmp_path

        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen[name] = value

        def close(self) -> None:
            seen["closed"] = 1.0

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with RunLog(tmp_path / "log.jsonl", step=0, report_to="tensorboard") as log:
        log.write({"step": 1, "loss": 1.0}, {"loss/block_1": 1.0})
    assert seen["loss/block_1"] == 1.0
    assert seen["closed"]
