"""Figures of the needle show every stage's value and interval, tell curves apart, and say whose difference it is."""

from dataclasses import replace

import pytest

from diffmamba_interp.drawing.colours import MODELS, SERIES, STATES
from diffmamba_interp.drawing.panels import Level, Line
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.needle import (
    curves_by_stage,
    difference_by_stage,
    figures_by_measure,
    group_name,
    needle_difference_drawing,
    needle_drawing,
    probes_drawing,
    stages_drawing,
)
from diffmamba_interp.needle.curves import Curve, PairedCurve

STAGES = ("embedding", "after block 0", "output")


def curve(model: str = "mamba2", lens: str = "tuned", **changes: object) -> Curve:
    made = Curve(
        model=model,
        lens=lens,
        measure="probability",
        statistic="mean",
        group=(("task", "qa1"), ("length", "1024")),
        n=30,
        stages=STAGES,
        value=(0.1, 0.2, 0.6),
        low=(0.05, 0.1, 0.5),
        high=(0.2, 0.3, 0.7),
    )
    return replace(made, **changes)


def paired(**changes: object) -> PairedCurve:
    values = {name: getattr(curve("diff-mamba2"), name) for name in Curve.__dataclass_fields__}
    made = PairedCurve(**values, baseline="bundled:mamba2", p_value=(0.5, 0.02, 0.001), p_holm=(0.5, 0.06, 0.003))
    return replace(made, **changes)


def lines(drawing) -> list[Line]:
    return list(drawing.marks(Line))


def test_a_curve_is_a_line_with_its_interval_over_the_stages() -> None:
    drawing = needle_drawing([curve(), curve("diff-mamba2", value=(0.3, 0.4, 0.5))], title="t")
    one, two = lines(drawing)
    assert (one.x, one.y, one.low, one.high) == (STAGES, (0.1, 0.2, 0.6), (0.05, 0.1, 0.5), (0.2, 0.3, 0.7))
    assert (one.name, one.style) == ("mamba2, tuned lens, task qa1, length 1024", MODELS["mamba2"])
    assert (two.y, two.style.colour) == ((0.3, 0.4, 0.5), MODELS["diff-mamba2"].colour)
    assert one.notes == ["n = 30"] * 3
    assert (drawing.y.title, drawing.title) == ("probability of the answer", "t")
    assert drawing.x.ticks == {"embedding": "emb.", "after block 0": "0", "output": "out"}


def test_models_differ_in_colour_and_lenses_in_dashes() -> None:
    curves = [curve(model, lens) for model in ("mamba2", "diff-mamba2") for lens in ("tuned", "logit")]
    looks = {
        line.name.split(", task")[0]: (line.style.colour, line.style.dash) for line in lines(needle_drawing(curves))
    }
    assert looks == {
        "mamba2, tuned lens": ("#0072B2", "solid"),
        "mamba2, logit lens": ("#0072B2", "dash"),
        "diff-mamba2, tuned lens": ("#D55E00", "solid"),
        "diff-mamba2, logit lens": ("#D55E00", "dash"),
    }


def test_groups_of_one_model_differ_in_colour_and_statistics_in_name() -> None:
    curves = [curve(), curve(group=(("task", "qa2"),)), curve(statistic="median")]
    first, second, third = lines(needle_drawing(curves))
    assert (first.style.colour, second.style.colour) == (SERIES[0].colour, SERIES[1].colour)
    assert third.name == "mamba2, tuned lens, task qa1, length 1024, median"


def test_before_and_after_have_looks_that_are_no_models() -> None:
    before, after = lines(needle_drawing([curve("before"), curve("after")]))
    assert (before.style.colour, after.style.colour) == (STATES["before"].colour, STATES["after"].colour)
    assert not {before.style.colour, after.style.colour} & {style.colour for style in MODELS.values()}


def test_the_axis_is_linear_or_logarithmic_but_decibels_are_never_logarithmic_twice() -> None:
    assert needle_drawing([curve()]).y.kind == "linear"
    assert needle_drawing([curve()], log=True).y.kind == "log"
    with pytest.raises(ValueError, match="logarithmic already"):
        needle_drawing([curve(measure="snr_db")], log=True)


@pytest.mark.parametrize("draw", [needle_difference_drawing, lambda curves: stages_drawing(curves, title="")])
def test_a_difference_is_called_model_minus_baseline_and_filled_where_it_is_significant(draw) -> None:
    drawing = draw([paired(measure="snr_db", low=(-0.05, 0.1, 0.5))])
    (line,) = lines(drawing)
    assert line.name.split(",")[0] == "diff-mamba2 − mamba2"
    assert line.style.colour == MODELS["diff-mamba2"].colour
    assert line.y == (0.1, 0.2, 0.6)
    assert line.hollow == [True, True, False]
    assert line.notes[1] == "p = 0.02, corrected 0.06, n = 30"
    assert [(level.at, level.axis) for level in drawing.marks(Level)] == [(0.0, "y")]
    assert drawing.y.title == "difference in signal-to-noise ratio, dB"


def test_each_group_and_lens_is_a_panel_and_each_model_a_curve() -> None:
    curves = [
        curve(model, lens, group=group)
        for group in (curve().group, (("length", "0"),))
        for model in ("mamba2", "diff-mamba2")
        for lens in ("tuned", "logit")
    ]
    drawing = stages_drawing(curves, title="a title")
    assert [panel.title for panel in drawing.panels] == [
        "qa1, 1k, tuned lens, n = 30", "qa1, 1k, logit lens, n = 30",
        "all tasks, 0k, tuned lens, n = 30", "all tasks, 0k, logit lens, n = 30",
    ]  # fmt: skip
    for panel in drawing.panels:
        assert [(line.name, line.style) for line in panel.marks] == list(MODELS.items())
    assert list(drawing.legend) == ["mamba2", "diff-mamba2"]


def test_probabilities_are_drawn_from_zero_however_small_they_are() -> None:
    tiny = curve(value=(1e-14, 1e-14, 1e-14), low=(0.0, 0.0, 0.0), high=(1e-13, 1e-13, 1e-13))
    assert stages_drawing([tiny], title="").y.limits == (0.0, 1e-6)
    assert stages_drawing([curve()], title="").y.limits == (0.0, 0.7)
    assert stages_drawing([curve()], title="", log=True).y.limits is None
    assert ' fill="none" stroke=' in to_svg(stages_drawing([tiny], title=""))


def test_curves_of_several_measures_or_none_are_refused() -> None:
    with pytest.raises(ValueError, match="several measures, probability, snr_db"):
        stages_drawing([curve(), curve(measure="snr_db")], title="")
    with pytest.raises(ValueError, match="several measures, probability, snr_db"):
        difference_by_stage([paired(), paired(measure="snr_db")])
    with pytest.raises(ValueError, match="no curves"):
        curves_by_stage([])


def test_the_figures_are_the_drawings() -> None:
    band, line = curves_by_stage([curve(model="<b>")], title="<i>t</i>").data
    assert list(band.y) == [0.2, 0.3, 0.7, 0.5, 0.1, 0.05]
    assert list(line.x) == list(STAGES)
    assert line.name.startswith("&lt;b&gt;, tuned lens")
    figure = difference_by_stage([paired()])
    assert list(figure.data[1].marker.symbol) == ["square-open", "square-open", "square"]
    assert figure.layout.shapes[0].y0 == 0


def test_groups_have_short_names() -> None:
    assert group_name((("length", "512"),)) == "all tasks, 512"
    assert group_name((("task", "qa1"),)) == "qa1"


def test_each_measure_has_a_figure_and_a_logarithmic_axis_only_where_it_is_no_logarithm() -> None:
    figures = figures_by_measure([curve(), curve(measure="snr_db")], log=True)
    assert [figures[measure].layout.yaxis.type for measure in ("probability", "snr_db")] == ["log", None]
    assert "difference" in figures_by_measure([paired()])[paired().measure].layout.yaxis.title.text


def test_probes_have_a_panel_a_group_a_colour_a_model_and_dashes_for_shuffled_answers() -> None:
    groups = ((("task", "qa1"), ("length", "0")), (("task", "qa2"), ("length", "0")))
    curves = [
        curve(model, lens, measure=measure, group=group)
        for group in groups
        for model in ("mamba2", "diff-mamba2")
        for lens in ("probe", "shuffled answers")
        for measure in ("is_right", "calibrated_bits")
    ]
    drawing = probes_drawing(curves, title="t")
    assert [panel.title for panel in drawing.panels] == ["qa1, 0k, n = 30", "qa2, 0k, n = 30"]
    assert (drawing.y.title, drawing.x.title) == ("accuracy", "stage")
    assert drawing.y.limits == (0.0, 1.05)
    for panel in drawing.panels:
        made = [mark for mark in panel.marks if isinstance(mark, Line)]
        assert [line.name for line in made] == [
            *("mamba2, probe", "mamba2, shuffled answers", "diff-mamba2, probe", "diff-mamba2, shuffled answers"),
        ]
        plain, shuffled, other, _ = (line.style for line in made)
        assert plain.colour == shuffled.colour == MODELS["mamba2"].colour
        assert other.colour == MODELS["diff-mamba2"].colour
        assert (plain.dash == other.dash, plain.dash == shuffled.dash) == (True, False)
        assert not any(isinstance(mark, Level) for mark in panel.marks)


def test_a_difference_of_probes_says_whose_it_is_and_has_a_line_at_0() -> None:
    drawing = probes_drawing(
        [paired(measure="calibrated_bits", lens="probe", low=(-0.1, 0.1, 0.5))], measure="calibrated_bits"
    )
    (line,) = lines(drawing)
    assert line.name == "diff-mamba2 − mamba2, probe"
    assert line.hollow == [True, True, False]
    assert [mark.at for mark in drawing.panels[0].marks if isinstance(mark, Level)] == [0.0]
    assert drawing.y.title == "difference in bits about the answer"
    with pytest.raises(ValueError, match="curves holds none of 'is_right'"):
        probes_drawing([curve()])
