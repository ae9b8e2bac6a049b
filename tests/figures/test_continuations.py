"""Continuations drawn: each variant's probability of the first one's tokens, and the table of all ranks."""

import numpy as np
import pytest

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.drawing.panels import Line
from diffmamba_interp.figures.continuations import continuations_csv, continuations_drawing, continuations_figure
from diffmamba_interp.interventions import Continuations, SetLambda, continuations
from tests.models.tiny import random_tokens, tiny_model


@pytest.fixture(scope="module")
def record() -> Continuations:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    return continuations(model, random_tokens(1, 5), {"as it is": (), "without": SetLambda(value=0.0)}, 4, top_k=3)


def test_every_variant_is_a_curve_over_the_first_ones_tokens(record: Continuations) -> None:
    drawing = continuations_drawing(record, lambda token: f"<{token}>")
    lines = list(drawing.marks(Line))
    assert [line.name for line in lines] == ["as it is", "without"]
    for line, values in zip(lines, record.probability, strict=True):
        np.testing.assert_allclose(line.y, values, rtol=1e-6)
    assert drawing.x.ticks[0.0] == f"<{record.tokens[0, 0]}>"
    assert lines[1].notes[2].startswith(f"likeliest: <{record.followed_tokens[1, 2, 0]}> (")
    assert lines[0].style != lines[1].style
    assert "&lt;" in continuations_figure(record, lambda token: f"<{token}>").layout.xaxis.ticktext[0]


def test_the_table_has_a_line_for_every_rank(record: Continuations) -> None:
    lines = continuations_csv(record, str).splitlines()
    assert len(lines) == 1 + 2 * 4 * 3
    assert lines[1].startswith("as it is,0,")
