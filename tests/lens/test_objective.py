"""The written-out loss and gradient, beside autograd over the definition."""

import pytest
import torch
from torch.nn import functional as F

from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import ModelUnembed, TunedLens, residual_stream
from diffmamba_interp.lens.objective import (
    ReadOut,
    Translators,
    add_block_gradient,
    exponentiate_rows_,
    final_target,
    log_probabilities,
    token_target,
)


def by_autograd(lens: TunedLens, block: int, h: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Summed loss and gradients, from the definition; `labels` are log-probabilities or token ids."""
    translator = lens[block].requires_grad_(True)
    q = lens(h, block).log_softmax(-1)
    if labels.is_floating_point():
        loss = (labels.exp() * (labels - q)).sum()
    else:
        loss = F.nll_loss(q, labels, reduction="sum")
    gradients = torch.autograd.grad(loss, [translator.weight, translator.bias])
    return loss.detach(), *gradients


@pytest.fixture
def translators(lens: TunedLens) -> Translators:
    weight, bias = lens.stacked()
    return Translators(weight=weight, bias=bias)


@pytest.mark.parametrize("block", [0, 1, 3])
def test_kl_loss_and_gradient_equal_autograd_over_the_definition(
    model: HookedMamba, lens: TunedLens, translators: Translators, tokens: torch.Tensor, block: int
) -> None:
    stream = residual_stream(model, tokens).flat()
    labels = model(tokens).flatten(0, 1).log_softmax(-1)
    read_out = ReadOut.of(lens.unembed)
    gradient = translators.zeros_like()
    target = final_target(read_out, stream.final)
    loss = add_block_gradient(block, stream.entering[block], target, translators, gradient, read_out)
    expected_loss, expected_weight, expected_bias = by_autograd(lens, block, stream.entering[block], labels)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient.weight[block], expected_weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.bias[block], expected_bias, rtol=1e-4, atol=1e-5)
    others = [other for other in range(len(lens)) if other != block]
    assert not gradient.weight[others].any()
    assert not gradient.bias[others].any()


def test_cross_entropy_loss_and_gradient_equal_autograd(
    model: HookedMamba, lens: TunedLens, translators: Translators, tokens: torch.Tensor
) -> None:
    stream = residual_stream(model, tokens).flat()
    labels = tokens.flatten()
    read_out = ReadOut.of(lens.unembed)
    gradient = translators.zeros_like()
    loss = add_block_gradient(2, stream.entering[2], token_target(read_out, labels), translators, gradient, read_out)
    expected_loss, expected_weight, expected_bias = by_autograd(lens, 2, stream.entering[2], labels)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient.weight[2], expected_weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.bias[2], expected_bias, rtol=1e-4, atol=1e-5)


def test_a_reading_equal_to_the_final_stream_costs_nothing_and_pulls_nowhere(
    model: HookedMamba, tokens: torch.Tensor
) -> None:
    final = residual_stream(model, tokens).flat().final
    read_out = ReadOut.of(ModelUnembed(model))
    zero = Translators(weight=torch.zeros(1, final.shape[1], final.shape[1]), bias=torch.zeros(1, final.shape[1]))
    gradient = zero.zeros_like()
    loss = add_block_gradient(0, final, final_target(read_out, final), zero, gradient, read_out)
    assert abs(loss.item()) < 1e-4
    assert gradient.weight.abs().max() < 1e-5


def test_chunks_add_up_to_the_whole(
    model: HookedMamba, lens: TunedLens, translators: Translators, tokens: torch.Tensor
) -> None:
    stream = residual_stream(model, tokens).flat()
    read_out = ReadOut.of(lens.unembed)
    whole, parts = translators.zeros_like(), translators.zeros_like()
    h = stream.entering[1]
    loss = add_block_gradient(1, h, final_target(read_out, stream.final), translators, whole, read_out)
    losses = [
        add_block_gradient(1, h[c], final_target(read_out, stream.final[c]), translators, parts, read_out)
        for c in (slice(0, 7), slice(7, 8), slice(8, None))
    ]
    torch.testing.assert_close(sum(losses), loss, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-4, atol=1e-5)


def test_bfloat16_products_agree_with_float32_within_bfloat16_error(
    model: HookedMamba, lens: TunedLens, translators: Translators, tokens: torch.Tensor
) -> None:
    stream = residual_stream(model, tokens).flat()
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        read_out = ReadOut.of(lens.unembed, dtype)
        gradient = translators.zeros_like()
        target = final_target(read_out, stream.final)
        results.append((add_block_gradient(1, stream.entering[1], target, translators, gradient, read_out), gradient))
    (loss, gradient), (loss_16, gradient_16) = results
    assert loss_16.item() == pytest.approx(loss.item(), rel=2e-2)
    difference = (gradient_16.weight - gradient.weight).norm() / gradient.weight.norm()
    assert 0 < difference < 3e-2


def test_exponentiated_rows_agree_with_softmax_and_logsumexp() -> None:
    logits = 6 * torch.randn(600, 33)
    expected, expected_lse = logits.softmax(-1), logits.logsumexp(-1)
    lse, total = exponentiate_rows_(logits)
    torch.testing.assert_close(lse, expected_lse)
    torch.testing.assert_close(logits / total[:, None], expected)


def test_exponentiated_bfloat16_rows_are_divided_by_the_sum_of_what_was_written() -> None:
    logits = (6 * torch.randn(4, 33)).bfloat16()
    expected_lse = logits.float().logsumexp(-1)
    lse, total = exponentiate_rows_(logits)
    torch.testing.assert_close(lse, expected_lse)
    torch.testing.assert_close(logits.float().sum(-1), total)


def test_log_probabilities_are_the_models_own_for_the_final_stream(model: HookedMamba, tokens: torch.Tensor) -> None:
    final = residual_stream(model, tokens).flat().final
    expected = model(tokens).flatten(0, 1).log_softmax(-1)
    torch.testing.assert_close(log_probabilities(ReadOut.of(ModelUnembed(model)), final), expected)


def test_asking_for_kernels_where_none_run_raises(model: HookedMamba, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffmamba_interp.ops.kernels import triton_import

    monkeypatch.setattr(triton_import, "INTERPRETED", False)
    with pytest.raises((ImportError, RuntimeError), match="reference"):
        ReadOut.of(ModelUnembed(model), impl="fused")
