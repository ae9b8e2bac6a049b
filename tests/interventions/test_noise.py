"""Noise has the power that was asked for, and belongs to a prompt, not to its batch."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.interventions import AddNoise, hooks_of, intervene, randomise_tokens
from diffmamba_interp.interventions.noise import gaussian, prefix_keys
from tests.models.tiny import random_tokens, relative_error, tiny_model


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)))


def noise_in(model: HookedMamba, tokens: Tensor, intervention: AddNoise, name: str) -> tuple[Tensor, Tensor]:
    """What was added at a point, and what it was added to."""
    before: list[Tensor] = []

    def look(value: Tensor, name: str) -> None:
        before.append(value)

    with torch.no_grad(), model.hooks([(name, look)]), intervene(model, intervention):
        _, cache = model.run_with_cache(tokens, name)
    return cache[name] - before[0], before[0]


# ------------------------------------------------------------------ in the residual stream


@pytest.mark.parametrize("point", ["resid_pre", "resid_post"])
@pytest.mark.parametrize("snr_db", [-6.0, 0.0, 20.0])
def test_noise_has_the_requested_ratio_at_every_position(model: HookedMamba, snr_db: float, point: str) -> None:
    tokens = random_tokens(200, 9)
    noise, resid = noise_in(model, tokens, AddNoise(snr_db=snr_db, blocks=1, point=point), f"blocks.1.hook_{point}")
    sigma = (resid.square().mean(dim=-1) / 10 ** (snr_db / 10)).sqrt()
    standard = noise / sigma[..., None]
    # 200 samples * 16 channels: the mean square of a position has a standard deviation of sqrt(2 / 3200) = 2.5 %.
    assert torch.allclose(standard.square().mean(dim=(0, 2)), torch.ones(9), atol=0.12)
    assert float(standard.square().mean()) == pytest.approx(1.0, abs=0.03)
    assert abs(float(standard.mean())) < 0.03


def test_noise_does_not_depend_on_the_batch_or_on_what_follows(model: HookedMamba) -> None:
    name, intervention = "blocks.0.hook_resid_pre", AddNoise(snr_db=3.0, blocks=0)
    tokens = random_tokens(5, 9)
    together, _ = noise_in(model, tokens, intervention, name)
    for sample in range(5):
        alone, _ = noise_in(model, tokens[sample : sample + 1, :7], intervention, name)
        assert relative_error(alone[0], together[sample, :7]) < 1e-5


def test_noise_differs_between_prompts_positions_blocks_and_seeds(model: HookedMamba) -> None:
    same_end = random_tokens(2, 9)
    same_end[:, 4:] = same_end[0, 4:]
    first = AddNoise(snr_db=0.0, seed=0)
    draws = [
        noise_in(model, same_end, intervention, f"blocks.{block}.hook_resid_pre")[0]
        for block, intervention in ((0, first), (1, first), (0, AddNoise(snr_db=0.0, seed=1)))
    ]
    rows = torch.cat([draw.reshape(-1, 16) for draw in draws])
    rows = rows / rows.norm(dim=-1, keepdim=True)
    overlap = (rows @ rows.T).fill_diagonal_(0.0).abs()
    assert float(overlap.max()) < 0.95
    again = noise_in(model, same_end, first, "blocks.0.hook_resid_pre")[0]
    assert torch.equal(again, draws[0])


@torch.no_grad()
def test_noise_of_an_infinite_ratio_is_none(model: HookedMamba) -> None:
    silent = model.run_with_hooks(random_tokens(), hooks_of(model, AddNoise(snr_db=math.inf)))
    assert torch.equal(silent, model(random_tokens()))
    loud = model.run_with_hooks(random_tokens(), hooks_of(model, AddNoise(snr_db=0.0)))
    assert relative_error(loud, silent) > 1e-2


@pytest.mark.parametrize("snr_db", [math.nan, -math.inf])
def test_a_ratio_that_is_no_number_is_refused(snr_db: float) -> None:
    with pytest.raises(ValueError, match="must be a number of dB"):
        AddNoise(snr_db=snr_db)


def test_the_gaussian_numbers_are_gaussian() -> None:
    numbers = gaussian(prefix_keys(torch.randn(4, 50, 8)), 512, seed=3, stream=0).flatten().double()
    n = len(numbers)
    assert float(numbers.mean()) == pytest.approx(0.0, abs=5 / n**0.5)
    assert float(numbers.square().mean()) == pytest.approx(1.0, abs=5 * (2 / n) ** 0.5)
    assert float(numbers.pow(4).mean()) == pytest.approx(3.0, abs=5 * (96 / n) ** 0.5)
    for limit, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        assert float((numbers.abs() < limit).double().mean()) == pytest.approx(share, abs=0.005)


def test_streams_and_seeds_and_channels_are_uncorrelated() -> None:
    keys = prefix_keys(torch.randn(4, 64, 8))
    draws = [gaussian(keys, 64, seed, stream) for seed in (0, 1, -1) for stream in (0, 1)]
    draws += [draws[0].roll(1, dims=-1), draws[0].roll(1, dims=1)]
    for first, second in combinations(draws, 2):
        correlation = float((first * second).mean())
        assert abs(correlation) < 5 / first.numel() ** 0.5


# ------------------------------------------------------------------ among the tokens

PROMPT = np.arange(100, dtype=np.int32) % 50


def test_a_share_of_the_spans_is_replaced_and_nothing_else() -> None:
    replaced = randomise_tokens(PROMPT, [(10, 40), (30, 50), (60, 80)], share=0.5, d_vocab=50)
    changed = set(np.flatnonzero(replaced != PROMPT).tolist())
    assert len(changed) == 30
    assert changed <= {*range(10, 50), *range(60, 80)}
    assert replaced.dtype == PROMPT.dtype
    assert replaced.min() >= 0
    assert replaced.max() < 50


def test_shares_zero_and_one_are_none_and_all() -> None:
    assert np.array_equal(randomise_tokens(PROMPT, [(0, 100)], share=0.0, d_vocab=50), PROMPT)
    assert (randomise_tokens(PROMPT, [(0, 100)], share=1.0, d_vocab=50) != PROMPT).all()


def test_excluded_tokens_are_never_drawn() -> None:
    replaced = randomise_tokens(PROMPT, [(0, 100)], share=1.0, d_vocab=50, exclude=range(3, 50))
    assert set(replaced.tolist()) == {0, 1, 2}


def test_the_same_seed_and_prompt_give_the_same_tokens() -> None:
    def draw(seed: int) -> np.ndarray:
        return randomise_tokens(PROMPT, [(0, 100)], share=0.5, d_vocab=50, seed=seed)

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.5}, "share is 1.5: give a number, from 0 to 1"),
        ({"spans": [(90, 101)]}, "position 100 is beyond the prompt, which has positions 0 to 99"),
        ({"spans": [(5, 5)]}, "no half-open interval"),
        ({"exclude": range(49)}, "at least two must be left"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        randomise_tokens(PROMPT, **({"spans": [(0, 10)], "share": 0.5, "d_vocab": 50} | changes))
