"""Noise over fillers: the measures are those of variances that are known, and the page says what they show."""

import math

import numpy as np
import pytest

from analyses.noise_variance import report
from diffmamba_interp.resampling import crossed_counts

N_STORIES, N_FILLERS = 60, 12
STORY = np.repeat([f"s{i}" for i in range(N_STORIES)], N_FILLERS).tolist()
FILLER = [f"f{i}" for i in range(N_FILLERS)] * N_STORIES


def made_up(common: float, own: float, own_2: float, sign: float = 1.0) -> np.ndarray:
    """[prompt, source, branch, 1]: branches share noise of sd `common` and have noise of their own; needles write 3, 1.

    Every story has a mean of its own, which is no noise.
    """
    rng = np.random.default_rng(0)
    n = len(STORY)
    shared, first, second = rng.normal(size=(3, n)) * np.array([[common], [own], [own_2]])
    of_story = np.repeat(rng.normal(size=N_STORIES) * 5, N_FILLERS)
    noise = np.stack([2 + of_story + shared + first, 1 + sign * shared + second], axis=1)
    needle = np.broadcast_to([3.0, 1.0], (n, 2))
    return np.stack([noise, needle], axis=1)[..., None]


def test_measures_are_those_of_the_variances_that_were_put_in() -> None:
    common, own, own_2 = 2.0, 1.0, 0.5
    measured = {name: one[0] for name, one in report.measures(made_up(common, own, own_2), STORY, FILLER).items()}
    v_1, v_2, v_net = common**2 + own**2, common**2 + own_2**2, own**2 + own_2**2
    expected = {
        "kept": v_net / v_1,
        "cancelled": 2 * common**2 / (v_1 + v_2),
        "sd_minuend": math.sqrt(v_1),
        "sd_lambda_subtrahend": math.sqrt(v_2),
        "sd_net": math.sqrt(v_net),
        "mean_lambda_subtrahend": 1.0,
        "needle_net": 2.0,
        "snr_net_db": 10 * math.log10(4 / v_net),
        "snr_gained_db": 10 * math.log10((4 / v_net) / (9 / v_1)),
    }
    for name, value in expected.items():
        estimate = measured[name]
        assert estimate.value == pytest.approx(value, rel=0.08, abs=0.3 if "db" in name else 0.1), name
        assert estimate.low <= value <= estimate.high, name


def test_unrelated_noise_is_not_cancelled_and_opposite_noise_adds_up() -> None:
    unrelated = report.measures(made_up(0.0, 1.0, 1.0), STORY, FILLER)
    assert unrelated["cancelled"][0].low < 0 < unrelated["cancelled"][0].high
    assert unrelated["kept"][0].value == pytest.approx(2.0, rel=0.15)
    opposite = report.measures(made_up(2.0, 0.1, 0.1, sign=-1.0), STORY, FILLER)
    assert opposite["cancelled"][0].value == pytest.approx(-1.0, abs=0.02)


def test_equal_branches_cancel_altogether() -> None:
    same = made_up(2.0, 0.0, 0.0)
    same[:, :, 1] = same[:, :, 0]
    whole = report.measures(same, STORY, FILLER)
    assert (whole["cancelled"][0].value, whole["sd_net"][0].value) == (1.0, 0.0)


def test_a_filler_drawn_twice_does_not_seem_to_steady_the_noise() -> None:
    values = made_up(0.0, 1.0, 1.0)[:, 0, 0]
    draws = crossed_counts(STORY, FILLER, n_resamples=400)
    drawn = report.within(draws, values, STORY) / report.freedom(draws, STORY)
    once = np.ones((1, len(STORY)))
    whole = report.within(once, values, STORY) / report.freedom(once, STORY)
    assert report.freedom(once, STORY).item() == N_STORIES * (N_FILLERS - 1)
    by_story = values.reshape(N_STORIES, N_FILLERS)
    assert whole.item() == pytest.approx(by_story.var(axis=1, ddof=1).mean())
    assert drawn.mean() == pytest.approx(whole.item(), rel=0.03)


def test_draws_in_which_no_story_has_two_fillers_are_left_out() -> None:
    story, filler = ["a", "a", "b", "b"], ["x", "y", "x", "y"]
    draws = report.draws_of(story, filler)
    assert 0 < len(draws) < report.N_RESAMPLES
    assert (report.freedom(draws, story) > 0).all()


def test_one_filler_a_story_has_no_variance() -> None:
    with pytest.raises(ValueError, match="two at least"):
        report.freedom(np.ones((1, 3)), ["a", "b", "c"])


@pytest.mark.parametrize(
    ("cancelled", "kept", "enough", "words"),
    [
        ((0.4, 0.3, 0.5), (0.6, 0.5, 0.7), 20, "cancels in part**; the difference varies less"),
        ((-0.4, -0.5, -0.3), (2.0, 1.5, 2.5), 20, "adds up**; the difference varies more"),
        ((0.4, 0.3, 0.5), (1.6, 1.5, 1.7), 20, "cancels in part**; the difference varies more"),
        ((0.4, 0.3, 0.5), (0.6, 0.5, 0.7), 4, "not seen to be alike**; whether"),
    ],
)
def test_the_verdict_follows_the_intervals(cancelled: tuple, kept: tuple, enough: int, words: str) -> None:
    assert words in report.verdict({"cancelled": cancelled, "kept": kept}, enough)
