"""What attention figures share: pooling, ticks, room for labels, and panels on one scale."""

import numpy as np
import pytest

from diffmamba_interp.figures.attention_panels import margins, pooled, scale_end, side_by_side, ticks


def test_a_pooled_cell_keeps_the_value_of_largest_magnitude_and_its_sign() -> None:
    value = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    cells = pooled(value, 3)
    assert cells.shape == (3, 2)
    for row in range(3):
        for column in range(2):
            part = value[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            assert cells[row, column] == part.ravel()[np.abs(part).argmax()]


def test_without_pooling_the_values_are_those_given() -> None:
    value = np.eye(3, dtype=np.float32)
    assert pooled(value, 1) is value


def test_the_scale_ends_at_a_quantile_of_what_is_not_zero() -> None:
    values = [np.array([0.0, 0.0, -1.0, np.nan]), np.array([2.0, 3.0])]
    assert scale_end(values, 1.0) == 3.0
    assert scale_end(values, 0.5) == 2.0
    assert scale_end([np.zeros(3)], 0.99) == 1.0


@pytest.mark.parametrize(("n", "step"), [(5, 1), (17, 2), (80, 5), (512, 50)])
def test_ticks_stand_at_round_distances(n: int, step: int) -> None:
    made = ticks([str(place) for place in range(n)], 16, first=100)
    assert made["tickvals"][:2] == [100, 100 + step]
    assert made["ticktext"][1] == str(step)
    assert len(made["tickvals"]) <= 16


def test_longer_labels_get_more_room_and_an_escaped_letter_counts_once() -> None:
    assert margins(["1 abcdef"], ["1"])["b"] > margins(["1 abc"], ["1"])["b"]
    assert margins(["&lt;"], ["1"]) == margins(["<"], ["1"])


def test_panels_stand_beside_one_another_and_share_scale_and_destinations() -> None:
    trace = {"type": "heatmap", "z": np.eye(2)}
    figure = side_by_side(
        {"a": trace, "b": trace, "c": trace},
        x_axis={"title": {"text": "x"}},
        y_axis={"title": {"text": "y"}},
        layout={"coloraxis": {"cmin": -1, "cmax": 1}},
        shapes=[{"type": "rect", "x0": 0, "x1": 1, "y0": 0, "y1": 1}],
    )
    domains = [figure.layout[name].domain for name in ("xaxis", "xaxis2", "xaxis3")]
    assert (domains[0][0], domains[2][1]) == pytest.approx((0, 1))
    assert all(left[1] < right[0] for left, right in zip(domains, domains[1:], strict=False))
    assert [note.text for note in figure.layout.annotations] == ["a", "b", "c"]
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis"] * 3
    assert (figure.layout.yaxis.title.text, figure.layout.yaxis2.title.text) == ("y", None)
    assert (figure.layout.yaxis3.matches, figure.layout.yaxis3.showticklabels) == ("y", False)
    assert [shape.xref for shape in figure.layout.shapes] == ["x", "x2", "x3"]
