"""Which implementation runs, and that the kernels are asked for what was asked of us."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.implicit_attention import (
    BlockActivations,
    capture_block,
    contribution_along,
    hidden_attention,
)
from diffmamba_interp.ops import kernel_use, kernels
from diffmamba_interp.ops.kernels import triton_import
from tests.implicit_attention.scans import random_scan
from tests.models.tiny import random_tokens, relative_error, tiny_model

ROWS = [None, [3, 0], torch.tensor([[3], [5]])]


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that compute by the reference with the arguments that they are given, and count their calls."""
    calls: list[str] = []

    def fake_hidden(dt, A, B, C, *, log_decay, rows, heads, reduce):
        calls.append("hidden")
        return hidden_attention(dt, A, B, C, rows, heads, reduce, log_decay=log_decay, impl="reference")

    def fake_contribution(v, x, dt, A, B, C, D, *, log_decay, rows, heads):
        calls.append("contribution")
        assert A is None
        H = hidden_attention(dt, None, B, C, log_decay=log_decay, impl="reference")
        H = H + torch.diag_embed(D[:, None].expand(-1, H.shape[-1]))
        H = H if rows is None else H[:, :, rows]
        values = H * torch.einsum("bthp,bshp->bhts", v, x)
        return values[:, list(heads)].sum(dim=1)

    monkeypatch.setattr(kernels, "fused_hidden_attention", fake_hidden)
    monkeypatch.setattr(kernels, "fused_contribution", fake_contribution)
    return calls


@pytest.fixture(scope="module")
def activations() -> BlockActivations:
    model = tiny_model(DifferentialConfig(placement=(0,)), n_groups=2, d_model=32)
    return capture_block(model, random_tokens(2, 9), 0)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("reduce", [None, "max_abs"])
def test_the_kernel_gets_the_rows_heads_and_reduction(kernel_calls: list[str], rows, reduce: str | None) -> None:
    scan = random_scan(9)
    ours = hidden_attention(*scan, rows=rows, heads=[3, 1], reduce=reduce, impl="fused")
    assert torch.equal(ours, hidden_attention(*scan, rows=rows, heads=[3, 1], reduce=reduce, impl="reference"))
    per_sample = isinstance(rows, Tensor)
    assert kernel_calls == ["hidden"] * (2 if per_sample else 1)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("sources", ["convolved", "input"])
def test_the_kernel_gets_the_pulled_back_direction(
    kernel_calls: list[str], activations: BlockActivations, rows, sources: str
) -> None:
    v = torch.randn(32)
    ours = contribution_along(activations, v, rows, [1], sources=sources, impl="fused")
    theirs = contribution_along(activations, v, rows, [1], sources=sources, impl="reference")
    assert relative_error(ours.net, theirs.net) < 1e-5
    assert set(kernel_calls) == {"contribution"}


def test_auto_takes_the_reference_on_a_cpu_and_says_so_once(
    kernel_calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    kernel_use._said.cache_clear()
    with caplog.at_level(logging.INFO, logger=kernel_use.__name__):
        hidden_attention(*random_scan(7))
        hidden_attention(*random_scan(7))
    assert kernel_calls == []
    assert [record.message for record in caplog.records] == [
        "implicit attention: reference (the tensors are not on a CUDA device)"
    ]


@pytest.mark.parametrize("missing", ["Triton", "GPU"])
def test_a_kernel_that_cannot_run_is_refused_and_not_replaced(
    monkeypatch: pytest.MonkeyPatch, activations: BlockActivations, missing: str
) -> None:
    monkeypatch.setattr(triton_import, "TRITON_OBSTACLE", "it is not installed" if missing == "Triton" else None)
    monkeypatch.setattr(triton_import, "INTERPRETED", False)
    calls: list[Callable[[], object]] = [
        lambda: hidden_attention(*random_scan(7), impl="fused"),
        lambda: contribution_along(activations, torch.zeros(32), impl="fused"),
    ]
    for call in calls:
        with pytest.raises((RuntimeError, ImportError), match="reference"):
            call()


@pytest.mark.gpu
@pytest.mark.parametrize("rows", ROWS)
def test_the_kernels_on_a_gpu_equal_the_reference(activations: BlockActivations, rows) -> None:
    scan = [value.cuda() for value in random_scan(500)]
    rows = rows.cuda() if isinstance(rows, Tensor) else rows
    for reduce in (None, "mean", "abs_mean", "max_abs"):
        ours, theirs = (hidden_attention(*scan, rows=rows, reduce=reduce, impl=impl) for impl in ("fused", "reference"))
        assert relative_error(ours, theirs) < 1e-5
    model = tiny_model(DifferentialConfig(placement=(0,)), n_groups=2, d_model=32).cuda()
    block = capture_block(model, random_tokens(2, 500).cuda(), 0)
    v = torch.randn(32, device="cuda")
    made = [contribution_along(block, v, rows, impl=impl).net for impl in ("fused", "reference")]
    assert relative_error(*made) < 1e-4
