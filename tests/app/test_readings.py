"""What was changed, in words: no name of a class or of a hook is left in them; numbers and tokens in sentences."""

import numpy as np
import pytest

from app.shell.readings import CHANGES, at_output, in_words
from app.shell.wording import placed, quoted, said, signed_text
from diffmamba_interp.interventions import (
    AblateBranch,
    AblateHead,
    AddNoise,
    Intervention,
    InterventionRecord,
    KnockOut,
    ScaleLambda,
    SetLambda,
    SwapBranches,
)
from diffmamba_interp.interventions.intervention import describe


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (SetLambda(value=0.3, blocks=[2]), "λ set to 0.3 in block 2"),
        (ScaleLambda(factor=0.5), "λ times 0.5"),
        (AblateBranch(branch="minuend", blocks=[1]), "minuend off in block 1"),
        (SwapBranches(blocks=[0, 3]), "minuend and subtrahend exchanged in blocks 0, 3"),
        (AblateHead(block=2, heads=[1, 3], branch="minuend"),
         "heads 1, 3 off in block 2, of the minuend, at its scan's output"),
        (AblateHead(block=2, heads=[1], at="gated"), "head 1 off in block 2, after its gate"),
        (KnockOut(positions=[3, 5], blocks=[0, 1, 2]),
         "positions 3, 5 taken out in blocks 0–2, as what the state takes in"),
        (KnockOut(positions=[3], level="input", branch="subtrahend"),
         "position 3 taken out, with everything that the convolution makes of it, of the subtrahend"),
        (AddNoise(snr_db=3.0), "noise at 3 dB, seed 0, where each block begins"),
    ],
)  # fmt: skip
def test_a_change_is_told_in_the_words_of_the_pages(change: Intervention, told: str) -> None:
    assert in_words(describe(change)) == told
    assert type(change).__name__ in CHANGES


def test_numbers_have_no_powers_of_ten_and_the_minus_of_the_axes() -> None:
    assert [signed_text(value) for value in (5.7367, -2.3e-5, 0.0, -12345.0)] == ["+5.74", "−0.000023", "+0", "−12300"]
    assert [said(value) for value in (0.999, 0.9997, 1.0, 0.99, 0.5, 0.04, 2.3e-5, 0.0, -0.04)] == [
        "0.999",
        "> 0.999",
        "1.00",
        "0.99",
        "0.50",
        "0.04",
        "1 in 43,000",
        "0.00",
        "−0.04",
    ]


def test_a_sign_that_is_a_token_stands_in_quotes() -> None:
    assert (quoted(":"), quoted(" John"), quoted(" ")) == ("“:”", "“John”", "“␣”")
    assert [placed(name) for name in ("43 :", "3 ␣John", "needle", "the rest")] == [
        "position 43, “:”", "position 3, “John”", "the needle", "the rest of the prompt",
    ]  # fmt: skip


def test_what_became_less_points_down_and_says_so_without_a_hyphen() -> None:
    clean, after = (
        {"answer_probability": np.array([p]), "snr_db": np.array([d])} for p, d in ((0.9, 3.0), (0.2, -1.5))
    )
    numbers = at_output(InterventionRecord(clean=clean, intervened=after, interventions=({"kind": "SwapBranches"},)))
    assert [(number.value, number.change, number.is_lower) for number in numbers] == [
        ("0.200", "−0.700 from 0.900", True), ("−1.5 dB", "−4.5 dB from 3", True),
    ]  # fmt: skip
