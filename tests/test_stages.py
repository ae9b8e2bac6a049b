"""Stages: where an answer has formed."""

import numpy as np
import pytest

from diffmamba_interp.stages import formation_stage


@pytest.mark.parametrize(
    ("is_clear", "stage"),
    [([0, 0, 1, 1], 2), ([1, 0, 1, 1], 2), ([1, 1, 1, 1], 0), ([1, 1, 1, 0], 4), ([0, 0, 0, 1], 3)],
)
def test_an_answer_has_formed_where_all_later_stages_are_clear_too(is_clear: list[int], stage: int) -> None:
    assert formation_stage(np.array([is_clear], dtype=bool)).tolist() == [stage]
