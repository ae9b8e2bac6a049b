"""Paired differences: their sign, their interval against brute force, and what a pairing is worth."""

import numpy as np
import pytest

from diffmamba_interp.needle.comparison import paired_difference


def test_the_difference_counts_the_stories_that_only_one_model_got_right() -> None:
    found = paired_difference([True, True, False, False, True], [True, False, True, True, True])
    assert found.value == pytest.approx(0.2)
    assert (found.n_first_only, found.n_second_only, found.n) == (1, 2, 5)
    assert found.low <= found.value <= found.high


def test_the_interval_is_that_of_resampling_stories_one_by_one() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(200) < 0.6, rng.random(200) < 0.75
    found = paired_difference(first.tolist(), second.tolist())
    d = second.astype(float) - first
    means = d[rng.integers(0, 200, size=(10_000, 200))].mean(axis=1)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.011)
    assert found.excludes_zero == (found.low > 0)


def test_exchanging_the_models_turns_the_sign() -> None:
    first, second = [True] * 9 + [False], [True] * 2 + [False] * 8
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.value == -other.value == pytest.approx(-0.7)
    assert one.excludes_zero
    assert other.excludes_zero


def test_models_that_never_disagree_have_no_difference() -> None:
    found = paired_difference([True, False], [True, False])
    assert (found.value, found.low, found.high, found.excludes_zero) == (0.0, 0.0, 0.0, False)


@pytest.mark.parametrize(("first", "second"), [([], []), ([True], [True, False])])
def test_unpaired_answers_are_refused(first: list[bool], second: list[bool]) -> None:
    with pytest.raises(ValueError, match="same ones"):
        paired_difference(first, second)
