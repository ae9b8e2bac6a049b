"""What was changed, in words: no name of a class or of a hook is left in them."""

import pytest

from app.shell.readings import CHANGES, in_words
from diffmamba_interp.interventions import (
    AblateBranch,
    AblateHead,
    AddNoise,
    Intervention,
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
         "heads 1, 3 off in block 2, of the minuend, behind its scan"),
        (AblateHead(block=2, heads=[1], at="gated"), "head 1 off in block 2, behind its gate"),
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
