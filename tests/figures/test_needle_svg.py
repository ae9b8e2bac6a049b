"""Small figures by stage: a panel per group and lens, a curve per model, gaps where a logarithm has no value."""

from dataclasses import replace

import pytest

from diffmamba_interp.figures.needle_svg import group_name, short_stage, stages_svg
from diffmamba_interp.needle.curves import Curve, PairedCurve

CURVE = Curve(
    model="one",
    lens="tuned",
    measure="probability",
    statistic="mean",
    group=(("task", "qa1"), ("length", "1024")),
    n=30,
    stages=("embedding", "after block 0", "output"),
    value=(1e-4, 0.01, 0.6),
    low=(1e-5, 0.001, 0.5),
    high=(1e-3, 0.1, 0.7),
)


def test_each_group_and_lens_is_a_panel_and_each_model_a_curve() -> None:
    curves = [
        replace(CURVE, model=model, lens=lens, group=group)
        for group in (CURVE.group, (("length", "0"),))
        for model in ("one", "t<o")
        for lens in ("tuned", "logit")
    ]
    text = stages_svg(curves, title="a title")
    assert text.count("<polyline") == 8
    for title in ("qa1, 1k", "all tasks, 0k"):
        assert text.count(f"{title}, tuned lens, n = 30") == text.count(f"{title}, logit lens, n = 30") == 1
    assert text.count("t&lt;o<") == 1  # in the legend
    assert all(f">{name}<" in text for name in ("emb.", "0", "out"))


def test_a_logarithmic_axis_shows_exponents_and_leaves_gaps() -> None:
    text = stages_svg([CURVE], title="", log=True)
    assert "log10 of the probability of the answer" in text
    assert text.count("h0") == 3
    # A bound of 0 has no logarithm.
    assert stages_svg([replace(CURVE, low=(0.0, 0.001, 0.5))], title="", log=True).count("h0") == 2


def test_probabilities_are_drawn_from_zero_however_small_they_are() -> None:
    tiny = replace(CURVE, value=(1e-14, 1e-14, 1e-14), low=(0.0, 0.0, 0.0), high=(1e-13, 1e-13, 1e-13))
    assert stages_svg([tiny], title="").count("h0") == 3


def test_a_difference_is_named_as_one() -> None:
    values = {name: getattr(CURVE, name) for name in CURVE.__dataclass_fields__} | {"measure": "snr_db"}
    paired = PairedCurve(**values, baseline="zero", p_value=(0.1, 0.1, 0.1), p_holm=(0.3, 0.3, 0.3))
    assert "difference in signal-to-noise ratio, dB" in stages_svg([paired], title="")


def test_curves_of_several_measures_are_refused() -> None:
    with pytest.raises(ValueError, match="of 2 measures"):
        stages_svg([CURVE, replace(CURVE, measure="snr_db")], title="")
    with pytest.raises(ValueError, match="of 0 measures"):
        stages_svg([], title="")


def test_groups_and_stages_have_short_names() -> None:
    assert group_name((("length", "512"),)) == "all tasks, 512"
    assert [short_stage(one) for one in CURVE.stages] == ["emb.", "0", "out"]
