"""Lens figures: right places, escaped text, and refusals."""

from dataclasses import replace

import numpy as np
import pytest

from diffmamba_interp.figures.lens import kl_by_stage, lens_heat_map
from diffmamba_interp.figures.lens_svg import kl_svg
from diffmamba_interp.lens import Estimate, LensMeasurement, LensTrajectory
from diffmamba_interp.lens.evaluation import StageMeasurement

WORDS = [" the", "<script>alert(1)</script>", "\n", "%{x}", "cat"]


@pytest.fixture
def trajectory() -> LensTrajectory:
    """Two stages, three tokens; cell (s, t) predicts token (s + t) mod 5 with probability 0.1 (1 + s + t)."""
    stage, pos = np.meshgrid(np.arange(2), np.arange(3), indexing="ij")
    values = (0.1 * (1 + stage + pos)).astype(np.float32)
    top = np.stack([(stage + pos) % 5, (stage + pos + 1) % 5], axis=-1)
    return LensTrajectory(
        stages=("embedding", "output"),
        tokens=np.array([[0, 1, 2]]),
        top_tokens=top[None],
        top_probabilities=np.stack([values, values / 2], axis=-1)[None],
        entropy_nats=values[None] + 1,
        kl_to_final_nats=values[None] + 2,
        targets=np.array([[1, 2, 3]]),
        target_log_probabilities=np.log(values)[None],
        target_ranks=(10 ** (stage + pos))[None],
    )


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [("probability", 0.4), ("entropy", 1.4), ("kl_to_final", 2.4), ("target_rank", 3.0), ("target_probability", 0.4)],
)
def test_each_statistic_is_drawn_in_the_cell_of_its_stage_and_token(
    trajectory: LensTrajectory, statistic: str, expected: float
) -> None:
    (heat,) = lens_heat_map(trajectory, WORDS, statistic=statistic).data
    assert heat.y == ("embedding", "output")
    assert heat.z[1][2] == pytest.approx(expected, abs=1e-6)
    assert heat.text[1][2] == "%&#123;x}"


def test_token_text_is_escaped_everywhere_and_white_space_is_visible(trajectory: LensTrajectory) -> None:
    figure = lens_heat_map(trajectory, WORDS, title="<b>bold</b>")
    assert "<script>" not in figure.to_json().replace("\\u003c", "<")
    assert figure.layout.title.text == "&lt;b&gt;bold&lt;/b&gt;"
    assert figure.layout.xaxis.ticktext == ("␣the", "&lt;script&gt;…", "\\n")


def test_hovering_lists_the_top_tokens_with_their_probabilities(trajectory: LensTrajectory) -> None:
    (heat,) = lens_heat_map(trajectory, WORDS.__getitem__).data
    assert " 40.0 %  %&#123;x}" in heat.customdata[1][2]
    assert " 20.0 %  cat" in heat.customdata[1][2]
    assert "rank 1000" in heat.customdata[1][2]


def test_a_statistic_of_targets_needs_targets(trajectory: LensTrajectory) -> None:
    without = replace(trajectory, targets=None, target_ranks=None, target_log_probabilities=None)
    lens_heat_map(without, WORDS)
    with pytest.raises(ValueError, match="no targets"):
        lens_heat_map(without, WORDS, statistic="target_rank")


def test_a_sample_that_is_not_there_is_refused(trajectory: LensTrajectory) -> None:
    with pytest.raises(IndexError, match="holds 1 prompts"):
        lens_heat_map(trajectory, WORDS, sample=1)


@pytest.fixture
def measurement() -> LensMeasurement:
    def about(value: float) -> Estimate:
        return Estimate(value=value, low=0.9 * value, high=1.1 * value)

    stages = tuple(
        StageMeasurement(
            stage=name,
            kl_nats=about(tuned),
            logit_lens_kl_nats=about(logit),
            kl_saved_nats=about(logit - tuned),
            bits_per_byte=None,
            logit_lens_bits_per_byte=None,
        )
        for name, tuned, logit in (("embedding", 2.0, 8.0), ("after block 0", 0.0, 1.0))
    )
    return LensMeasurement(stages=stages, model_bits_per_byte=None, n_documents=3, n_tokens=30, n_bytes=None)


def test_both_lenses_are_drawn_with_their_intervals(measurement: LensMeasurement) -> None:
    logit, tuned = kl_by_stage(measurement).data
    assert (logit.name, tuned.name) == ("logit lens", "tuned lens")
    assert logit.y == (8.0, 1.0)
    assert logit.error_y.array == pytest.approx((0.8, 0.1))
    assert logit.line.dash != tuned.line.dash


def test_the_svg_is_well_formed_escapes_its_title_and_draws_zero_at_the_bottom(measurement: LensMeasurement) -> None:
    from xml.etree import ElementTree

    drawn = kl_svg(measurement, title="<lens> & model")
    root = ElementTree.fromstring(drawn)
    lines = [element.attrib["points"].split() for element in root.iter("{http://www.w3.org/2000/svg}polyline")]
    (logit_first, logit_last), (_, tuned_last) = [[float(p.split(",")[1]) for p in line] for line in lines]
    assert logit_first < logit_last < tuned_last
    assert "&lt;lens&gt; &amp; model" in drawn
