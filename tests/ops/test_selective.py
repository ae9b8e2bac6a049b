"""The forms of Mamba-1's scan are one function, forward and backward; the equation is written out below."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffmamba_interp.ops import selective
from diffmamba_interp.ops.reference import ScanOutput
from tests.models.tiny import relative_error

FORMS: dict[str, Callable[..., ScanOutput]] = {
    "sequential": selective.selective_sequential,
    "chunked": selective.selective_chunked,
    "one chunk": lambda *args: selective.selective_chunked(*args, chunk_size=512),
    "single positions": lambda *args: selective.selective_chunked(*args, chunk_size=1),
}
N_CHANNELS, D_STATE = 6, 5


def scan_inputs(length: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, dt, A, B, C, D; steps that are long and short, states that decay fast and slowly."""
    dt = torch.where(torch.rand(2, length, N_CHANNELS) < 0.1, 2.0, 0.05) * torch.rand(2, length, N_CHANNELS)
    inputs = [
        torch.randn(2, length, N_CHANNELS),
        dt,
        -torch.rand(N_CHANNELS, D_STATE) * 16,
        torch.randn(2, length, D_STATE),
        torch.randn(2, length, D_STATE),
        torch.randn(N_CHANNELS),
    ]
    return [value.to(dtype) for value in inputs]


def initial_state(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, N_CHANNELS, D_STATE, dtype=dtype)


def by_hand(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One number after another."""
    state = torch.zeros(2, N_CHANNELS, D_STATE).to(x) if state is None else state
    rows = []
    for t in range(x.shape[1]):
        decay = torch.exp(torch.einsum("bd,dn->bdn", dt[:, t], A))
        state = decay * state + torch.einsum("bd,bd,bn->bdn", dt[:, t], x[:, t], B[:, t])
        rows.append(torch.einsum("bdn,bn->bd", state, C[:, t]) + D * x[:, t])
    return torch.stack(rows, dim=1), state


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("length", [1, 7, 63, 130, 500])
@pytest.mark.parametrize("with_state", [False, True])
def test_every_form_of_the_selective_scan_is_its_equation(
    form: Callable[..., ScanOutput], length: int, with_state: bool
) -> None:
    inputs = [*scan_inputs(length), initial_state() if with_state else None]
    for given, wanted in zip(form(*inputs), by_hand(*inputs), strict=True):
        assert relative_error(given, wanted) < 1e-12


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("length", [7, 130])
def test_every_form_of_the_selective_scan_has_the_gradients_of_its_equation(
    form: Callable[..., ScanOutput], length: int
) -> None:
    inputs = [value.requires_grad_() for value in (*scan_inputs(length), initial_state())]
    weights = [torch.randn(2, length, N_CHANNELS).double(), initial_state()]

    def gradients(function: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        loss = sum((weight * value).sum() for weight, value in zip(weights, function(*inputs), strict=True))
        return torch.autograd.grad(loss, inputs)

    for given, wanted in zip(gradients(form), gradients(by_hand), strict=True):
        assert relative_error(given, wanted) < 1e-11


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("cut", [1, 31, 32, 33, 69])
def test_the_final_state_continues_the_selective_scan(form: Callable[..., ScanOutput], cut: int) -> None:
    x, dt, A, B, C, D = scan_inputs(70)
    whole = form(x, dt, A, B, C, D)
    first = form(x[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], D)
    second = form(x[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], D, first.final_state)
    assert relative_error(torch.cat([first.y, second.y], dim=1), whole.y) < 1e-12
    assert relative_error(second.final_state, whole.final_state) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32_in_the_selective_scan(dtype: torch.dtype) -> None:
    x, dt, A, B, C, D = scan_inputs(130, torch.float32)
    x, B, C = (value.to(dtype) for value in (x, B, C))
    expected = by_hand(*(value.double() for value in (x, dt, A, B, C, D)))
    for form in FORMS.values():
        y, final = form(x, dt, A, B, C, D)
        assert (y.dtype, final.dtype) == (dtype, torch.float32)
        assert relative_error(y.double(), expected[0]) < torch.finfo(dtype).eps
        assert relative_error(final.double(), expected[1]) < 2e-6


def test_what_an_initial_state_adds_is_told_apart() -> None:
    x, dt, A, B, C, D = scan_inputs(70)
    state = initial_state()
    without, with_it = by_hand(x, dt, A, B, C, D), by_hand(x, dt, A, B, C, D, state)
    read, kept = selective.read_initial_state(dt, A, C, state)
    assert relative_error(read, with_it[0] - without[0]) < 1e-10
    assert relative_error(kept, with_it[1] - without[1]) < 1e-10


# ------------------------------------------------------------------ the matrix


def test_the_matrix_of_a_channel_is_the_equation_entry_by_entry() -> None:
    _, dt, A, B, C, _ = scan_inputs(5)
    H = selective.selective_attention_matrix(dt, A, B, C)
    for channel in range(N_CHANNELS):
        for t in range(5):
            for s in range(5):
                decay = torch.exp(A[channel] * dt[1, s + 1 : t + 1, channel].sum())
                expected = float((C[1, t] * decay * B[1, s]).sum() * dt[1, s, channel]) if s <= t else 0.0
                assert float(H[1, channel, t, s]) == pytest.approx(expected, rel=1e-10)


def test_the_matrices_of_all_channels_rebuild_the_selective_scan() -> None:
    x, dt, A, B, C, D = scan_inputs(130)
    H = selective.selective_attention_matrix(dt, A, B, C)
    assert torch.equal(H, H.tril())
    assert relative_error(torch.einsum("bdts,bsd->btd", H, x) + D * x, by_hand(x, dt, A, B, C, D)[0]) < 1e-11


def test_chosen_rows_are_those_of_the_whole_matrix() -> None:
    _, dt, A, B, C, _ = scan_inputs(20)
    rows = torch.tensor([[3, 19, 0], [7, 7, 11]])
    H = selective.selective_attention_matrix(dt, A, B, C)
    chosen = selective.selective_attention_matrix(dt, A, B, C, rows)
    assert all(torch.equal(chosen[sample], H[sample][:, rows[sample]]) for sample in range(2))


def test_a_matrix_of_strong_decay_has_no_nan_forward_or_backward() -> None:
    """exp above the diagonal would be infinite, and its gradient NaN."""
    _, dt, A, B, C, _ = scan_inputs(300, torch.float32)
    inputs = [value.requires_grad_() for value in (10 * dt, 10 * A, B, C)]
    H = selective.selective_attention_matrix(*inputs)
    assert all(bool(value.isfinite().all()) for value in (H, *torch.autograd.grad(H.sum(), inputs)))
