"""The RMSNorm kernel, beside its formula in float64."""

import pytest
import torch
from torch import Tensor

from diffmamba_interp.ops import fused
from diffmamba_interp.ops.kernels import (
    MAX_NORM_WIDTH,
    NormFirst,
    NormTiles,
    fused_add_rms_norm,
    fused_rms_norm,
    rms_norm,
)
from diffmamba_interp.ops.kernels.triton_import import INTERPRETED

SMALL = NormTiles(block=128, num_warps=1, programs_per_sm=3)
EPS = 1e-5


@pytest.fixture(autouse=True)
def _small_tiles_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tiles than programs, so that a program of the backward has several."""
    monkeypatch.setattr(rms_norm, "BACKWARD_NORM_TILES", SMALL)
    monkeypatch.setattr(rms_norm, "_multiprocessors", lambda device: 1)


def reference(x: Tensor, weight: Tensor, eps: float, gain: float) -> Tensor:
    return gain * weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)


def gradients(out: Tensor, x: Tensor, weight: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, (x, weight), upstream.to(out.dtype))


def make_inputs(length: int, d: int, device: torch.device, x_dtype: torch.dtype, dtype: torch.dtype) -> tuple:
    """Rows of very different sizes, so that a scale taken from a neighbour shows."""
    sizes = torch.logspace(-2, 2, 2 * length).view(2, length, 1)
    x = (sizes * torch.randn(2, length, d)).to(device, x_dtype)
    weight = torch.randn(d).to(device, dtype)
    upstream = torch.randn(2, length, d).to(device, dtype)
    return x.requires_grad_(), weight.requires_grad_(), upstream


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("length", "d"), [(1, 32), (7, 20), (63, 1), (130, 24), (500, 5)])
def test_norm_and_gradients_equal_the_definition(length: int, d: int, device: torch.device) -> None:
    x, weight, upstream = make_inputs(length, d, device, torch.float32, torch.float32)
    exact_x, exact_weight = (value.detach().double().requires_grad_() for value in (x, weight))
    out = fused_rms_norm(x, weight, EPS, gain=0.4, tiles=SMALL)
    expected = reference(exact_x, exact_weight, EPS, 0.4)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    dx, dweight = gradients(out, x, weight, upstream)
    expected_dx, expected_dweight = gradients(expected, exact_x, exact_weight, upstream)
    # Each row's gradient goes with the inverse of its size.
    size = exact_x.detach().square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(dx * size, expected_dx * size, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dweight.double(), expected_dweight, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    ("x_dtype", "dtype"),
    [
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
    ],
)
def test_result_has_the_weights_dtype_and_is_rounded_once(
    x_dtype: torch.dtype, dtype: torch.dtype, device: torch.device
) -> None:
    x, weight, upstream = make_inputs(40, 24, device, x_dtype, dtype)
    exact_x, exact_weight = (value.detach().double().requires_grad_() for value in (x, weight))
    out = fused_rms_norm(x, weight, EPS, gain=0.7, tiles=SMALL)
    expected = reference(exact_x, exact_weight, EPS, 0.7)
    assert out.dtype == dtype
    # A GPU rounds to the nearest number, Triton's interpreter cuts bfloat16 off; float16 is coarser near zero.
    steps = 1.01 if INTERPRETED else 0.51
    out_step, dx_step = (steps * torch.finfo(rounded).eps for rounded in (dtype, x_dtype))
    torch.testing.assert_close(out.double(), expected, rtol=out_step + 1e-6, atol=1e-7)
    dx, dweight = gradients(out, x, weight, upstream)
    expected_dx, expected_dweight = gradients(expected, exact_x, exact_weight, upstream)
    assert (dx.dtype, dweight.dtype) == (x_dtype, dtype)
    size = exact_x.detach().square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(dx * size, expected_dx * size, rtol=dx_step + 1e-5, atol=1e-5)
    torch.testing.assert_close(dweight.double(), expected_dweight, rtol=out_step + 1e-5, atol=1e-4)


def test_tiles_of_the_forward_change_no_result(device: torch.device) -> None:
    x, weight, _ = make_inputs(9, 24, device, torch.float32, torch.float32)
    one_tile = fused_rms_norm(x, weight, EPS)
    torch.testing.assert_close(fused_rms_norm(x, weight, EPS, tiles=SMALL), one_tile, rtol=1e-6, atol=0)


def test_a_slice_is_normalised_like_its_copy(device: torch.device) -> None:
    wide = torch.randn(2, 5, 40).to(device)
    weight, upstream = torch.randn(24).to(device), torch.randn(2, 24, 5).to(device).mT
    results = []
    for x in (wide[..., 8:32].requires_grad_(), wide[..., 8:32].clone().requires_grad_()):
        out = fused_rms_norm(x, weight, EPS, tiles=SMALL)
        results.append((out, *torch.autograd.grad(out, x, upstream)))
    for sliced, copied in zip(*results, strict=True):
        torch.testing.assert_close(sliced, copied, rtol=0, atol=0)


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_one_gradient_alone_equals_the_same_of_both(wanted: str, device: torch.device) -> None:
    x, weight, upstream = make_inputs(9, 24, device, torch.float32, torch.float32)
    both = dict(zip(("x", "weight"), gradients(fused_rms_norm(x, weight, EPS), x, weight, upstream), strict=True))
    alone = {name: value.detach() for name, value in (("x", x), ("weight", weight))}
    alone[wanted].requires_grad_()
    out = fused_rms_norm(alone["x"], alone["weight"], EPS)
    torch.testing.assert_close(torch.autograd.grad(out, alone[wanted], upstream)[0], both[wanted], rtol=0, atol=0)


def test_without_eps_rows_past_the_end_add_nothing(device: torch.device) -> None:
    x, weight, upstream = make_inputs(3, 20, device, torch.float32, torch.float32)
    dx, dweight = gradients(fused_rms_norm(x, weight, 0.0), x, weight, upstream)
    assert dx.isfinite().all()
    assert dweight.isfinite().all()


def test_no_rows_give_no_rows_and_a_zero_gradient(device: torch.device) -> None:
    x, weight, upstream = make_inputs(0, 20, device, torch.float32, torch.bfloat16)
    out = fused_rms_norm(x, weight, EPS)
    dx, dweight = gradients(out, x, weight, upstream)
    assert (out.shape, dx.shape) == (x.shape, x.shape)
    torch.testing.assert_close(dweight, torch.zeros_like(weight), rtol=0, atol=0)


@pytest.mark.parametrize("wide", ["x", "weight"])
def test_float64_is_refused(wide: str, device: torch.device) -> None:
    tensors = {"x": torch.randn(3, 8).to(device), "weight": torch.ones(8).to(device)}
    tensors[wide] = tensors[wide].double()
    with pytest.raises(ValueError, match=f"{wide} is torch.float64"):
        fused_rms_norm(**tensors, eps=EPS)


def test_rows_longer_than_a_program_holds_are_refused(device: torch.device) -> None:
    x = torch.zeros(1, MAX_NORM_WIDTH + 1).to(device)
    with pytest.raises(ValueError, match="at most 8192"):
        fused_rms_norm(x, x[0], EPS)


def test_a_weight_of_another_length_is_refused(device: torch.device) -> None:
    with pytest.raises(Exception, match="weight"):
        fused_rms_norm(torch.randn(3, 8).to(device), torch.ones(4).to(device), EPS)


@pytest.mark.parametrize(
    ("d", "x_dtype", "dtype"),
    [
        (20, torch.float32, torch.float32),
        (MAX_NORM_WIDTH + 1, torch.float32, torch.float32),
        (20, torch.float64, torch.float64),
        (20, torch.float64, torch.float32),
    ],
)
def test_the_fused_path_serves_every_width_and_dtype(
    d: int, x_dtype: torch.dtype, dtype: torch.dtype, device: torch.device
) -> None:
    x, weight, _ = make_inputs(2, d, device, x_dtype, dtype)
    out = fused.rms_norm(x, weight, EPS, gain=0.4)
    expected = reference(x.double(), weight.double(), EPS, 0.4)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ the sum and its norm in one launch


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    ("before_dtype", "added_dtype", "dtype"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32, torch.float16),
    ],
)
@pytest.mark.parametrize(("length", "d"), [(1, 32), (7, 20), (63, 1), (130, 24), (500, 5)])
def test_the_sum_is_pytorchs_and_the_norm_is_that_of_the_sum(
    length: int,
    d: int,
    before_dtype: torch.dtype,
    added_dtype: torch.dtype,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    before, weight, _ = make_inputs(length, d, device, before_dtype, dtype)
    added = make_inputs(length, d, device, added_dtype, dtype)[0].flip(1)
    with torch.no_grad():
        total, normed = fused_add_rms_norm(before, added, weight, EPS, tiles=SMALL)
        expected = before + added
        assert total.dtype == expected.dtype
        # Triton's interpreter cuts bfloat16 off, where a GPU and PyTorch round to the nearest number.
        step = torch.finfo(total.dtype).eps if INTERPRETED and total.dtype == torch.bfloat16 else 0.0
        torch.testing.assert_close(total, expected, rtol=step, atol=0.0)
        assert normed.dtype == dtype
        torch.testing.assert_close(normed, fused_rms_norm(total, weight, EPS, tiles=SMALL))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("length", "d"), [(1, 32), (7, 20), (63, 1), (130, 24), (500, 5)])
def test_a_norm_before_the_sum_is_the_norm_by_itself(
    length: int, d: int, dtype: torch.dtype, device: torch.device
) -> None:
    before, weight, _ = make_inputs(length, d, device, torch.float32, dtype)
    added, inner, _ = make_inputs(length, d, device, dtype, dtype)
    first = NormFirst(inner.flip(0), 1e-3, 0.7)
    with torch.no_grad():
        total, normed = fused_add_rms_norm(before, added.flip(1), weight, EPS, first=first, tiles=SMALL)
        apart = fused_rms_norm(added.flip(1), first.weight, first.eps, gain=first.gain, tiles=SMALL)
        expected = fused_add_rms_norm(before, apart, weight, EPS, tiles=SMALL)
        torch.testing.assert_close(total, expected[0], rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)
        torch.testing.assert_close(normed, expected[1])


def test_a_sum_that_cannot_be_made_in_the_norms_launch_is_refused(device: torch.device) -> None:
    x, weight, _ = make_inputs(4, 8, device, torch.float32, torch.float32)
    with pytest.raises(RuntimeError, match="fused_add_rms_norm has no backward"):
        fused_add_rms_norm(x, x, weight, EPS)
    with torch.no_grad(), pytest.raises(ValueError, match="added is torch.float64"):
        fused_add_rms_norm(x, x.double(), weight, EPS)
    with pytest.raises(ValueError, match="one factor per element of a row, 8, but has shape"):
        fused_add_rms_norm(x, x, weight, EPS, first=NormFirst(weight[:4], EPS))
