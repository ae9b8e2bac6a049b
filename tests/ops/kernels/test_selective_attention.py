"""The kernel of Mamba-1's hidden attention computes what the matrix of every channel says, whole and reduced."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffmamba_interp.ops.kernels import fused_selective_attention, fused_selective_contribution, selective_attention
from diffmamba_interp.ops.selective import selective_attention_matrix
from diffmamba_interp.ops.selective_attention import FrozenSelective

LENGTHS = (1, 7, 64, 130)


def scan_inputs(length: int, device: torch.device, *, d_state: int = 5, n_channels: int = 3) -> dict[str, Tensor]:
    """Steps long and short, states that decay fast and slowly, so that a factor may vanish."""
    torch.manual_seed(length)
    dt = torch.where(torch.rand(1, length, n_channels) < 0.1, 2.0, 0.05) * torch.rand(1, length, n_channels)
    B, C = torch.randn(2, 1, length, d_state)
    A = -16 * torch.rand(n_channels, d_state)
    return {name: value.to(device) for name, value in {"dt": dt, "A": A, "B": B, "C": C}.items()}


def exact(inputs: dict[str, Tensor]) -> Tensor:
    return selective_attention_matrix(*(inputs[name].double() for name in ("dt", "A", "B", "C")))


def assert_close(given: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert given.dtype == torch.float32
    assert given.shape == expected.shape
    assert float((given - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("reduce", [None, "mean", "abs_mean", "max_abs"])
def test_every_form_is_the_matrix_of_the_channels(length: int, reduce: str | None, device: torch.device) -> None:
    inputs = scan_inputs(length, device)
    H = exact(inputs)
    expected = {None: H, "mean": H.mean(1), "abs_mean": H.abs().mean(1), "max_abs": H.abs().amax(1)}[reduce]
    given = fused_selective_attention(**inputs, reduce=reduce)  # type: ignore[arg-type]
    assert_close(given, expected)
    assert torch.equal(given, given.tril())


@pytest.mark.parametrize(("length", "d_state"), [(7, 1), (65, 16), (65, 20)])
def test_chosen_channels_are_in_the_order_in_which_they_were_asked_for(
    length: int, d_state: int, device: torch.device
) -> None:
    inputs = scan_inputs(length, device, d_state=d_state, n_channels=5)
    H = exact(inputs)
    assert_close(fused_selective_attention(**inputs, heads=[4, 0, 3]), H[:, [4, 0, 3]])
    assert_close(fused_selective_attention(**inputs, heads=[4, 0, 3], reduce="mean"), H[:, [4, 0, 3]].mean(1))


@pytest.mark.parametrize("length", LENGTHS)
def test_contributions_are_sums_over_channels(length: int, device: torch.device) -> None:
    inputs = scan_inputs(length, device)
    v, x = torch.randn(2, 1, length, 3).to(device)
    D = torch.randn(3).to(device)
    operator = exact(inputs) + torch.diag_embed(D.double()[:, None].expand(-1, length))
    products = torch.einsum("btd,bsd->bdts", v.double(), x.double())
    assert_close(fused_selective_contribution(v, x, **inputs, D=D), (operator * products).sum(1))
    some = fused_selective_contribution(v, x, **inputs, D=D, heads=[2, 0])
    assert_close(some, (operator * products)[:, [2, 0]].sum(1))


def test_samples_are_apart_and_shares_of_the_channels_are_joined(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = scan_inputs(70, device, n_channels=5), scan_inputs(70, device, n_channels=5)
    both = {name: one["A"] if name == "A" else torch.cat([one[name], other[name].flip(1)]) for name in one}
    for shares in (1, 2, 8):
        monkeypatch.setattr(selective_attention, "MAX_SHARES", shares)
        assert_close(fused_selective_attention(**both, reduce="abs_mean"), exact(both).abs().mean(1))
        assert_close(fused_selective_attention(**both, reduce="max_abs"), exact(both).abs().amax(1))


@pytest.mark.parametrize("reduce", [None, "mean", "abs_mean", "max_abs"])
def test_the_scan_of_a_mixer_takes_the_kernel_where_it_serves(reduce: str | None, device: torch.device) -> None:
    inputs = scan_inputs(70, device)
    scan = FrozenSelective(**inputs, D=torch.randn(3).to(device))
    form: dict[str, Any] = {"reduce": reduce}
    expected = scan.hidden(None, (2, 0), **form, impl="reference")
    assert_close(scan.hidden(None, (2, 0), **form, impl="fused"), expected)
    v, x = torch.randn(2, 1, 70, 3, 1).to(device)
    expected = scan.along(v, x, None, (0, 1, 2), impl="reference")
    assert_close(scan.along(v, x, None, (0, 1, 2), impl="fused"), expected)


def test_what_the_kernel_does_not_serve_is_said(device: torch.device) -> None:
    inputs = scan_inputs(9, device)
    scan = FrozenSelective(**inputs, D=torch.zeros(3).to(device))
    v, x = torch.randn(2, 1, 9, 3, 1).to(device)
    with pytest.raises(ValueError, match="serves no chosen rows"):
        scan.hidden(torch.tensor([[3]], device=device), (0,), impl="fused")
    with pytest.raises(ValueError, match="have no kernel"):
        scan.along(v, x, None, (0,), per_head=True, impl="fused")
    with pytest.raises(ValueError, match="serves no gradients"):
        scan.along(v.requires_grad_(), x, None, (0,), impl="fused")
