"""Shares of an allocation, on one that is worked by hand."""

import math

import pytest
import torch

from diffmamba_interp.implicit_attention.allocation import CLASSES, PICTURES, Allocation, allocation_measures

MISSING = float("nan")


@pytest.fixture
def allocation() -> Allocation:
    """One prompt, two directions, a differential block and a plain one."""
    #        needle question distractors filler other
    net = [2.0, 1.0, 1.0, 2.0, 4.0]
    minuend = [3.0, 1.0, 2.0, 2.0, 2.0]
    scaled = [1.0, 1.0, 3.0, 2.0, 3.0]
    missing = [MISSING] * len(CLASSES)
    mass = torch.tensor([[[[net, minuend, scaled], [net, missing, missing]]]])
    snr = torch.tensor([[[[3.0, 4.0, 5.0], [6.0, MISSING, MISSING]]]])
    return Allocation(
        mass=torch.cat([mass, 2 * mass], dim=1),
        smaller=torch.zeros(1, 2, 2, len(CLASSES)),
        snr_db=torch.cat([snr, snr + 1], dim=1),
        cosine=torch.zeros(1, 2, 2),
        n_sources=torch.ones(1, len(CLASSES), dtype=torch.long),
    )


def test_over_allocation_is_the_share_on_distractors_and_filler(allocation: Allocation) -> None:
    found = allocation_measures(allocation).over_allocation
    assert tuple(found) == PICTURES
    assert [found[name][0, 0].item() for name in PICTURES] == pytest.approx([0.3, 0.4, 0.5])


def test_what_is_cancelled_is_what_the_branches_had_and_the_difference_has_not(allocation: Allocation) -> None:
    found = allocation_measures(allocation).cancelled
    shares = [found[name][0, 0].item() for name in CLASSES]
    assert shares == pytest.approx([1 - 2 / 4, 1 - 1 / 2, 1 - 1 / 5, 1 - 2 / 4, 1 - 4 / 5])


def test_a_plain_block_has_no_numbers_of_branches(allocation: Allocation) -> None:
    found = allocation_measures(allocation)
    assert math.isfinite(found.over_allocation["net"][0, 1])
    assert all(math.isnan(value[0, 1]) for value in found.cancelled.values())
    assert math.isnan(found.snr_db["minuend"][0, 1])


def test_the_direction_is_chosen_and_must_be_there(allocation: Allocation) -> None:
    assert allocation_measures(allocation).snr_db["net"].tolist() == [[3.0, 6.0]]
    assert allocation_measures(allocation, 1).snr_db["net"].tolist() == [[4.0, 7.0]]
    with pytest.raises(IndexError, match="directions 0 to 1"):
        allocation_measures(allocation, 2)
