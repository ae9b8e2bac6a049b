"""How commands speak: result to stdout, the rest to stderr; bars as lines where there is no terminal."""

import json
import logging
import math

import pytest

from diffmamba_interp.runs.speech import progress, speaking

DOCUMENT = {"loss": math.nan, "out": "runs/x"}


def say(*args: str) -> None:
    with speaking(args) as speech:
        print("of a library")  # noqa: T201
        logging.getLogger("diffmamba_interp.somewhere").info("on the way")
        speech.result(DOCUMENT, "the result", ["a table", "of two lines"])


def test_people_get_the_table_and_last_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    say()
    assert capsys.readouterr().out.splitlines() == ["of a library", "a table", "of two lines", "the result"]


def test_quiet_leaves_the_result_alone(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    say("--quiet")
    assert capsys.readouterr().out.splitlines() == ["of a library", "the result"]
    assert caplog.messages == []
    say()
    assert caplog.messages == ["on the way"], "what one command was told is over with it"


@pytest.mark.parametrize("args", [["--json"], ["--n", "3", "--json", "--quiet"]])
def test_under_json_nothing_but_the_document_is_on_stdout(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    say(*args)
    said = capsys.readouterr()
    assert json.loads(said.out) == {"loss": None, "out": "runs/x"}
    assert said.err.splitlines() == ["of a library"]


def run_through(n: int, **given: object) -> None:
    with progress(n, unit="prompt", description="tiny", **given) as bar:  # type: ignore[arg-type]
        for i in range(n):
            bar.set_postfix_str(f"loss {i}", refresh=False)
            bar.update()


def test_without_a_terminal_a_bar_writes_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run_through(50)
    said = capsys.readouterr().err
    assert "\r" not in said
    first, last = said.splitlines()
    assert first.startswith("tiny: 0 of 50 prompts, ")
    assert last.startswith("tiny: 50 of 50 prompts, ")
    assert last.endswith("loss 49")


def test_a_line_comes_after_every_interval(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffmamba_interp.runs.speech.LINE_S", 0.0)
    run_through(4)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["0", "1", "2", "3", "4", "4"]


def test_on_a_terminal_the_bar_is_redrawn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run_through(4)
    assert capsys.readouterr().err.count("\r") >= 2


def test_a_bar_that_is_not_to_be_shown_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run_through(4, shown=False)
    assert capsys.readouterr().err == ""
