"""What the cancellation analysis computes and says, on cases worked by hand."""

from pathlib import Path

import numpy as np
import pytest

from analyses.cancellation import report
from analyses.cancellation.run import MODEL, QUESTION
from diffmamba_interp.analysis.prompts import PromptRecipe, write_prompts
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.implicit_attention.allocation import PICTURES


def test_blocks_and_heads_are_of_the_sizes_that_the_records_sum(tmp_path: Path) -> None:
    options = QUESTION.options(device="cpu", jobs=1)
    recipe = PromptRecipe(stories="generated", lengths=(0,), n=(1,), seed=7)
    write_prompts(recipe, options, tmp_path / "prompts", repeats=True)
    asked = Asked(recipe=recipe, options=options, material=tmp_path / "prompts")
    tables = QUESTION.measure_unit(asked, (MODEL, "qa1", 0))
    records, sizes = tables["records"], np.nansum(tables["arrays"]["sizes"], axis=-1)
    answer = records["direction"] == "answer"
    for number, source in enumerate(report.SOURCES):
        for place, picture in enumerate((*PICTURES, "smaller")):
            expected = records[f"{picture}_{source}"][answer]
            np.testing.assert_allclose(sizes[:, place, number], expected, rtol=1e-4, err_msg=f"{picture} {source}")
    # Over all heads nothing is less than what the block writes of it.
    minuends = tables["arrays"]["heads"][:, :, :, 1].sum(axis=2)
    assert (minuends >= tables["arrays"]["sizes"][:, PICTURES.index("minuend")].swapaxes(1, 2) * (1 - 1e-4)).all()


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
