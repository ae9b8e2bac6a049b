"""What the explorer is started with: command line, then environment, then defaults."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from app.shell import loading
from app.shell.starting import MAIN, MEMORY_VARIABLE, ROOT_VARIABLE, AppOptions, read_options
from tests.app.conftest import MODEL, OpenApp


def started_with(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> AppOptions:
    monkeypatch.setattr(sys, "argv", [str(MAIN), *arguments])
    return read_options()


def test_the_command_line_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setenv(MEMORY_VARIABLE, "2.5")
    assert started_with(monkeypatch).root == tmp_path
    assert started_with(monkeypatch).memory_bytes == int(2.5 * 2**30)
    (tmp_path / "below").mkdir()
    assert started_with(monkeypatch, "--root", str(tmp_path / "below")).root == tmp_path / "below"
    assert started_with(monkeypatch, "--memory-gib", "1").memory_bytes == 2**30


def test_arguments_of_another_program_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "--bogus"])
    assert read_options().device == "cpu"


def threads_in_use() -> int:
    torch.ones(2) @ torch.ones(2)
    return torch.get_num_threads()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bogus"], "not understood"),
        (["--root", "no/such/folder"], "no folder"),
        (["--memory-gib", "0"], "must be positive"),
        (["--threads", "0"], "must be positive"),
    ],
)
def test_options_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        started_with(monkeypatch, *arguments)


def test_threads_and_device_are_those_that_models_get(monkeypatch: pytest.MonkeyPatch, open_app: OpenApp) -> None:
    monkeypatch.setattr(sys, "argv", [str(MAIN), "--threads", "2", "--device", "cpu:0"])
    before = torch.get_num_threads()
    try:
        app = open_app()
        # What a thread that starts now gets, as each run of a page does.
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(threads_in_use).result() == 2
    finally:
        torch.set_num_threads(before)
    assert loading.model_key(MODEL, "bfloat16").device == "cpu:0"
    assert any("cpu:0, float32" in element.value for element in app.markdown)
