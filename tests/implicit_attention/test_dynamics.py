"""Rollout and half-life on cases that are known in closed form."""

import math

import pytest
import torch

from diffmamba_interp.implicit_attention import extract_attention, memory_half_life, rollout
from tests.models.tiny import random_tokens, tiny_model


def test_rollout_mixes_the_stream_and_what_the_block_read() -> None:
    weights = torch.tensor([[[2.0, 0.0], [-3.0, 1.0]]])
    assert torch.allclose(rollout([weights]), torch.tensor([[[1.0, 0.0], [0.375, 0.625]]]))
    twice = rollout([weights, weights])
    assert torch.allclose(twice, rollout([weights]) @ rollout([weights]))


def test_rollout_of_later_blocks_is_applied_on_the_left() -> None:
    first, second = torch.eye(3)[None, [0, 0, 2]], torch.eye(3)[None, [0, 1, 1]]
    expected = rollout([second], 0.2) @ rollout([first], 0.2)
    assert torch.allclose(rollout([first, second], 0.2), expected)
    assert not torch.allclose(rollout([second, first], 0.2), expected)


def test_rollout_over_a_model_is_causal_and_its_rows_sum_to_one() -> None:
    model, tokens = tiny_model(), random_tokens(2, 9)
    reach = rollout(record.net for record in extract_attention(model, tokens, kind="contribution_norm"))
    assert torch.allclose(reach.sum(dim=-1), torch.ones(2, 9))
    assert torch.equal(reach, reach.tril())


def test_a_block_that_reads_nothing_passes_everything_on() -> None:
    assert torch.equal(rollout([torch.zeros(1, 3, 3)]), torch.eye(3)[None])


def test_rollout_refuses_what_is_no_picture_of_all_rows() -> None:
    with pytest.raises(ValueError, match="rows=None"):
        rollout([torch.ones(1, 2, 3)])
    with pytest.raises(ValueError, match="residual_share"):
        rollout([torch.ones(1, 2, 2)], 1.5)
    with pytest.raises(ValueError, match="empty"):
        rollout([])


def test_a_constant_decay_halves_after_its_half_life() -> None:
    log_decay = torch.tensor([-0.1, -math.log(2)]).expand(1, 50, 2)
    made = memory_half_life(log_decay)
    assert made.mean[0].tolist() == pytest.approx([math.log(2) / 0.1, 1.0])
    assert math.exp(-0.1 * float(made.mean[0, 0])) == pytest.approx(0.5)
    assert torch.allclose(made.quantiles, made.mean.expand(3, 1, 2))


def test_quantiles_are_of_the_half_life_and_not_of_the_rate() -> None:
    log_decay = -torch.linspace(0.1, 1.0, 101)[None, :, None]
    made = memory_half_life(log_decay, levels=(0.0, 0.5, 1.0))
    assert made.quantiles[:, 0, 0].tolist() == pytest.approx([math.log(2), math.log(2) / 0.55, math.log(2) / 0.1])


def test_padding_does_not_count_and_no_decay_lasts_for_ever() -> None:
    log_decay = torch.zeros(1, 6, 1)
    log_decay[:, :3] = -0.5
    assert memory_half_life(log_decay, torch.tensor([3])).mean.item() == pytest.approx(2 * math.log(2))
    assert memory_half_life(torch.zeros(1, 6, 1)).mean.item() == math.inf
