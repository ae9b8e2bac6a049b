"""Stages: where an answer has formed."""

import numpy as np
import pytest

from diffmamba_interp.stages import formation_stage, stage_names, stage_words


@pytest.mark.parametrize(
    ("is_clear", "stage"),
    [([0, 0, 1, 1], 2), ([1, 0, 1, 1], 2), ([1, 1, 1, 1], 0), ([1, 1, 1, 0], 4), ([0, 0, 0, 1], 3)],
)
def test_an_answer_has_formed_where_all_later_stages_are_clear_too(is_clear: list[int], stage: int) -> None:
    assert formation_stage(np.array([is_clear], dtype=bool)).tolist() == [stage]


def test_a_stage_is_called_as_the_places_where_a_lens_reads_are() -> None:
    names = stage_names(3)
    assert [stage_words(stage, 4) for stage in range(5)] == [
        f"in the {names[0]}", names[1], names[2], f"at the {names[3]}", "nowhere",
    ]  # fmt: skip
