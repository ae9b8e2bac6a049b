"""Long pictures are pooled to what is strongest in them."""

import numpy as np

from diffmamba_interp.figures.attention_panels import pooled


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
