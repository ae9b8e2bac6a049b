from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from diffmamba_interp import HookedMamba
from diffmamba_interp.lm_training import loss as loss_module
from diffmamba_interp.lm_training.loss import RoleSums, weighted_loss
from diffmamba_interp.lm_training.mixture import Role
from tests.models.tiny import random_tokens, tiny_model

ROLE_WEIGHTS = torch.tensor([0.0, 1.0, 0.25, 4.0])


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    tokens, targets = random_tokens(3, 10, seed=1, d_vocab=19), random_tokens(3, 10, seed=2, d_vocab=19)
    roles = torch.randint(0, 4, (3, 10), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    return tokens, targets, roles


def chunked(model: HookedMamba, sums: RoleSums | None = None, **changes: Any) -> Tensor:
    options = {"scale": 0.5, "compute_dtype": torch.float32} | changes
    return weighted_loss(model, *inputs(), ROLE_WEIGHTS, sums or RoleSums("cpu"), **options)


def ordinary(model: HookedMamba) -> Tensor:
    tokens, targets, roles = inputs()
    logits = model(tokens)[..., : model.cfg.d_vocab - model.cfg.d_vocab_padding]
    nll = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return 0.5 * (nll * ROLE_WEIGHTS[roles.long()].flatten()).sum()


def gradients(model: HookedMamba, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk", [7, 30, 8192])
@pytest.mark.parametrize("sizes", [{}, {"tie_embeddings": True}, {"d_vocab_padding": 4}], ids=str)
def test_the_chunked_loss_and_its_gradients_are_those_of_ordinary_cross_entropy(
    chunk: int, sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_TOKENS", chunk)
    model = tiny_model(**sizes)
    torch.testing.assert_close(chunked(model), ordinary(model), rtol=1e-5, atol=0)
    ours, theirs = gradients(model, 3 * chunked(model)), gradients(model, 3 * ordinary(model))
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_bf16_products_give_nearly_the_same_loss() -> None:
    model = tiny_model()
    rounded, exact = chunked(model, compute_dtype=torch.bfloat16), chunked(model)
    assert rounded != exact
    torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=0)


def test_sums_count_every_target_by_role_whatever_its_weight() -> None:
    model, sums = tiny_model(), RoleSums("cpu")
    chunked(model, sums)
    tokens, targets, roles = inputs()
    logits = model(tokens)
    nll = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(roles.shape)
    means = sums.read()
    assert set(means) == {"text_loss", "context_loss", "answer_loss", "answer_accuracy"}
    for role in (Role.TEXT, Role.CONTEXT, Role.ANSWER):
        assert means[f"{role.name.lower()}_loss"] == pytest.approx(nll[roles == role].mean().item(), rel=1e-5)
    answered = (logits.argmax(-1) == targets)[roles == Role.ANSWER]
    assert means["answer_accuracy"] == pytest.approx(answered.float().mean().item())


def test_means_of_roles_without_tokens_are_left_out() -> None:
    assert RoleSums("cpu").read() == {}
