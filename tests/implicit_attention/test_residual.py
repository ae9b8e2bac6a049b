"""A logit taken apart adds up to the logit."""

import json
import math

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.implicit_attention import ResidualAttribution, residual_attribution
from tests.models.tiny import DIFF_S6_VARIANTS, DIFFERENTIAL_VARIANTS, random_tokens, tiny_model, variant_id


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)), proj_bias=True)


@pytest.mark.parametrize("sources", ["convolved", "input"])
@pytest.mark.parametrize("placement", ["all", "alternate", "quarter"])
def test_the_parts_sum_to_the_logit_of_published_checkpoints(published_models, placement: str, sources: str) -> None:
    published = HookedMamba.from_pretrained(published_models / placement)
    tokens = random_tokens(2, 130, d_vocab=published.cfg.d_vocab)
    made = residual_attribution(published, tokens, torch.tensor([5, 8]), sources=sources)
    computed = published(tokens)[torch.arange(2), -1, torch.tensor([5, 8])].detach()
    assert torch.allclose(made.logit, computed, atol=1e-5)
    assert made.remainder.abs().max() < 1e-4
    assert made.logit.abs().max() > 0.1


@pytest.mark.parametrize("cfg", [*DIFFERENTIAL_VARIANTS, *DIFF_S6_VARIANTS], ids=variant_id)
def test_the_parts_sum_to_a_logit_difference_in_every_kind_of_block(cfg: DifferentialConfig) -> None:
    tiny = tiny_model(cfg, n_groups=2, d_model=32, proj_bias=True)
    made = residual_attribution(tiny, random_tokens(2, 9), 3, 4, versus=torch.tensor([1, 2]), sources="input")
    assert made.remainder.abs().max() < 1e-4
    assert torch.allclose(made.embedding + made.by_source.sum(dim=1) + made.bias.sum(dim=1), made.total, atol=1e-5)
    assert made.difference[..., 5:].abs().max() == 0
    by_branch = made.minuend[:, 0] - made.lambda_subtrahend[:, 0]
    assert torch.allclose(made.difference[:, 0], by_branch, atol=1e-5)


def test_branches_and_lambda_are_told_apart(model: HookedMamba) -> None:
    made = residual_attribution(model, random_tokens(), 3)
    by_hand = made.minuend - made.lambda_[..., None] * made.subtrahend
    assert torch.allclose(made.difference[:, 0], by_hand[:, 0], atol=1e-6)
    assert made.kinds == ("differential", "plain")
    assert torch.isnan(made.minuend[:, 1]).all()
    assert torch.isnan(made.lambda_[:, 1]).all()


def test_the_strongest_writers_are_sorted_and_carry_their_sign(model: HookedMamba) -> None:
    made = residual_attribution(model, random_tokens(), 3)
    writers = made.strongest(10_000, sample=1)
    sizes = [abs(writer.logits) for writer in writers]
    assert sizes == sorted(sizes, reverse=True)
    assert {writer.branch for writer in writers if writer.block == 0 and writer.logits} == {"minuend", "subtrahend"}
    written = sum(writer.logits for writer in writers)
    assert math.isclose(written, float(made.by_source[1].sum()), abs_tol=1e-4)


def test_padding_does_not_move_the_answer(model: HookedMamba) -> None:
    tokens = random_tokens(2, 12)
    padded = residual_attribution(model, tokens, 3, lengths=torch.tensor([12, 8]))
    alone = residual_attribution(model, tokens[1:, :8], 3)
    assert padded.position.tolist() == [11, 7]
    assert torch.allclose(padded.logit[1], alone.logit[0], atol=1e-5)
    assert torch.allclose(padded.difference[1, :, :8], alone.difference[0], atol=1e-5)


def test_an_ablated_block_writes_nothing_and_the_rest_says_so(model: HookedMamba) -> None:
    tokens = random_tokens()
    with model.hooks([("blocks.1.hook_mixer_out", lambda value, name: torch.zeros_like(value))]):
        made = residual_attribution(model, tokens, 3)
    assert torch.allclose(made.remainder, -made.by_block[:, 1], atol=1e-5)


def test_gradients_flow_when_asked_for(model: HookedMamba) -> None:
    assert not residual_attribution(model, random_tokens(), 3).total.requires_grad
    made = residual_attribution(model, random_tokens(), 3, grad=True)
    (ours,) = torch.autograd.grad(made.total.sum(), model.blocks[0].mixer.lambda_q1, retain_graph=True)
    (theirs,) = torch.autograd.grad(made.logit.sum(), model.blocks[0].mixer.lambda_q1)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert theirs.abs().max() > 1e-6


@pytest.mark.parametrize("versus", [None, 5])
def test_an_attribution_goes_to_json_and_back(model: HookedMamba, versus: int | None) -> None:
    made = residual_attribution(model, random_tokens(), 3, versus=versus)
    text = json.dumps(made.to_dict(), allow_nan=False)
    again = ResidualAttribution.from_dict(json.loads(text))
    assert torch.equal(again.difference, made.difference)
    assert torch.equal(again.lambda_.nan_to_num(), made.lambda_.nan_to_num())
    assert (again.versus is None) == (versus is None)
    assert again.kinds == made.kinds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer": 99}, "0 to 22"),
        ({"answer": 3, "position": 9}, "lengths are"),
        ({"answer": 3, "versus": 99}, "versus"),
    ],
)
def test_a_token_or_position_that_does_not_exist_is_refused(model: HookedMamba, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        residual_attribution(model, random_tokens(), **options)
