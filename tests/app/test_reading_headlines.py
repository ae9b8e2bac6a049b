"""What the last position reads, in sentences, from allocations made by hand."""

from __future__ import annotations

import torch

from app.shell.headlines import Headline
from app.shell.needle_runs import NeedleReading
from app.shell.reading_headlines import last_reads_headline
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, PICTURES, Allocation
from tests.app.test_headlines import objections, trajectory, words

N_BLOCKS = 4
NET, MINUEND = PICTURES.index("net"), PICTURES.index("minuend")


def reading(model: str, n: int = 12, *, plain: bool = False) -> NeedleReading:
    """Every class gets 1 in every block; needles stand as high as the rest."""
    mass = torch.ones(n, len(DIRECTIONS), N_BLOCKS, len(PICTURES), len(CLASSES))
    snr_db = torch.zeros(n, len(DIRECTIONS), N_BLOCKS, len(PICTURES))
    # No two prompts are alike.
    snr_db += torch.linspace(0, 0.1, n)[:, None, None, None]
    if plain:
        mass[..., MINUEND:, :] = snr_db[..., MINUEND:] = torch.nan
    allocation = Allocation(
        mass=mass, smaller=torch.zeros(n, len(DIRECTIONS), N_BLOCKS, len(CLASSES)), snr_db=snr_db,
        cosine=torch.zeros(n, len(DIRECTIONS), N_BLOCKS), n_sources=torch.ones(n, len(CLASSES), dtype=torch.long),
    )  # fmt: skip
    return NeedleReading(trajectory=trajectory(model, 2, n, n_blocks=N_BLOCKS), allocation=allocation)


def told(*readings: NeedleReading) -> tuple[str, str]:
    headline: Headline = last_reads_headline(readings)
    return words(headline), objections(headline)


def test_who_reads_more_of_the_needle_is_told_with_block_interval_and_n_and_the_other_way_against_it() -> None:
    model, plain = reading("bundled:diff-mamba2"), reading("bundled:mamba2", plain=True)
    model.allocation.snr_db[:, :, [1, 2], NET] += torch.tensor([3.0, 5.0])
    model.allocation.snr_db[:, :, 3, NET] -= 4.0
    says, against = told(model, plain)
    assert says.startswith(
        "diff-mamba2 reads more of the needle, over the other tokens, than mamba2 in 2 of 4 blocks, most in block 2 "
        "(+5.0 [+5.0, +5.0] dB)."
    )
    assert "reads less of the needle, over the other tokens, than mamba2 in one block, block 3 (−4.0" in against
    assert "The subtraction in diff-mamba2 raises the needle over the other tokens in 2 of 4 blocks" in says
    assert "p < 0.05, corrected for the number of blocks; n = 12 prompts." in says


def test_less_of_the_noise_is_a_finding_and_more_of_it_speaks_against() -> None:
    model, plain = reading("diff"), reading("plain", plain=True)
    for block, size in ((0, 0.0), (1, 3.0)):
        model.allocation.mass[:, :, block, NET, CLASSES.index("distractors")] = size
    says, against = told(model, plain)
    share = 2 / len(CLASSES) - 1 / (len(CLASSES) - 1)
    assert f"less of distractors and filler than plain in one block, block 0 (−{100 * share:.1f} [" in says
    assert "percentage points" in says
    assert "diff reads more of distractors and filler than plain in one block, block 1 (+" in against
    assert "It cancels more of the distractors than of the needle in one block, block 0 (+50.0" in says
    assert "It cancels less of the distractors than of the needle in one block, block 1 (−100.0" in against


def test_what_is_told_apart_in_no_block_is_said_and_few_prompts_decide_nothing() -> None:
    says, against = told(reading("diff"), reading("plain", plain=True))
    assert "Not told apart in any block, p 1 or more: diff reads more of the needle" in against
    assert says.startswith("In no block a difference counts in what diff and plain read of needle and noise. A block")
    model, plain = reading("diff", 9), reading("plain", 9, plain=True)
    model.allocation.snr_db[..., NET] += 5
    says, against = told(model, plain)
    assert "n = 9 prompts, of which 10 are the fewest that decide" in says
    assert "reads more" not in says


def test_one_model_is_told_by_its_subtraction_and_a_plain_one_by_its_best_block() -> None:
    one = reading("diff")
    one.allocation.snr_db[:, :, 0, NET] += 2
    assert told(one)[0].startswith("The subtraction in diff raises the needle over the other tokens in one block")
    plain = reading("plain", plain=True)
    plain.allocation.snr_db[:, :, 3, NET] += 2
    assert told(plain)[0].startswith("plain reads the needle, over the other tokens, most in block 3: +2.")


def test_nothing_is_said_of_what_was_not_read() -> None:
    assert last_reads_headline([NeedleReading(trajectory=trajectory("one", 2), allocation=None)]).says == ()
