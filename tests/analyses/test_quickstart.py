"""The first look that `make demo` gives runs, and its numbers are of the model."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def main(project_root: Path) -> Callable[..., None]:
    return runpy.run_path(str(project_root / "analyses" / "quickstart" / "run.py"))["main"]


def kinds_of_blocks(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines() if line[:5].strip().isdigit()]


def test_a_checkpoint_of_ones_own_is_shown_block_by_block(
    main: Callable[..., None], fixtures_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(str(fixtures_dir / "published_diffmamba2" / "alternate"))
    out = capsys.readouterr().out
    assert kinds_of_blocks(out) == ["differential", "plain", "differential", "plain"]
    assert float(out.split("moves by ")[1].split()[0]) > 0
    assert "subtrahend reads most" in out


def test_the_demo_pair_answers_needle_prompts(main: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    main()
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith("qa")]
    assert len(rows) == 6
    right = sum(row[-2] == row[-3] for row in rows)
    assert right >= 4, "the differential model knows most of these answers; by chance it would know one"
    assert kinds_of_blocks(out) == ["differential"] * 12
