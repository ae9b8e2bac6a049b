"""The three forms of the scan are one function, forward and backward; the sequential one is its definition."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffmamba_interp.ops import reference
from diffmamba_interp.ops.precision import upcast
from tests.models.tiny import relative_error

FORMS: dict[str, Callable[..., reference.ScanOutput]] = {
    "matrix": reference.ssd_matrix,
    "chunked": lambda *args: reference.ssd_chunked(*args, chunk_size=16),
    "one chunk": lambda *args: reference.ssd_chunked(*args, chunk_size=4096),
    "single positions": lambda *args: reference.ssd_chunked(*args, chunk_size=1),
}
N_HEADS, D_HEAD, D_STATE = 4, 3, 5


def scan_inputs(
    length: int, n_groups: int = 2, dtype: torch.dtype = torch.float64, decay: str = "usual"
) -> list[Tensor]:
    """x, dt, log_decay, B, C, D."""
    dt = 0.1 * torch.rand(2, length, N_HEADS)
    if decay == "mixed":
        dt = torch.where(torch.rand_like(dt) < 0.1, 5.0, 0.003)
    inputs = [
        torch.randn(2, length, N_HEADS, D_HEAD),
        dt,
        -dt * torch.tensor([1.0, 2.0, 8.0, 16.0]),
        torch.randn(2, length, n_groups, D_STATE),
        torch.randn(2, length, n_groups, D_STATE),
        torch.randn(N_HEADS),
    ]
    return [value.to(dtype) for value in inputs]


def initial_state(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, N_HEADS, D_HEAD, D_STATE, dtype=dtype)


# ------------------------------------------------------------------ the definition


@pytest.mark.parametrize("n_groups", [1, 2, 4])
def test_the_sequential_form_is_the_recurrence_written_out_by_hand(n_groups: int) -> None:
    x, dt, log_decay, B, C, D = scan_inputs(6, n_groups)
    y, final = reference.ssd_sequential(x, dt, log_decay, B, C, D)
    for batch in range(2):
        for head in range(N_HEADS):
            group, state = head // (N_HEADS // n_groups), torch.zeros(D_HEAD, D_STATE, dtype=torch.float64)
            for t in range(6):
                write = dt[batch, t, head] * torch.outer(x[batch, t, head], B[batch, t, group])
                state = log_decay[batch, t, head].exp() * state + write
                expected = state @ C[batch, t, group] + D[head] * x[batch, t, head]
                assert torch.allclose(y[batch, t, head], expected, rtol=1e-12, atol=1e-14)
            assert torch.allclose(final[batch, head], state, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------ one function in all forms


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("length", [1, 7, 63, 130, 500])
@pytest.mark.parametrize("with_state", [False, True])
def test_every_form_is_the_definition_in_float64(
    form: Callable[..., reference.ScanOutput], length: int, with_state: bool
) -> None:
    if form is FORMS["single positions"] and length > 130:
        length = 131
    inputs = [*scan_inputs(length), initial_state() if with_state else None]
    expected = reference.ssd_sequential(*inputs)
    for given, wanted in zip(form(*inputs), expected, strict=True):
        assert relative_error(given, wanted) < 1e-12


@pytest.mark.parametrize("form", [reference.ssd_sequential, *FORMS.values()], ids=["sequential", *FORMS])
@pytest.mark.parametrize("decay", ["usual", "mixed"])
def test_every_form_is_exact_to_round_off_in_float32(form: Callable[..., reference.ScanOutput], decay: str) -> None:
    """Also where strong and weak decay mix, so that small differences of large running sums matter."""
    single = [*scan_inputs(500, dtype=torch.float32, decay=decay), initial_state(torch.float32)]
    expected = reference.ssd_sequential(*(value.double() for value in single))
    for given, wanted in zip(form(*single), expected, strict=True):
        assert given.dtype == torch.float32
        assert relative_error(given.double(), wanted) < 1e-6


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("length", [7, 130])
def test_every_form_has_the_gradients_of_the_definition(form: Callable[..., reference.ScanOutput], length: int) -> None:
    inputs = [value.requires_grad_() for value in (*scan_inputs(length), initial_state())]
    weights = [torch.randn(2, length, N_HEADS, D_HEAD).double(), initial_state()]

    def gradients(function: Callable[..., reference.ScanOutput]) -> tuple[Tensor, ...]:
        loss = sum((weight * value).sum() for weight, value in zip(weights, function(*inputs), strict=True))
        return torch.autograd.grad(loss, inputs)

    for given, wanted in zip(gradients(form), gradients(reference.ssd_sequential), strict=True):
        assert relative_error(given, wanted) < 1e-11


def test_a_long_sequence_of_strong_decay_has_no_nan_forward_or_backward() -> None:
    """exp above the diagonal would be infinite, and its gradient NaN."""
    for decay in (-0.01, -200.0):
        *sequences, D = scan_inputs(2048, n_groups=1, dtype=torch.float32)
        x, dt, log_decay, B, C = (value[:1] for value in sequences)
        inputs = [value.requires_grad_() for value in (x, dt, torch.full_like(log_decay, decay), B, C, D)]
        for form in (reference.ssd_matrix, reference.ssd_chunked):
            y, final = form(*inputs)
            grads = torch.autograd.grad(y.sum() + final.sum(), inputs)
            assert all(bool(value.isfinite().all()) for value in (y, final, *grads))


# ------------------------------------------------------------------ the matrix


def test_hidden_attention_is_causal_and_gives_the_scans_output() -> None:
    x, dt, log_decay, B, C, D = scan_inputs(20)
    H = reference.hidden_attention_matrix(dt, log_decay, B, C)
    assert torch.equal(H, H.tril())
    expected = reference.ssd_sequential(x, dt, log_decay, B, C, D).y
    assert relative_error(torch.einsum("bhts,bshp->bthp", H, x) + D[:, None] * x, expected) < 1e-12


def test_hidden_attention_is_the_equation_entry_by_entry() -> None:
    _, dt, log_decay, B, C, _ = scan_inputs(5)
    H = reference.hidden_attention_matrix(dt, log_decay, B, C)
    for head in range(N_HEADS):
        for t in range(5):
            for s in range(t + 1):
                decay = log_decay[1, s + 1 : t + 1, head].sum().exp()
                expected = (C[1, t, head // 2] @ B[1, s, head // 2]) * decay * dt[1, s, head]
                assert float(H[1, head, t, s]) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("with_state", [False, True])
def test_any_matrix_can_be_applied_and_does_not_change_the_state(with_state: bool) -> None:
    x, dt, log_decay, B, C, D = scan_inputs(20)
    state = initial_state() if with_state else None
    clean = reference.ssd_matrix(x, dt, log_decay, B, C, D, state)
    H = reference.hidden_attention_matrix(dt, log_decay, B, C)
    change = torch.randn_like(H)
    y, final = reference.apply_hidden_attention(H + change, x, dt, log_decay, B, C, D, state)
    assert relative_error(y, clean.y + torch.einsum("bhts,bshp->bthp", change, x)) < 1e-12
    assert torch.equal(final, clean.final_state)


# ------------------------------------------------------------------ states


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 39])
def test_the_final_state_continues_the_scan(cut: int) -> None:
    *sequences, D = scan_inputs(40)
    for form in (reference.ssd_sequential, *FORMS.values()):
        whole = form(*sequences, D)
        first = form(*(value[:, :cut] for value in sequences), D)
        second = form(*(value[:, cut:] for value in sequences), D, first.final_state)
        assert relative_error(torch.cat([first.y, second.y], dim=1), whole.y) < 1e-12
        assert relative_error(second.final_state, whole.final_state) < 1e-12


def test_states_are_those_that_the_scan_reads() -> None:
    x, dt, log_decay, B, C, D = scan_inputs(20)
    state = initial_state()
    states = reference.ssd_states(x, dt, log_decay, B, state)
    y, final = reference.ssd_chunked(x, dt, log_decay, B, C, D, state)
    assert relative_error(reference.read_states(states, C, x, D), y) < 1e-12
    assert relative_error(states[:, -1], final) < 1e-12


def test_a_position_without_dt_leaves_the_state_as_it_is() -> None:
    x, dt, log_decay, B, C, D = scan_inputs(20)
    keep = (torch.arange(20) < 13)[:, None]
    for form in (reference.ssd_sequential, *FORMS.values()):
        padded = form(x, dt * keep, log_decay * keep, B, C, D).final_state
        short = form(x[:, :13], dt[:, :13], log_decay[:, :13], B[:, :13], C[:, :13], D).final_state
        assert relative_error(padded, short) < 1e-12


# ------------------------------------------------------------------ dtypes and memory


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    x, dt, log_decay, B, C, D = scan_inputs(130, dtype=torch.float32)
    x, B, C = (value.to(dtype) for value in (x, B, C))
    expected = reference.ssd_sequential(*(value.double() for value in (x, dt, log_decay, B, C, D)))
    for form in (reference.ssd_sequential, *FORMS.values()):
        y, final = form(x, dt, log_decay, B, C, D)
        assert (y.dtype, final.dtype) == (dtype, torch.float32)
        assert relative_error(y.double(), expected.y) < torch.finfo(dtype).eps
        assert relative_error(final.double(), expected.final_state) < 1e-6


def test_upcast_widens_to_float32_and_leaves_float64_alone() -> None:
    dtypes = {
        dtype: upcast(torch.ones(1, dtype=dtype)).dtype for dtype in (torch.bfloat16, torch.float32, torch.float64)
    }
    assert dtypes == {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}


def test_the_chunked_form_needs_memory_linear_in_the_length() -> None:
    """At 16,384 positions the matrix alone would take 2 GiB; measured in a process of its own."""
    code = (
        "import resource, torch\n"
        "from diffmamba_interp.ops.reference import ssd_chunked\n"
        "torch.set_num_threads(1)\n"
        "L = 16384\n"
        "x, dt = torch.randn(1, L, 2, 4), torch.rand(1, L, 2)\n"
        "B, C = torch.randn(1, L, 1, 4), torch.randn(1, L, 1, 4)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with torch.no_grad(): ssd_chunked(x, dt, -dt, B, C, torch.ones(2))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=110)
    assert int(done.stdout) * 1024 < 200e6


# ------------------------------------------------------------------ convolution


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_convolution_is_the_sum_over_lags(width: int, with_bias: bool) -> None:
    x, weight = torch.randn(2, 9, 3).double(), torch.randn(3, width).double()
    bias = torch.randn(3).double() if with_bias else None
    out = reference.causal_conv1d(x, weight, bias)
    for t in range(9):
        expected = sum(weight[:, width - 1 - lag] * x[:, t - lag] for lag in range(min(width, t + 1)))
        if bias is not None:
            expected = expected + bias
        assert torch.allclose(out[:, t], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_the_convolution_continues_from_its_last_inputs(cut: int) -> None:
    x, weight = torch.randn(2, 9, 3).double(), torch.randn(3, 4).double()
    before = torch.nn.functional.pad(x[:, :cut], (0, 0, 3, 0))[:, -3:].mT
    whole = reference.causal_conv1d(x, weight)
    assert torch.allclose(
        reference.causal_conv1d(x[:, cut:], weight, initial=before), whole[:, cut:], rtol=1e-12, atol=1e-14
    )
