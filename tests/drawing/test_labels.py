"""A row of weights over its text: right colours, and text that stays text."""

import re

import numpy as np
import pytest

from diffmamba_interp.drawing.labels import coloured_text, probability_change_text, probability_text


def grounds(text: str) -> list[tuple[int, ...]]:
    colours = re.findall(r"background:#(..)(..)(..);", text)
    return [tuple(int(channel, 16) for channel in colour) for colour in colours]


def test_positive_is_red_negative_is_blue_and_nothing_is_near_white() -> None:
    negative, none, positive = grounds(coloured_text(["a", "b", "c"], np.array([-1.0, 0.0, 1.0]), limit=1.0))
    assert negative[2] > negative[0]
    assert positive[0] > positive[2]
    assert min(none) > 240


def test_values_beyond_the_limit_get_the_colour_of_the_limit() -> None:
    assert grounds(coloured_text(["a"], np.array([0.25]), limit=1.0, rooted=True)) == grounds(
        coloured_text(["a"], np.array([0.5]), limit=1.0)
    )
    beyond, at = grounds(coloured_text(["a", "b"], np.array([9.0, 1.0]), limit=1.0))
    assert beyond == at


def test_token_text_is_no_markup() -> None:
    made = coloured_text(["<script>alert(1)</script>", '" onclick="x', "\n", ""], np.zeros(4), limit=1.0)
    assert "<script" not in made
    assert ' onclick="x' not in made.replace("␣", " ").replace("&quot;", "'")
    assert "⏎" in made
    assert "∅" in made


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one value per token"):
        coloured_text(["a"], np.zeros(2), limit=1.0)
    with pytest.raises(ValueError, match="limit"):
        coloured_text(["a"], np.zeros(1), limit=0.0)


def test_positions_are_counted_from_the_first() -> None:
    made = coloured_text(["a", "b"], np.array([0.5, 0.25]), limit=1.0, first=7)
    assert re.findall(r'title="([^"]*)"', made) == ["7: 0.5", "8: 0.25"]


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "0.000"),
        (1.0, "1.000"),
        (0.4321, "0.432"),
        (0.9994, "0.999"),
        (0.99998, "> 0.999"),
        (0.000226, "1 in 4,400"),
        (2.301e-5, "1 in 43,000"),
        (1e-12, "< 1 in a billion"),
    ],
)
def test_a_probability_is_told_without_zeros_and_without_powers_of_ten(probability: float, text: str) -> None:
    assert probability_text(probability) == text


def test_a_change_of_a_probability_is_told_by_its_size_or_its_sign() -> None:
    assert probability_change_text(1.0, 1.0 - 2.301e-5) == "a little lower, from 1.000"
    assert probability_change_text(0.99992, 0.99991) == "a little lower"
    assert probability_change_text(2e-6, 4e-6) == "a little higher, from 1 in 500,000"
    assert probability_change_text(0.99992, 0.25) == "−0.750 from over 0.999"
    assert probability_change_text(0.4, 0.65) == "+0.250 from 0.400"
    assert probability_change_text(0.5, 2e-6) == "−0.500 from 0.500"
