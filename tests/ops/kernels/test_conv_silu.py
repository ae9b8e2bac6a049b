import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.ops.kernels import ConvTiles, conv_silu, fused_conv_silu

SMALL = ConvTiles(block_t=16, block_c=16, repeats=2)
NAMES = ("x", "weight", "bias", "initial_state")


@pytest.fixture(autouse=True)
def _small_tiles_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_silu, "BACKWARD_TILES", SMALL)


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, activation: str | None
) -> Tensor:
    """Position by position, in the dtype of the arguments."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    before = x.new_zeros(batch, channels, width - 1) if initial_state is None else initial_state
    inputs = torch.cat([before.transpose(1, 2), x], dim=1)
    c = sum(inputs[:, j : j + length] * weight[:, j] for j in range(width))
    c = c if bias is None else c + bias
    return F.silu(c) if activation else c


def make_inputs(length: int, width: int, device: torch.device, channels: int = 20) -> dict[str, Tensor]:
    """The input is the middle slice of a wider projection, as in a mixer."""
    projection = torch.randn(2, length, channels + 24, device=device)
    return {
        "x": projection[..., 8 : 8 + channels],
        "weight": torch.randn(channels, width, device=device),
        "bias": torch.randn(channels, device=device),
        "initial_state": torch.randn(2, channels, width - 1, device=device),
    }


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("activation", ["silu", None])
@pytest.mark.parametrize(("length", "width"), [(1, 4), (7, 2), (63, 3), (130, 4)])
def test_convolution_and_gradients_equal_the_definition(
    length: int, width: int, activation: str | None, device: torch.device
) -> None:
    inputs = {name: value.requires_grad_() for name, value in make_inputs(length, width, device).items()}
    exact = {name: value.detach().double().requires_grad_() for name, value in inputs.items()}
    y = fused_conv_silu(**inputs, activation=activation, tiles=SMALL)
    expected = reference(**exact, activation=activation)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(y)
    gradients = torch.autograd.grad(y, list(inputs.values()), upstream)
    expected_gradients = torch.autograd.grad(expected, list(exact.values()), upstream.double())
    for name, gradient, wanted in zip(NAMES, gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("missing", ["bias", "initial_state"])
def test_bias_and_initial_state_may_be_left_out(missing: str, device: torch.device) -> None:
    inputs = {**make_inputs(33, 4, device), missing: None}
    given = {name: value.requires_grad_() for name, value in inputs.items() if value is not None}
    exact = {name: None if value is None else value.detach().double() for name, value in inputs.items()}
    y = fused_conv_silu(**given, tiles=SMALL)
    torch.testing.assert_close(y.double(), reference(**exact, activation="silu"), rtol=1e-5, atol=1e-5)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(y.sum(), list(given.values())))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_float32(dtype: torch.dtype, device: torch.device) -> None:
    inputs = {name: value.to(dtype) for name, value in make_inputs(40, 4, device).items()}
    inputs["weight"] = inputs["weight"].float()
    y = fused_conv_silu(**inputs, tiles=SMALL)
    expected = reference(**{name: value.float() for name, value in inputs.items()}, activation="silu")
    assert y.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), expected, rtol=2 * step, atol=1e-5)


def test_a_sequence_in_two_pieces_equals_the_whole(device: torch.device) -> None:
    inputs = make_inputs(40, 4, device)
    whole = fused_conv_silu(**inputs, tiles=SMALL)
    first = fused_conv_silu(**{**inputs, "x": inputs["x"][:, :17]}, tiles=SMALL)
    state = inputs["x"][:, 14:17].transpose(1, 2)
    second = fused_conv_silu(inputs["x"][:, 17:], inputs["weight"], inputs["bias"], state, tiles=SMALL)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=0, atol=0)


def test_an_unknown_activation_is_refused(device: torch.device) -> None:
    inputs = make_inputs(3, 4, device)
    with pytest.raises(Exception, match="activation"):
        fused_conv_silu(**inputs, activation="gelu")


def test_float64_is_refused(device: torch.device) -> None:
    inputs = {name: value.double() for name, value in make_inputs(3, 4, device).items()}
    with pytest.raises(ValueError, match="float64"):
        fused_conv_silu(**inputs)
