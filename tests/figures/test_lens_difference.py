"""The difference of two lens trajectories: first minus second, and words where the two disagree."""

from dataclasses import replace

import numpy as np
import pytest

from diffmamba_interp.figures.lens_difference import lens_difference_heat_map
from diffmamba_interp.lens import LensTrajectory

WORDS = [" the", "<b>", "a", "b", "cat"]


def trajectory(top: list[list[int]], probability: float) -> LensTrajectory:
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


FIRST, SECOND = trajectory([[0, 1], [2, 3]], 0.75), trajectory([[0, 4], [2, 1]], 0.5)


@pytest.mark.parametrize(("statistic", "expected"), [("probability", 0.25), ("entropy", 1.0)])
def test_the_cells_are_first_minus_second_on_a_scale_around_zero(statistic: str, expected: float) -> None:
    (heat,) = lens_difference_heat_map(FIRST, SECOND, WORDS, statistic=statistic).data
    assert np.allclose(heat.z, expected)
    assert (heat.zmin, heat.zmax) == pytest.approx((-expected, expected))
    assert heat.colorbar.title.text.startswith("first − second")


def test_a_word_stands_where_the_two_disagree_and_both_lists_are_told() -> None:
    (heat,) = lens_difference_heat_map(FIRST, SECOND, WORDS).data
    assert [list(line) for line in heat.text] == [["", "&lt;b&gt;"], ["", "b"]]
    first, second = heat.customdata[0][1].split("second model:")
    assert "75.0 %  &lt;b&gt;" in first
    assert "50.0 %  cat" in second


def test_equal_trajectories_differ_by_nothing() -> None:
    (heat,) = lens_difference_heat_map(FIRST, FIRST, WORDS).data
    assert not heat.z.any()
    assert (heat.zmin, heat.zmax) == (-1, 1)


def test_trajectories_that_cannot_be_subtracted_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be subtracted"):
        lens_difference_heat_map(FIRST, replace(SECOND, stages=("embedding", "a", "output")), WORDS)
    with pytest.raises(ValueError, match="different tokens"):
        lens_difference_heat_map(FIRST, replace(SECOND, tokens=np.array([[0, 2]])), WORDS)
