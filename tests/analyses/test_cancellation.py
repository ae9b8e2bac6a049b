"""What the cancellation analysis computes and says, on cases worked by hand."""

import numpy as np
import pytest

from analyses.cancellation import report


def test_measures_are_those_of_a_case_worked_by_hand() -> None:
    # Two prompts; needle: |K1| 4, |lambda K2| 2, nothing cancels. Noise: |K1| 3, |lambda K2| 3, all of it cancels.
    net, minuend, scaled, smaller = [6.0, 0.0], [4.0, 3.0], [2.0, 3.0], [2.0, 3.0]
    estimates = report.measures(np.array([[net, minuend, scaled, smaller]] * 2))
    assert {name: estimate.value for name, estimate in estimates.items()} == pytest.approx(
        {
            "removed_needle": -0.5,
            "cancelled_needle": 0.0,
            "chance_needle": 1 / 3,
            "part_needle": 1 / 3,
            "removed_noise": 1.0,
            "cancelled_noise": 1.0,
            "chance_noise": 0.5,
            "part_noise": 0.5,
            "removed_noise_less_needle": 1.5,
            "cancelled_less_chance_needle": -1 / 3,
            "cancelled_less_chance_noise": 0.5,
            "cancelled_noise_less_needle": 1.0,
        }
    )


UP, NONE, DOWN = [0.2, 0.1, 0.3], [0.0, -0.1, 0.1], [-0.2, -0.3, -0.1]


@pytest.mark.parametrize(
    ("removed", "selective", "cancels", "words"),
    [
        (UP, UP, DOWN, "the subtraction cancels noise"),
        (DOWN, DOWN, DOWN, "does not cancel noise**: at every length the difference writes more"),
        (NONE, DOWN, DOWN, "is not seen to cancel noise"),
        (UP, DOWN, DOWN, "shrinks noise"),
        (DOWN, DOWN, UP, "mixed"),
    ],
)
def test_the_verdict_follows_the_measures(
    removed: list[float], selective: list[float], cancels: list[float], words: str
) -> None:
    cell = {
        "n": 50,
        "removed_noise": removed,
        "removed_noise_less_needle": selective,
        "cancelled_less_chance_noise": cancels,
    }
    assert words in report.verdict([cell])
