"""The GPU kernel of Mamba-1's scan computes what the reference computes: values, gradients, states. Needs a GPU."""

import pytest
import torch

from diffmamba_interp.ops import fused, selective

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
N_CHANNELS, D_STATE = 96, 16


def scan_inputs(length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """x, dt before its bias and softplus, A, B, C, D, and the bias."""
    torch.manual_seed(length)
    x, dt = torch.randn(2, 2, length, N_CHANNELS, device="cuda")
    B, C = torch.randn(2, 2, length, D_STATE, device="cuda")
    A = -torch.arange(1, D_STATE + 1, device="cuda").float().expand(N_CHANNELS, -1).clone()
    D, bias = torch.randn(2, N_CHANNELS, device="cuda")
    return [x.to(dtype), dt.to(dtype), A, B.to(dtype), C.to(dtype), D, bias - 4]


def relative_error(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Over the norm of what is expected, or over 1e-3 where it is (nearly) zero, as A's gradient at one position."""
    given, expected = given.detach().double(), expected.detach().double()
    return float((given - expected).norm() / expected.norm().clamp_min(1e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 7, 63, 130, 500, 4096])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_state", [False, True])
def test_the_fused_selective_scan_is_the_reference(
    dtype: torch.dtype, length: int, with_bias: bool, with_state: bool
) -> None:
    *inputs, bias = scan_inputs(length, dtype)
    step = torch.nn.functional.softplus(inputs[1].float() + bias)
    if not with_bias:
        inputs[1] = step
    state = torch.randn(2, N_CHANNELS, D_STATE, device="cuda") if with_state else None
    given = fused.selective_scan(*inputs, state, dt_bias=bias if with_bias else None)
    wide = [value.double() for value in (inputs[0], step, *inputs[2:])]
    expected = selective.selective_chunked(*wide, None if state is None else state.double())
    assert (given.y.dtype, given.final_state.dtype) == (dtype, torch.float32)
    assert relative_error(given.y, expected.y) < TOLERANCE[dtype]
    assert relative_error(given.final_state, expected.final_state) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 63, 500])
def test_the_fused_selective_scan_has_the_gradients_of_the_reference(dtype: torch.dtype, length: int) -> None:
    inputs = [value.requires_grad_() for value in scan_inputs(length, dtype)]
    weight = torch.randn(2, length, N_CHANNELS, device="cuda")

    def gradients(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((weight * y.float()).sum(), inputs)

    *scan, bias = inputs
    given = gradients(fused.selective_scan(*scan, dt_bias=bias).y)
    step = torch.nn.functional.softplus(scan[1].float() + bias)
    expected = gradients(selective.selective_chunked(scan[0].float(), step, *scan[2:]).y)
    for mine, wanted in zip(given, expected, strict=True):
        assert relative_error(mine, wanted) < TOLERANCE[dtype]
