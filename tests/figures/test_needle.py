"""Figures of the needle show every stage's value and interval, tell curves apart, and mark what is significant."""

from dataclasses import replace

import pytest

from diffmamba_interp.figures.needle import curves_by_stage, difference_by_stage
from diffmamba_interp.needle.curves import Curve, PairedCurve

STAGES = ("embedding", "after block 0", "output")


def curve(model: str = "one", lens: str = "tuned", **changes: object) -> Curve:
    made = Curve(
        model=model,
        lens=lens,
        measure="probability",
        statistic="mean",
        group=(("task", "qa1"),),
        n=30,
        stages=STAGES,
        value=(0.1, 0.2, 0.6),
        low=(0.05, 0.1, 0.5),
        high=(0.2, 0.3, 0.7),
    )
    return replace(made, **changes)


def paired() -> PairedCurve:
    values = {name: getattr(curve("second"), name) for name in Curve.__dataclass_fields__}
    return PairedCurve(**values, baseline="first", p_value=(0.5, 0.02, 0.001), p_holm=(0.5, 0.06, 0.003))


def test_a_curve_is_a_line_in_a_band_over_the_stages() -> None:
    band, line = curves_by_stage([curve()]).data
    assert list(line.x) == list(STAGES)
    assert list(line.y) == [0.1, 0.2, 0.6]
    assert list(band.x) == [*STAGES, *reversed(STAGES)]
    assert list(band.y) == [0.2, 0.3, 0.7, 0.5, 0.1, 0.05]
    assert "n = 30" in line.hovertemplate


def test_models_differ_in_colour_and_lenses_in_dashes() -> None:
    curves = [curve(model, lens) for model in ("one", "two") for lens in ("tuned", "logit")]
    lines = [trace for trace in curves_by_stage(curves).data if trace.name]
    assert len({line.name for line in lines}) == 4
    looks = {line.name: (line.line.color, line.line.dash) for line in lines}
    assert looks["one, tuned lens, task qa1"][0] == looks["one, logit lens, task qa1"][0]
    assert looks["one, tuned lens, task qa1"][0] != looks["two, tuned lens, task qa1"][0]
    assert looks["one, tuned lens, task qa1"][1] == looks["two, tuned lens, task qa1"][1]
    assert looks["one, tuned lens, task qa1"][1] != looks["one, logit lens, task qa1"][1]


def test_groups_of_one_model_differ_in_colour_and_statistics_in_name() -> None:
    curves = [curve(), curve(group=(("task", "qa2"),)), curve(statistic="median")]
    lines = [trace for trace in curves_by_stage(curves).data if trace.name]
    assert lines[0].line.color != lines[1].line.color
    assert lines[2].name == "one, tuned lens, task qa1, median"


def test_the_axis_is_linear_or_logarithmic_but_decibels_are_never_logarithmic_twice() -> None:
    assert curves_by_stage([curve()]).layout.yaxis.type is None
    assert curves_by_stage([curve()], log=True).layout.yaxis.type == "log"
    with pytest.raises(ValueError, match="logarithmic already"):
        curves_by_stage([curve(measure="snr_db")], log=True)


def test_significant_differences_are_filled_and_zero_is_marked() -> None:
    figure = difference_by_stage([paired()], title="a")
    line = figure.data[1]
    assert list(line.marker.symbol) == ["circle-open", "circle-open", "circle"]
    assert line.name == "second - first, tuned lens, task qa1"
    assert [row[3] for row in line.customdata] == [0.5, 0.06, 0.003]
    assert figure.layout.shapes[0].y0 == 0


def test_names_and_titles_are_shown_as_text() -> None:
    figure = curves_by_stage([curve(model="<b>x</b>")], title="<i>t</i>")
    assert "<b>" not in figure.data[1].name
    assert "<i>" not in figure.layout.title.text


def test_no_curves_or_several_measures_are_refused() -> None:
    with pytest.raises(ValueError, match="no curves"):
        curves_by_stage([])
    with pytest.raises(ValueError, match="several measures, probability, snr_db"):
        difference_by_stage([paired(), replace(paired(), measure="snr_db")])
