"""Interventions on Mamba-1 mixers: what is said of a head is true of a channel."""

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.interventions import AblateBranch, AblateHead, KnockOut, SwapHeads, collect_means, intervene
from tests.models.tiny import random_tokens, relative_error, tiny_model


@pytest.fixture(scope="module", params=[None, DifferentialConfig()], ids=["plain", "differential"])
def model(request: pytest.FixtureRequest) -> HookedMamba:
    return tiny_model(request.param, mixer="mamba1", dt_rank=3)


@torch.no_grad()
@pytest.mark.parametrize("at", ["ssm_y", "gated"])
def test_an_ablated_channel_is_one_whose_output_weights_are_zero(model: HookedMamba, at: str) -> None:
    tokens, branch = random_tokens(), "subtrahend" if model.cfg.differential else None
    mixer = model.blocks[0].mixer if branch is None else model.blocks[0].mixer.subtrahend
    with intervene(model, AblateHead(block=0, heads=[1, 3], branch=branch, at=at)):  # type: ignore[arg-type]
        given = model(tokens)
    kept = mixer.out_proj.weight.clone()
    mixer.out_proj.weight[:, [1, 3]] = 0.0
    assert relative_error(given, model(tokens)) < 1e-6
    mixer.out_proj.weight.copy_(kept)
    assert relative_error(given, model(tokens)) > 1e-4


@torch.no_grad()
def test_means_are_collected_and_fill_a_channel(model: HookedMamba) -> None:
    branch = "minuend" if model.cfg.differential else None
    means = collect_means(model, [random_tokens(3, 8)])
    name = "blocks.1.mixer.hook_gated" if branch is None else "blocks.1.mixer.minuend.hook_gated"
    assert means[name].shape == (model.cfg.mixer_sizes(model.cfg.block_kind(1)).d_inner,)
    with intervene(model, AblateHead(block=1, heads=2, branch=branch, at="gated", means=means)):
        _, cache = model.run_with_cache(random_tokens(), name)
    assert torch.allclose(cache[name][..., 2], means[name][2].expand(2, 9))


@torch.no_grad()
@pytest.mark.parametrize("level", ["write", "input"])
@pytest.mark.parametrize(
    ("differential", "mixer"),
    [
        (None, "mamba1"),
        (DifferentialConfig(), "mamba1"),
        (DifferentialConfig(subtract_at="scan"), "mamba1"),
        (DifferentialConfig(subtract_at="scan"), "mamba2"),
    ],
    ids=["plain", "differential", "diff-s6", "diff-s6 over mamba2"],
)
def test_a_token_that_is_knocked_out_writes_nothing(
    differential: DifferentialConfig | None, mixer: str, level: str
) -> None:
    """Of earlier tokens taken out of every convolution that has no bias, the last position sees nothing."""
    model = tiny_model(differential, mixer=mixer, conv_bias=False)
    tokens = random_tokens(2, 6)
    with intervene(model, KnockOut(positions=range(5), level=level)):  # type: ignore[arg-type]
        given = model(tokens)[:, -1]
    assert relative_error(given, model(tokens)[:, -1]) > 1e-4
    if level == "input":
        assert relative_error(given, model(tokens[:, -1:])[:, 0]) < 1e-5


@torch.no_grad()
def test_channels_can_be_swapped_and_a_branch_taken_out(model: HookedMamba) -> None:
    tokens, branch = random_tokens(), "minuend" if model.cfg.differential else None
    with intervene(model, SwapHeads(block=0, first=0, second=5, branch=branch)):
        assert relative_error(model(tokens), model(tokens)) == 0.0
    if branch is not None:
        with intervene(model, AblateBranch(branch="subtrahend")):
            _, cache = model.run_with_cache(tokens, "*hook_difference")
        _, clean = model.run_with_cache(tokens, "blocks.0.mixer.minuend.hook_out")
        assert torch.equal(cache["blocks.0.mixer.hook_difference"], clean["blocks.0.mixer.minuend.hook_out"])
