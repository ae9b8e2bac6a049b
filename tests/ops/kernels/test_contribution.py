import pytest
import torch
from torch import Tensor

from diffmamba_interp.ops.kernels import Tiles, contribution, fused_contribution
from tests.ops.kernels.scan_inputs import (
    doubled,
    hidden_attention_reference,
    make_scan_inputs,
    relative_error,
)

TILES = Tiles(block_t=32, block_s=16, block_n=16)
D_HEAD = 6


@pytest.fixture(autouse=True)
def _small_tiles_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contribution, "BACKWARD_TILES", Tiles(block_t=32, block_s=16, block_n=16))


def make_inputs(length: int, n_groups: int, device: torch.device, n_rows: int | None = None) -> dict[str, Tensor]:
    wide = torch.randn(2, length, 4, D_HEAD + 2, device=device)
    return {
        "v": torch.randn(2, n_rows or length, 4, D_HEAD, device=device),
        "x": wide[..., :D_HEAD],
        **make_scan_inputs(length, n_groups=n_groups, device=device),
        "D": torch.randn(4, device=device),
    }


def reference(
    v: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    rows: Tensor | None = None, heads: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """K[t,s] = sum_h (H[h,t,s] + D[h] [t=s]) <v[t,h], x[s,h]>."""
    operator = hidden_attention_reference(dt, dt * A, B, C)
    if D is not None:
        operator = operator + D[:, None, None] * torch.eye(dt.shape[1], dtype=dt.dtype, device=dt.device)
    operator = operator if rows is None else operator[:, :, rows]
    summands = operator * torch.einsum("bthp,bshp->bhts", v, x)
    return (summands if heads is None else summands[:, heads]).sum(1)


def compare(inputs: dict[str, Tensor], **choice: object) -> None:
    exact = doubled(inputs)
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    out = fused_contribution(**inputs, **choice, tiles=TILES)
    expected = reference(**exact, **choice)
    assert relative_error(out, expected) < 1e-5
    assert out.dtype == torch.float32
    upstream = torch.randn_like(out)
    gradients = torch.autograd.grad(out, list(inputs.values()), upstream)
    wanted = torch.autograd.grad(expected, list(exact.values()), upstream.double())
    errors = {n: relative_error(g, w) for n, g, w in zip(inputs, gradients, wanted, strict=True)}
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("length", "n_groups"), [(1, 1), (7, 2), (63, 1), (130, 2)])
def test_values_and_gradients_equal_the_definition(length: int, n_groups: int, device: torch.device) -> None:
    compare(make_inputs(length, n_groups, device))


@pytest.mark.usefixtures("poisoned_memory")
def test_chosen_rows_and_heads_equal_the_definition(device: torch.device) -> None:
    rows = torch.tensor([50, 3, 3, 69, 0], device=device)
    compare(make_inputs(70, 2, device, n_rows=5), rows=rows, heads=[3, 0])


def test_the_skip_weight_may_be_left_out(device: torch.device) -> None:
    inputs = make_inputs(20, 1, device)
    del inputs["D"]
    compare(inputs)


@pytest.mark.usefixtures("poisoned_memory")
def test_above_the_diagonal_is_exactly_zero(device: torch.device) -> None:
    out = fused_contribution(**make_inputs(70, 1, device), tiles=TILES)
    assert out.isfinite().all()
    assert (out.triu(1) == 0).all()


def test_rows_sum_to_the_output_of_the_scan_along_the_direction(device: torch.device) -> None:
    inputs = make_inputs(40, 2, device)
    sums = fused_contribution(**inputs, tiles=TILES).sum(-1)
    state, y = torch.zeros(2, 4, D_HEAD, 8, device=device, dtype=torch.float64), []
    v, x, dt, A, B, C, D = (value.double() for value in inputs.values())
    B, C = (value.repeat_interleave(2, dim=2) for value in (B, C))
    for t in range(40):
        write = torch.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], B[:, t])
        state = (dt[:, t] * A).exp()[..., None, None] * state + write
        y.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]) + D[:, None] * x[:, t])
    assert relative_error(sums, (torch.stack(y, 1) * v).sum(dim=(2, 3))) < 1e-5


def test_directions_and_rows_must_match(device: torch.device) -> None:
    inputs = make_inputs(9, 1, device, n_rows=3)
    with pytest.raises(ValueError, match="one row per"):
        fused_contribution(**inputs)
