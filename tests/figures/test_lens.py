"""Lens figures: right places, the sign of a difference, which lens is which, escaped text, and refusals."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from diffmamba_interp.drawing.colours import DEPTH, LENSES, MAGNITUDE, SIGNED
from diffmamba_interp.drawing.panels import HeatMap
from diffmamba_interp.figures.lens import (
    CellQuantity,
    kl_drawing,
    lens_difference_drawing,
    lens_difference_heat_map,
    lens_drawing,
    lens_heat_map,
)
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
    drawing = lens_drawing(trajectory, WORDS, statistic=statistic)
    (heat,) = drawing.marks(HeatMap)
    assert (heat.y, drawing.y.backwards) == (("embedding", "output"), False)
    assert heat.values[1][2] == pytest.approx(expected, abs=1e-6)
    assert heat.text[1][2] == "%{x}"
    assert heat.x == [0.0, 1.0, 2.0]


def test_colours_are_those_of_probabilities_nats_or_ranks(trajectory: LensTrajectory) -> None:
    scales = {name: lens_drawing(trajectory, WORDS, statistic=name).scale for name in get_args(CellQuantity)}
    assert [(scale.low, scale.high, scale.colours) for scale in scales.values()] == [
        (0.0, 1.0, DEPTH),
        (0.0, pytest.approx(1.4), DEPTH),
        (0.0, pytest.approx(2.4), DEPTH),
        (0.0, 3.0, MAGNITUDE[::-1]),
        (0.0, 1.0, DEPTH),
    ]
    assert scales["target_rank"].title == "log10 rank\nof the answer"


def test_token_text_is_escaped_everywhere_and_white_space_is_visible(trajectory: LensTrajectory) -> None:
    figure = lens_heat_map(trajectory, WORDS, title="<b>bold</b>")
    assert "<script>" not in figure.to_json().replace("\\u003c", "<")
    assert figure.layout.title.text == "&lt;b&gt;bold&lt;/b&gt;"
    assert figure.layout.xaxis.ticktext == ("␣the", "&lt;script&gt;…", "⏎")


def test_hovering_lists_the_top_tokens_with_their_probabilities(trajectory: LensTrajectory) -> None:
    heat, *_ = lens_heat_map(trajectory, WORDS.__getitem__).data
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


def test_each_lens_has_its_own_divergences_under_its_own_name(measurement: LensMeasurement) -> None:
    drawing = kl_drawing(measurement, title="t")
    assert list(drawing.legend) == ["logit lens", "tuned lens"]
    logit, tuned = drawing.legend.values()
    assert (logit.y, tuned.y) == ([8.0, 1.0], [2.0, 1e-4])
    assert (logit.low, logit.high) == (
        [pytest.approx(7.2), pytest.approx(0.9)],
        [pytest.approx(8.8), pytest.approx(1.1)],
    )
    assert (logit.style, tuned.style) == (LENSES["logit"], LENSES["tuned"])
    assert (logit.style.dash, tuned.style.dash) == ("dash", "solid")
    assert (drawing.y.kind, drawing.y.title) == ("log", "KL to output, nats")
    assert drawing.x.ticks == {"embedding": "emb.", "after block 0": "0"}


def of_tops(top: list[list[int]], probability: float) -> LensTrajectory:
    """Two stages, two tokens, with these top tokens at this probability."""
    shape = (1, 2, 2)
    return LensTrajectory(
        stages=("embedding", "output"),
        tokens=np.array([[0, 1]]),
        top_tokens=np.array(top)[None, ..., None],
        top_probabilities=np.full((*shape, 1), probability, dtype=np.float32),
        entropy_nats=np.full(shape, 4 * probability, dtype=np.float32),
        kl_to_final_nats=np.zeros(shape, dtype=np.float32),
    )


FIRST, SECOND = of_tops([[0, 1], [2, 3]], 0.75), of_tops([[0, 4], [2, 1]], 0.5)


@pytest.mark.parametrize(("statistic", "expected"), [("probability", 0.25), ("entropy", 1.0)])
def test_a_difference_is_model_minus_baseline_on_a_signed_scale_and_says_so(statistic: str, expected: float) -> None:
    names = ("bundled:diff-mamba2", "mamba2")
    drawing = lens_difference_drawing(FIRST, SECOND, WORDS, statistic=statistic, names=names)
    (heat,) = drawing.marks(HeatMap)
    assert np.allclose(heat.values, expected)
    assert (drawing.scale.low, drawing.scale.high) == pytest.approx((-expected, expected))
    assert drawing.scale.colours == SIGNED
    assert drawing.scale.title.startswith("diff-mamba2 − mamba2:\n")
    assert lens_difference_drawing(FIRST, SECOND, WORDS).scale.title.startswith("first − second:\n")


def test_a_word_of_the_model_stands_where_the_two_disagree_and_both_lists_are_told() -> None:
    (heat,) = lens_difference_drawing(FIRST, SECOND, WORDS, names=("a", "b")).marks(HeatMap)
    assert heat.text == [["", "<script>…"], ["", "%{x}"]]
    first, second = heat.notes[0][1].split("\nb:\n")
    assert "75.0 %  <script>" in first
    assert "50.0 %  cat" in second


def test_equal_trajectories_differ_by_nothing() -> None:
    figure = lens_difference_heat_map(FIRST, FIRST, WORDS)
    assert not figure.data[0].z.any()
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-1, 1)


def test_a_difference_of_probabilities_is_of_the_same_token() -> None:
    # The baseline finds another token likeliest, and the model's half as likely as that.
    token, probability = FIRST.top_tokens[..., :1], SECOND.top_probabilities[..., :1]
    baseline = replace(
        SECOND,
        top_tokens=np.concatenate([(token + 1) % 5, token], axis=-1),
        top_probabilities=np.concatenate([probability, probability / 2], axis=-1),
    )
    (heat,) = lens_difference_drawing(FIRST, baseline, WORDS, statistic="probability").marks(HeatMap)
    assert np.allclose(heat.values, FIRST.top_probabilities[0, ..., 0] - probability[0, ..., 0] / 2)
    unlisted = replace(baseline, top_tokens=np.concatenate([(token + 1) % 5, (token + 2) % 5], axis=-1))
    (least,) = lens_difference_drawing(FIRST, unlisted, WORDS, statistic="probability").marks(HeatMap)
    assert np.allclose(least.values, heat.values)


def test_two_prompts_are_compared_position_by_position_when_that_is_asked_for() -> None:
    other = replace(SECOND, tokens=np.array([[FIRST.tokens[0, 0], (FIRST.tokens[0, 1] + 1) % 3]]))
    drawing = lens_difference_drawing(FIRST, other, WORDS, other_prompt=True, statistic="entropy")
    first, second = drawing.x.ticks.values()
    assert "\n" not in first
    assert second.count("\n") == 1


def test_trajectories_that_cannot_be_subtracted_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be subtracted"):
        lens_difference_heat_map(FIRST, replace(SECOND, stages=("embedding", "a", "output")), WORDS)
    with pytest.raises(ValueError, match="different tokens"):
        lens_difference_heat_map(FIRST, replace(SECOND, tokens=np.array([[0, 2]])), WORDS)
