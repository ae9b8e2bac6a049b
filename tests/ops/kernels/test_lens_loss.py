"""The in-place exponentiation of rows, beside PyTorch's logsumexp and softmax."""

import pytest
import torch

from diffmamba_interp.lens.objective import ReadOut, Translators, add_block_gradient, final_target
from diffmamba_interp.ops.kernels.lens_loss import RowTiles, exponentiate_rows_fused_

SMALL = RowTiles(block=64, num_warps=1)


@pytest.mark.parametrize("n_columns", [1, 7, 64, 97, 500])
@pytest.mark.usefixtures("poisoned_memory")
def test_float32_rows_agree_with_logsumexp_and_softmax(n_columns: int, device: torch.device) -> None:
    logits = 8 * torch.randn(5, n_columns).to(device)
    expected_lse, expected = logits.logsumexp(-1), logits.softmax(-1)
    lse, total = exponentiate_rows_fused_(logits, tiles=SMALL)
    torch.testing.assert_close(lse, expected_lse, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(logits / total[:, None], expected, rtol=1e-5, atol=1e-7)


def test_bfloat16_weights_sum_to_one_and_the_logsumexp_is_not_rounded(device: torch.device) -> None:
    logits = (8 * torch.randn(4, 300)).to(device, torch.bfloat16)
    expected = logits.float().logsumexp(-1)
    lse, total = exponentiate_rows_fused_(logits, tiles=SMALL)
    torch.testing.assert_close(lse, expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(logits.float().sum(-1), total, rtol=1e-6, atol=0)


def test_rows_of_a_wider_matrix_leave_the_rest_of_it_alone(device: torch.device) -> None:
    wide = torch.randn(3, 100).to(device)
    before = wide.clone()
    exponentiate_rows_fused_(wide[:, :90], tiles=SMALL)
    assert torch.equal(wide[:, 90:], before[:, 90:])
    assert not torch.equal(wide[:, :90], before[:, :90])


def test_large_logits_do_not_overflow(device: torch.device) -> None:
    logits = torch.tensor([[3e4, 3e4, -3e4]]).to(device)
    lse, total = exponentiate_rows_fused_(logits, tiles=SMALL)
    assert logits.tolist() == [[1.0, 1.0, 0.0]]
    assert lse.item() == pytest.approx(3e4 + 0.6931, rel=1e-6)
    assert total.item() == 2.0


def test_columns_that_are_not_contiguous_are_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        exponentiate_rows_fused_(torch.randn(6, 4).to(device).T)


def test_an_unserved_dtype_is_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="float64"):
        exponentiate_rows_fused_(torch.randn(2, 4, dtype=torch.float64).to(device))


def test_the_objective_of_a_lens_is_the_same_with_and_without_the_kernel(device: torch.device) -> None:
    weight, h, final = torch.randn(70, 16), torch.randn(9, 16), torch.randn(9, 16)
    translators = Translators(weight=0.1 * torch.randn(1, 16, 16).to(device), bias=torch.randn(1, 16).to(device))
    results = []
    for fused in (False, True):
        read_out = ReadOut(weight=weight.to(device), gain=torch.ones(16, device=device), eps=1e-5, fused=fused)
        gradient = translators.zeros_like()
        target = final_target(read_out, final.to(device))
        results.append((add_block_gradient(0, h.to(device), target, translators, gradient, read_out), gradient))
    (loss, gradient), (loss_fused, gradient_fused) = results
    torch.testing.assert_close(loss_fused, loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient_fused.weight, gradient.weight, rtol=1e-3, atol=1e-4)
