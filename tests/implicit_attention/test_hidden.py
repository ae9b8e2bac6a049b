"""Hidden attention against the recurrence that defines it, and its gradients against autograd."""

import pytest
import torch

from diffmamba_interp.implicit_attention import MemoryLimitError, hidden_attention, hidden_attention_bytes
from diffmamba_interp.ops.reference import hidden_attention_matrix
from tests.implicit_attention.scans import impulse_response, random_scan
from tests.models.tiny import relative_error

LENGTHS = (1, 2, 7, 63, 64, 65, 130, 500)
REDUCED = {
    "mean": lambda H: H.mean(dim=1),
    "abs_mean": lambda H: H.abs().mean(dim=1),
    "max_abs": lambda H: H.abs().amax(dim=1),
}


@pytest.mark.parametrize("n_pos", LENGTHS)
def test_unit_impulses_through_the_recurrence_give_the_matrix(n_pos: int) -> None:
    dt, A, B, C = random_scan(n_pos)
    expected = impulse_response(dt, dt * A, B, C)
    assert relative_error(hidden_attention(dt, A, B, C).double(), expected) < 1e-6


@pytest.mark.parametrize("reduce", list(REDUCED))
@pytest.mark.parametrize("n_pos", [1, 63, 130])
def test_a_reduction_is_that_of_the_whole_matrix(n_pos: int, reduce: str) -> None:
    dt, A, B, C = random_scan(n_pos)
    expected = REDUCED[reduce](impulse_response(dt, dt * A, B, C))
    assert relative_error(hidden_attention(dt, A, B, C, reduce=reduce).double(), expected) < 1e-6


@pytest.mark.parametrize("reduce", [None, *REDUCED])
def test_chosen_rows_and_heads_are_those_of_the_whole(reduce: str | None) -> None:
    dt, A, B, C = random_scan(130)
    rows, heads = [129, 0, 64, 3], [3, 0, 2]
    whole = hidden_attention(dt, A, B, C)[:, heads]
    expected = whole if reduce is None else REDUCED[reduce](whole)
    chosen = hidden_attention(dt, A, B, C, rows=rows, heads=heads, reduce=reduce)
    assert relative_error(chosen, expected[..., rows, :]) < 1e-6
    assert relative_error(hidden_attention(dt, A, B, C, heads=heads, reduce=reduce), expected) < 1e-6


def test_rows_may_differ_between_samples_and_count_from_the_end() -> None:
    dt, A, B, C = random_scan(20)
    whole = hidden_attention(dt, A, B, C)
    chosen = hidden_attention(dt, A, B, C, rows=torch.tensor([[3], [-1]]))
    assert torch.allclose(chosen[0, :, 0], whole[0, :, 3], atol=1e-7)
    assert torch.allclose(chosen[1, :, 0], whole[1, :, 19], atol=1e-7)


def test_rows_in_chunks_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffmamba_interp.ops import scan_pairs

    dt, A, B, C = random_scan(40)
    whole = hidden_attention(dt, A, B, C, rows=range(40))
    monkeypatch.setattr(scan_pairs, "CHUNK_BYTES", 8 * 2 * 4 * 40 * 3)
    assert relative_error(hidden_attention(dt, A, B, C, rows=range(40)), whole) < 1e-6


def test_no_position_sees_a_later_one() -> None:
    H = hidden_attention(*random_scan(130))
    assert torch.equal(H, H.tril())


def test_a_changed_decay_is_used_as_given() -> None:
    dt, A, B, C = random_scan(70)
    log_decay = dt * A
    log_decay[:, 30] = -50.0
    H = hidden_attention(dt, None, B, C, log_decay=log_decay)
    assert relative_error(H.double(), impulse_response(dt, log_decay, B, C)) < 1e-6
    assert H[..., 40, 10].abs().max() < 1e-15


def test_long_running_sums_stay_exact() -> None:
    dt, A, B, C = random_scan(2048, n_batch=1, n_heads=2, n_groups=1, dt_scale=0.02)
    H = hidden_attention(dt, A, B, C)
    exact = hidden_attention_matrix(dt.double(), dt.double() * A.double(), B.double(), C.double())
    scores = torch.einsum("btgn,bsgn->bgts", C.double(), B.double())
    # The product C B^T may cancel; its round-off is no matter of the running sum.
    kept = (scores.abs() > 1) & (exact.abs() > 1e-20)
    assert ((H - exact)[kept] / exact[kept]).abs().max() < 3e-6


def test_decays_that_underflow_leave_zeros_and_no_nan() -> None:
    dt, A, B, C = random_scan(130, dt_scale=200.0)
    dt.requires_grad_()
    for rows in (None, [0, 64, 129]):
        H = hidden_attention(dt, A, B, C, rows=rows)
        (gradient,) = torch.autograd.grad(H.sum(), dt)
        assert torch.isfinite(H).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("rows", [None, [0, 69, 64, 3]])
@pytest.mark.parametrize("reduce", [None, *REDUCED])
def test_gradients_are_those_of_autograd_through_the_reference(reduce: str | None, rows: list[int] | None) -> None:
    scan = random_scan(70, dtype=torch.float64)
    ours, theirs = ([value.clone().requires_grad_() for value in scan] for _ in range(2))
    H = hidden_attention(*ours, rows=rows, reduce=reduce)
    reference = hidden_attention_matrix(theirs[0], theirs[0] * theirs[1], theirs[2], theirs[3])
    expected = reference if reduce is None else REDUCED[reduce](reference)
    expected = expected if rows is None else expected[..., rows, :]
    cotangent = torch.randn(H.shape, dtype=H.dtype)
    for ours_grad, theirs_grad in zip(
        torch.autograd.grad(H, ours, cotangent), torch.autograd.grad(expected, theirs, cotangent), strict=True
    ):
        assert relative_error(ours_grad, theirs_grad) < 1e-10


def test_gradients_are_finite_at_2048_positions() -> None:
    scan = [value.requires_grad_() for value in random_scan(2048, n_batch=1, n_heads=2, n_groups=1)]
    hidden_attention(*scan, reduce="mean").square().sum().backward()
    assert all(torch.isfinite(value.grad).all() and value.grad.abs().max() > 0 for value in scan)


def test_low_precision_is_summed_in_float32() -> None:
    dt, A, B, C = (value.bfloat16() for value in random_scan(70))
    H = hidden_attention(dt, A, B, C)
    assert H.dtype == torch.float32
    assert relative_error(H.double(), impulse_response(dt, dt.float() * A.float(), B, C)) < 1e-6


def test_too_much_memory_is_refused_with_what_to_reduce() -> None:
    dt, A, B, C = random_scan(130)
    with pytest.raises(MemoryLimitError, match=r"rows=.*heads=.*reduce=.*max_bytes") as refusal:
        hidden_attention(dt, A, B, C, max_bytes=1000)
    assert refusal.value.estimate_bytes > 2 * 4 * 130 * 130 * 4
    hidden_attention(dt, A, B, C, rows=[-1], max_bytes=600_000)


def test_the_estimate_shrinks_with_every_way_to_reduce() -> None:
    whole = hidden_attention_bytes(1, 2048, 2048, 32, None)
    assert hidden_attention_bytes(1, 2048, 2048, 32, "mean") < whole / 10
    assert hidden_attention_bytes(1, 2048, 2048, 1, None) < whole / 10
    assert hidden_attention_bytes(1, 2048, 1, 32, None) < whole / 10
    assert hidden_attention_bytes(1, 131_072, 8, 32, None) < 2**30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": [9]}, "rows"),
        ({"rows": []}, "rows is empty"),
        ({"rows": torch.tensor([0.5])}, "whole numbers"),
        ({"heads": [4]}, "0 to 3"),
        ({"heads": [1, 1]}, "different"),
        ({"reduce": "median"}, "reduce"),
        ({"impl": "quick"}, "impl"),
        ({"log_decay": torch.zeros(2, 7, 4)}, "either A or log_decay"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(options: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        hidden_attention(*random_scan(7), **options)
