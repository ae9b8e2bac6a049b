"""The first look that `make demo` gives runs, and its numbers are of the model."""

import runpy
from pathlib import Path

import pytest


def test_the_quickstart_prints_a_row_per_block_and_the_effect_of_lambda(
    project_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(project_root / "analyses" / "quickstart" / "run.py"))["main"]()
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines() if line[:5].strip().isdigit()] == [
        "differential",
        "plain",
        "differential",
        "plain",
    ]
    moved = float(out.split("moves by ")[1].split()[0])
    assert moved > 0
    assert "subtrahend reads most" in out
