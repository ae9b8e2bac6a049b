"""Figures of interventions: the record's numbers where they belong, and text that stays text."""

from dataclasses import replace

import numpy as np
import pytest

from diffmamba_interp.drawing.colours import DEPTH, MODELS, NEGATIVE, POSITIVE, SIGNED, STATES
from diffmamba_interp.drawing.panels import Bars, HeatMap, Level, Line
from diffmamba_interp.figures.interventions import (
    answer_by_stage_drawing,
    block_effect_drawing,
    block_effect_figure,
    dose_response_drawing,
    dose_response_figure,
    patch_grid_drawing,
    patch_grid_figure,
)
from diffmamba_interp.interventions import InterventionRecord, PatchGrid, SweepRecord


def sweep_of(n_groups: int = 2, n_samples: int = 6, *, stages: int | None = None) -> SweepRecord:
    generator = np.random.default_rng(0)
    axes = () if stages is None else (stages,)
    clean = generator.normal(size=(n_samples, *axes))
    effect = np.linspace(-1.0, 2.0, n_groups * 3).reshape(n_groups, 3, 1, *[1] * len(axes))
    noise = 0.1 * generator.normal(size=(n_groups, 3, n_samples, *axes))
    return SweepRecord(
        dose="λ <b>",
        doses=(1.0, 0.0, 0.5),
        groups=tuple((block,) for block in range(n_groups - 1)) + (None,),
        clean={"snr_db": clean},
        intervened={"snr_db": clean + effect + noise},
        units={"snr_db": "dB"},
    )


def grid_of(n_samples: int = 2) -> PatchGrid:
    generator = np.random.default_rng(1)
    return PatchGrid(
        point="blocks.{}.hook_resid_pre",
        blocks=(0, 3),
        positions=(4, 1, 2),
        answers=(0,) * n_samples,
        against=None,
        clean=np.ones(n_samples),
        corrupted=np.zeros(n_samples),
        patched=generator.normal(size=(n_samples, 2, 3)),
    )


def lines_of(figure) -> list:
    return [trace for trace in figure.data if trace.mode == "lines+markers"]


# ------------------------------------------------------------------ dose-response


def test_a_curve_holds_the_means_in_order_of_dose_inside_its_band() -> None:
    sweep = sweep_of()
    figure = dose_response_figure(sweep, "snr_db", title="a <title>")
    effect = sweep.effect("snr_db")
    for row, line in enumerate(lines_of(figure)):
        assert list(line.x) == [0.0, 0.5, 1.0]
        assert np.allclose(line.y, effect.change[row, [1, 2, 0]])
        assert np.allclose(line.customdata, np.stack([effect.low, effect.high], axis=-1)[row, [1, 2, 0]])
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert np.allclose(bands[0].y[:3], effect.high[0, [1, 2, 0]])
    assert [line.name for line in lines_of(figure)] == ["0", "all"]
    assert figure.layout.yaxis.title.text == "change of snr db (dB)"
    assert figure.layout.xaxis.title.text == "λ &lt;b&gt;"
    assert figure.layout.title.text.startswith("a &lt;title&gt;<br>")
    assert "n = 6" in figure.layout.title.text


def test_values_are_shown_instead_of_changes_where_asked_for() -> None:
    sweep = sweep_of()
    figure = dose_response_figure(sweep, "snr_db", quantity="value")
    assert np.allclose(lines_of(figure)[0].y, sweep.intervened["snr_db"].mean(axis=2)[0, [1, 2, 0]])
    assert figure.layout.yaxis.title.text == "snr db (dB)"
    assert not figure.layout.shapes


def test_several_models_have_a_line_each() -> None:
    low = sweep_of(1)
    high = SweepRecord(**{**low.__dict__, "intervened": {"snr_db": low.intervened["snr_db"] + 100.0}})
    drawing = dose_response_drawing({"mamba2": low, "bundled:diff-mamba2": high}, "snr_db")
    plain, differential = drawing.marks(Line)
    assert (plain.name, plain.style) == ("mamba2", MODELS["mamba2"])
    assert (differential.name, differential.style) == ("diff-mamba2", MODELS["diff-mamba2"])
    assert np.allclose(np.subtract(differential.y, plain.y), 100.0)


def test_groups_of_several_models_keep_their_model_s_colour_and_differ_in_dashes() -> None:
    lines = list(dose_response_drawing({"mamba2": sweep_of(2), "diff-mamba2": sweep_of(2)}, "snr_db").marks(Line))
    assert [line.name for line in lines] == ["mamba2, 0", "mamba2, all", "diff-mamba2, 0", "diff-mamba2, all"]
    assert [line.style.colour for line in lines] == [MODELS[line.name.split(",")[0]].colour for line in lines]
    assert lines[0].style.dash != lines[1].style.dash


def test_a_change_is_marked_where_it_is_nothing() -> None:
    (level,) = dose_response_drawing(sweep_of(), "snr_db").marks(Level)
    assert (level.at, level.axis) == (0.0, "y")


def test_many_blocks_are_told_apart_by_depth() -> None:
    colours = [line.style.colour for line in dose_response_drawing(sweep_of(9), "snr_db").marks(Line)]
    assert (len(set(colours)), colours[0], colours[-1]) == (9, DEPTH[0], DEPTH[-1])


def test_one_block_of_a_lens_reading_is_chosen_by_index() -> None:
    sweep = sweep_of(stages=4)
    figure = dose_response_figure(sweep, "snr_db", index=(2,))
    assert np.allclose(lines_of(figure)[0].y, sweep.effect("snr_db").change[0, [1, 2, 0], 2])
    with pytest.raises(ValueError, match="1 axes beside the samples"):
        dose_response_figure(sweep, "snr_db")
    with pytest.raises(ValueError, match="0 axes beside the samples"):
        dose_response_figure(sweep_of(), "snr_db", index=(2,))


def test_one_sample_has_a_line_without_a_band() -> None:
    figure = dose_response_figure(sweep_of(n_samples=1), "snr_db")
    assert len(figure.data) == len(lines_of(figure)) == 2


# ------------------------------------------------------------------ bars


def test_bars_hold_the_effect_of_each_group_at_one_dose() -> None:
    sweep = sweep_of(3)
    drawing = block_effect_drawing(sweep, "snr_db", dose=0.5)
    (bars,) = drawing.marks(Bars)
    effect = sweep.effect("snr_db")
    assert bars.x == ["0", "1", "all"]
    assert np.allclose(bars.y, effect.change[:, 2])
    assert np.allclose(bars.high, effect.high[:, 2])
    assert np.allclose(bars.low, effect.low[:, 2])
    assert bars.colours == [NEGATIVE if value < 0 else POSITIVE for value in effect.change[:, 2]]
    assert {NEGATIVE, POSITIVE} == set(bars.colours)
    assert drawing.title == "λ <b> = 0.5"
    assert list(block_effect_figure(sweep, "snr_db", dose=0.5).data[0].y) == bars.y


def test_a_dose_must_be_chosen_from_those_there_are() -> None:
    for dose in (None, 0.7):
        with pytest.raises(ValueError, match="the sweep has 1, 0, 0.5"):
            block_effect_figure(sweep_of(), "snr_db", dose=dose)


# ------------------------------------------------------------------ grids


def test_a_grid_has_blocks_by_positions_on_a_symmetric_scale() -> None:
    grid = grid_of()
    drawing = patch_grid_drawing(grid)
    (cells,) = drawing.marks(HeatMap)
    assert np.allclose(cells.values, grid.change.mean(axis=0))
    assert (cells.y, drawing.y.backwards) == (["0", "3"], False)
    assert (drawing.scale.low, drawing.scale.colours) == (-drawing.scale.high, SIGNED)
    assert drawing.scale.high == pytest.approx(np.abs(cells.values).max())
    assert drawing.scale.title == "change of logit"
    assert cells.notes[1][0] == f"block 3, position 4: {cells.values[1, 0]:.4g}"
    one, points = patch_grid_figure(grid, sample=1, show="recovered").data
    assert np.allclose(one.z, grid.recovered[1])
    # A click on a cell tells its row and column, and pointing at it what it holds.
    width = grid.patched.shape[-1]
    assert [list(data) for data in points.customdata[: width + 1]] == [*([0, k] for k in range(width)), [1, 0]]
    assert (points.x[width], points.y[width]) == (0, "3")
    assert points.text[width] == f"block 3, position 4: {grid.recovered[1, 1, 0]:.4g}"


def test_grids_of_the_same_cells_stand_side_by_side_on_one_scale() -> None:
    exact = grid_of()
    estimate = PatchGrid(**{**vars(exact), "patched": 3 * exact.patched, "estimated": True})
    drawing = patch_grid_drawing({"exact": exact, "estimate": estimate}, place_names=["<a>", "b", "c"])
    assert [panel.title for panel in drawing.panels] == ["exact", "estimate"]
    for panel, grid in zip(drawing.panels, (exact, estimate), strict=True):
        assert np.allclose(panel.marks[0].values, grid.change.mean(axis=0))
    assert drawing.scale is not None
    assert drawing.scale.high == pytest.approx(np.abs(estimate.change.mean(axis=0)).max())
    assert drawing.scale.low == -drawing.scale.high
    assert list((drawing.x.ticks or {}).values()) == ["<a>", "b", "c"]
    assert "position <a>" in next(iter(drawing.marks(HeatMap))).notes[0][0]
    with pytest.raises(ValueError, match="grids of other rows"):
        patch_grid_drawing({"a": exact, "b": PatchGrid(**{**vars(exact), "blocks": (0, 4)})})
    with pytest.raises(ValueError, match="place_names holds 2 names for 3 columns"):
        patch_grid_drawing(exact, place_names=["a", "b"])
    with pytest.raises(ValueError, match="grid is empty"):
        patch_grid_drawing({})


def test_rows_are_named_after_what_they_patch_and_an_estimate_is_called_one() -> None:
    branches = PatchGrid(**{**vars(grid_of()), "blocks": (0, 0), "branches": ("minuend", "subtrahend")})
    (cells,) = patch_grid_drawing(branches).marks(HeatMap)
    assert list(cells.y) == ["0 minuend", "0 subtrahend"]
    assert cells.notes[1][0].startswith("block 0 subtrahend, position 4: ")
    heads = PatchGrid(**{**vars(grid_of()), "branches": (None, "minuend"), "heads": (5, 1), "estimated": True})
    drawing = patch_grid_drawing(heads)
    assert list(next(iter(drawing.marks(HeatMap))).y) == ["0, head 5", "3 minuend, head 1"]
    assert (patch_grid_drawing(branches).title, drawing.title) == (
        "Activation patching",
        "Attribution patching (estimate)",
    )


def test_positions_are_labelled_with_their_tokens() -> None:
    strings = ["zero", "<b>", " two", "three", "$x$"]
    figure = patch_grid_figure(grid_of(), token_strings=strings, title="<i>")
    assert list(figure.layout.xaxis.ticktext) == ["4 &#36;x&#36;", "1 &lt;b&gt;", "2 ␣two"]
    assert figure.layout.title.text.startswith("&lt;i&gt;<br>")
    assert list(patch_grid_figure(grid_of()).layout.xaxis.ticktext) == ["4", "1", "2"]


def test_long_prompts_have_at_most_forty_ticks() -> None:
    wide = PatchGrid(**{**grid_of(1).__dict__, "positions": tuple(range(500)), "patched": np.zeros((1, 2, 500))})
    axis = patch_grid_figure(wide).layout.xaxis
    assert len(axis.tickvals) == len(axis.ticktext) <= 40
    assert axis.ticktext[1] == str(axis.tickvals[1])
    assert len(patch_grid_figure({"exact": wide, "estimate": wide}).layout.xaxis.tickvals) <= 20


def test_neighbouring_blocks_are_named_as_a_range() -> None:
    sweep = SweepRecord(**{**sweep_of(3).__dict__, "groups": ((0, 1, 2, 3), (1, 3, 4), (5, 6))})
    assert list(block_effect_figure(sweep, "snr_db", dose=0.0).data[0].x) == ["0–3", "1, 3, 4", "5, 6"]


def test_positions_patched_together_are_one_column() -> None:
    grid = PatchGrid(**{**grid_of().__dict__, "positions": (4, (1, 2), (0, 3))})
    assert list(patch_grid_figure(grid).layout.xaxis.ticktext) == ["4", "1–2", "0–3"]
    labels = patch_grid_figure(grid, token_strings=["a", " b", " c", "d", "e"]).layout.xaxis.ticktext
    assert list(labels) == ["4 e", "1–2 ␣b␣c", "0–3 ad"]


def test_pairs_without_a_distance_are_left_out_of_the_mean() -> None:
    grid = grid_of()
    same = PatchGrid(**{**grid.__dict__, "clean": np.array([1.0, 0.0])})
    heat, _ = patch_grid_figure(same, show="recovered").data
    assert np.allclose(heat.z, grid.recovered[0])
    nothing = PatchGrid(**{**grid.__dict__, "clean": np.zeros(2)})
    heat, _ = patch_grid_figure(nothing, show="recovered").data
    assert np.isnan(np.asarray(heat.z, dtype=float)).all()


def test_what_a_grid_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="the grid has samples 0 to 1"):
        patch_grid_figure(grid_of(), sample=2)
    with pytest.raises(ValueError, match="there are 3 token strings, but position 4 was patched"):
        patch_grid_figure(grid_of(), token_strings=["a", "b", "c"])


# ------------------------------------------------------------------ before and after, by stage


def changed_record() -> InterventionRecord:
    def readings(step: float) -> dict[str, np.ndarray]:
        return {
            "tuned.answer_log_probability": np.log([[0.1, 0.2 * step]]),
            "answer_log_probability": np.log([0.4 * step]),
            "tuned.snr_db": np.array([[1.0, 2.0 * step]]),
            "snr_db": np.array([3.0 * step]),
        }

    return InterventionRecord(interventions=({"kind": "SetLambda"},), clean=readings(1.0), intervened=readings(0.5))


def test_the_answer_is_drawn_at_every_stage_of_the_lens_and_last_at_the_output() -> None:
    before, after = answer_by_stage_drawing(changed_record(), lens="tuned").panels[0].marks
    assert [before.name, after.name] == ["before, tuned lens", "after, tuned lens"]
    assert list(before.x) == ["embedding", "after block 0", "output"]
    assert np.allclose([before.y, after.y], [[0.1, 0.2, 0.4], [0.1, 0.1, 0.2]])
    assert [before.style, after.style] == [STATES["before"], STATES["after"]]
    decibels = answer_by_stage_drawing(changed_record(), "snr_db", lens="tuned")
    assert [list(line.y) for line in decibels.panels[0].marks] == [[1.0, 2.0, 3.0], [1.0, 1.0, 1.5]]


def test_of_a_record_without_interventions_there_is_one_curve() -> None:
    (only,) = answer_by_stage_drawing(replace(changed_record(), interventions=()), lens="tuned").panels[0].marks
    assert only.name == "before, tuned lens"


def test_what_was_not_read_cannot_be_drawn_by_stage() -> None:
    with pytest.raises(KeyError, match="no reading 'logit.snr_db'"):
        answer_by_stage_drawing(changed_record(), "snr_db", lens="logit")
    with pytest.raises(KeyError, match="one of probability, snr_db"):
        answer_by_stage_drawing(changed_record(), "label_rank", lens="tuned")
