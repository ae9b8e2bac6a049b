"""Bars of shares stack to one, class by class; a map of heads is red where something is removed."""

import numpy as np
import pytest
import torch

from diffmamba_interp.drawing.colours import BRANCHES, MODELS, SPANS, colour_at
from diffmamba_interp.drawing.panels import Bars, HeatMap
from diffmamba_interp.figures.allocation import (
    BY_BLOCK,
    ShareBar,
    allocation_curves,
    allocation_drawing,
    head_map_drawing,
    share_bars_drawing,
)
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, PICTURES, Allocation

SHARES = {"needle": 0.3, "question": 0.02, "distractors": 0.2, "filler": 0.08, "other": 0.4}


def bars(**shares: float) -> list[ShareBar]:
    return [
        ShareBar(group=group, name=name, shares=SHARES | shares)
        for group in ("0k", "1k")
        for name in ("mamba2", "lambda_subtrahend")
    ]


def test_every_class_has_a_bar_as_high_as_its_share_in_its_colour() -> None:
    for panel in share_bars_drawing(bars(), title="T", x_axis="length").panels:
        assert {mark.name: mark.y for mark in panel.marks} == {name: [share] * 2 for name, share in SHARES.items()}
        assert all(mark.colours == [SPANS[mark.name].colour] * 2 for mark in panel.marks)
        assert all(mark.x == ["mamba2", "λ · subtrahend"] for mark in panel.marks)


def test_what_is_irrelevant_stands_above_what_is_wanted() -> None:
    marks = list(share_bars_drawing(bars()[:1], title="T", x_axis="length").marks(Bars))
    assert [mark.name for mark in marks] == ["needle", "question", "other", "distractors", "filler"]
    assert [mark.base[0] for mark in marks] == pytest.approx([0.0, 0.3, 0.32, 0.72, 0.92])


def test_bars_of_a_group_share_a_panel_and_a_bar_keeps_its_own_shares() -> None:
    mixed = [bars()[0], ShareBar(group="1k", name="mamba2", shares=SHARES | {"needle": 0.1, "other": 0.6})]
    drawing = share_bars_drawing(mixed, title="T", x_axis="length")
    assert [panel.title for panel in drawing.panels] == ["0k", "1k"]
    assert [mark.y for mark in drawing.marks(Bars) if mark.name == "needle"] == [[0.3], [0.1]]
    assert list(drawing.legend) == ["needle", "question", "other", "distractors", "filler"]
    side_by_side = [mixed[0], ShareBar(group="0k", name="minuend", shares=mixed[1].shares)]
    needle = next(share_bars_drawing(side_by_side, title="T", x_axis="length").marks(Bars))
    assert (needle.x, needle.y) == (["mamba2", "minuend"], [0.3, 0.1])
    assert drawing.y.limits == (0.0, 1.0)


def test_no_bars_and_unknown_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        share_bars_drawing([], title="T", x_axis="length")
    with pytest.raises(ValueError, match="unknown classes: noise"):
        share_bars_drawing([ShareBar(group="0k", name="a", shares={"noise": 1.0})], title="T", x_axis="length")


def test_a_map_has_a_cell_for_every_head_with_its_value() -> None:
    values = [[0.25, -0.5, float("nan")], [0.0, 0.1, 0.2]]
    drawing = head_map_drawing(values, title="T", note="n", what="removed")
    (cells,) = drawing.marks(HeatMap)
    assert np.array_equal(cells.values, values, equal_nan=True)
    assert (cells.y, cells.x, drawing.y.backwards) == (["block 0", "block 1"], ["0", "1", "2"], True)
    assert cells.text == [["+0.25", "-0.50", ""], ["+0.00", "+0.10", "+0.20"]]


def test_a_head_whose_noise_is_removed_is_red_and_one_to_which_noise_is_added_is_blue() -> None:
    scale = head_map_drawing([[0.0]], title="T", note="n", what="removed").scale
    assert scale.title == "removed"
    removed, added = (int(colour_at(scale.colours, scale.share(v))[1:], 16) for v in (0.3, -0.3))
    assert removed >> 16 > removed & 255
    assert added >> 16 < added & 255
    assert scale.share(0.0) == 0.5


def test_a_map_without_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="no heads"):
        head_map_drawing([], title="T", note="n", what="removed")


def allocation(n_prompts: int = 3) -> Allocation:
    """Two blocks, of which the second is plain; sources of every class get the mass of their place."""
    mass = torch.ones(n_prompts, len(DIRECTIONS), 2, len(PICTURES), len(CLASSES))
    mass[:, :, :, PICTURES.index("net"), CLASSES.index("needle")] = 0.5
    mass[:, DIRECTIONS.index("answer") + 1 :] = 100.0
    mass[:, :, 1, 1:] = torch.nan
    snr_db = torch.full((n_prompts, len(DIRECTIONS), 2, len(PICTURES)), 6.0)
    snr_db[:, :, 1, 1:] = torch.nan
    shape = (n_prompts, len(DIRECTIONS), 2)
    return Allocation(
        mass=mass,
        smaller=torch.zeros(*shape, len(CLASSES)),
        snr_db=snr_db,
        cosine=torch.zeros(shape),
        n_sources=torch.ones(n_prompts, len(CLASSES), dtype=torch.long),
    )


def test_what_is_read_has_curves_of_the_answers_logit_in_those_blocks_that_have_them() -> None:
    curves = {(curve.measure, curve.name): curve for curve in allocation_curves({"diff-mamba2": allocation()})}
    assert curves["snr_db", "net"].value == (6.0, 6.0)
    assert curves["snr_db", "minuend"].blocks == (0,)
    assert curves["cancelled", "needle"].value == (0.75,)
    assert ("cancelled", "other") not in curves
    assert curves["over_allocation", "net"].value[0] == pytest.approx(2 / 4.5)


def test_models_differ_in_colour_pictures_in_dashes_and_what_is_cancelled_has_the_colour_of_its_class() -> None:
    drawing = allocation_drawing(allocation_curves({"diff-mamba2": allocation(), "mamba2": allocation()}))
    snr, cancelled, over = drawing.panels
    assert [panel.title for panel in drawing.panels] == list(BY_BLOCK.values())
    lines = {line.name: line.style for line in snr.marks}
    assert lines["diff-mamba2: minuend"].colour == MODELS["diff-mamba2"].colour
    assert lines["diff-mamba2: minuend"].dash == BRANCHES["minuend"].dash
    assert lines["mamba2: written"].colour == MODELS["mamba2"].colour
    shares = {line.name: line.style for line in cancelled.marks}
    assert shares["mamba2: needle"].colour == shares["diff-mamba2: needle"].colour == SPANS["needle"].colour
    assert shares["mamba2: needle"].dash != shares["diff-mamba2: needle"].dash
    assert len(over.marks) == 6


def test_with_the_branches_of_one_model_every_line_of_a_panel_has_a_look_of_its_own() -> None:
    plain = allocation()
    plain.mass[..., 1:, :], plain.snr_db[..., 1:] = torch.nan, torch.nan
    drawing = allocation_drawing(allocation_curves({"diff-mamba2": allocation(), "mamba2": plain}))
    for panel in drawing.panels:
        assert len({(line.style.dash, line.style.symbol) for line in panel.marks}) == len(panel.marks) >= 4
    lines = {line.name: line.style for line in drawing.panels[0].marks}
    assert lines["diff-mamba2: written"] == MODELS["diff-mamba2"]
    assert lines["diff-mamba2: minuend"] == BRANCHES["minuend"]


def test_without_curves_nothing_is_drawn() -> None:
    with pytest.raises(ValueError, match="no curves"):
        allocation_drawing([])
