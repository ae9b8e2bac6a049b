"""Lambda by depth: the numbers of the report, and saturated blocks marked."""

from dataclasses import replace
from pathlib import Path

import pytest

from diffmamba_interp.drawing.colours import GREY, MODELS
from diffmamba_interp.drawing.panels import Line
from diffmamba_interp.figures.curves import lambda_drawing, lambda_figure
from diffmamba_interp.models.inspection import inspect_checkpoint


@pytest.fixture(scope="module")
def report(fixtures_dir: Path):
    return inspect_checkpoint(fixtures_dir / "published_diffmamba2" / "alternate")


def test_every_differential_block_is_a_point_and_lambda_init_stands_beside(report) -> None:
    line, start = lambda_drawing({"bundled:diff-mamba2": report}).marks(Line)
    assert (line.x, line.y) == ([0, 2], [report.blocks[0].lambda_, report.blocks[2].lambda_])
    assert (line.name, line.style.colour) == ("diff-mamba2", MODELS["diff-mamba2"].colour)
    assert (start.name, start.style.colour, start.style.dash) == ("λ_init", GREY, "dot")
    assert start.y == [report.blocks[0].lambda_init, report.blocks[2].lambda_init]


def test_models_are_told_apart_in_their_own_colours(report) -> None:
    lines = list(lambda_drawing({"mamba2": report, "diff-mamba2": report}).marks(Line))
    assert [(line.name, line.style) for line in lines[:2]] == list(MODELS.items())


def test_saturated_blocks_are_hollow(report) -> None:
    blocks = (replace(report.blocks[0], saturated=True), *report.blocks[1:])
    line = lambda_figure({"a": replace(report, blocks=blocks)}).data[0]
    assert [symbol.endswith("open") for symbol in line.marker.symbol] == [True, False]


def test_a_plain_model_has_no_line(report) -> None:
    plain = replace(report, blocks=(report.blocks[1], report.blocks[3]))
    assert len(lambda_figure({"plain": plain}).data) == 0


def test_more_than_four_models_are_refused(report) -> None:
    with pytest.raises(ValueError, match="at most 4"):
        lambda_figure({str(number): report for number in range(5)})
