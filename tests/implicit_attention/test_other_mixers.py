"""Implicit attention of mixers other than Mamba-2: of Mamba-1, and of one that exists in the tests alone."""

from typing import Any

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, contribution_along, extract_attention
from diffmamba_interp.implicit_attention import (
    capture_block,
    contribution_norms,
    effective_attention,
    token_contributions,
)
from diffmamba_interp.ops import selective_attention
from diffmamba_interp.ops.frozen_scan import FrozenScan
from diffmamba_interp.ops.selective import selective_attention_matrix, selective_chunked
from tests.models import mixers  # noqa: F401 - registers the toy
from tests.models.tiny import random_tokens, relative_error, tiny_model

KINDS = {
    "mamba1": {"mixer": "mamba1", "dt_rank": 3},
    "falcon": {"mixer": "mamba1", "scan_norm_eps": 1e-3, "proj_bias": True},
    "no bias of the convolution": {"mixer": "mamba1", "conv_bias": False},
    "toy": {"mixer": "toy"},
}
DIFFERENTIAL = {
    "plain": None,
    "post": DifferentialConfig(lambda_form="exp_dot"),
    "pre": DifferentialConfig(normalisation="pre"),
    "none": DifferentialConfig(normalisation="none"),
}
ROWS = [0, 4, -1]


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture(scope="module", params=DIFFERENTIAL.values(), ids=DIFFERENTIAL)
def model(request: pytest.FixtureRequest, kind: dict[str, Any]) -> HookedMamba:
    if request.param is not None and kind["mixer"] == "toy" and request.param.lambda_form == "exp_dot":
        return tiny_model(DifferentialConfig(), **kind).double()
    return tiny_model(request.param, **kind).double()


@torch.no_grad()
def test_the_matrices_rebuild_the_scan_of_every_channel(model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    _, cache = model.run_with_cache(tokens, "*hook_ssm_y")
    activations = capture_block(model, tokens, 1)
    for branch, y in zip(activations.branches, [v for name, v in cache.items() if ".1." in name], strict=True):
        H = branch.scan.hidden(None, tuple(range(branch.n_heads)))
        assert torch.equal(H, H.tril())
        rebuilt = torch.einsum("bhts,bshp->bthp", H, branch.x) + branch.scan.D[:, None] * branch.x
        assert relative_error(rebuilt[..., 0], y) < 1e-10
        assert relative_error(branch.scan.apply(branch.x)[..., 0], y) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("sources", ["convolved", "input"])
@pytest.mark.parametrize("rows", [None, ROWS])
def test_contributions_add_up_to_what_the_block_writes(model: HookedMamba, sources: Any, rows: Any) -> None:
    tokens = random_tokens(2, 9)
    activations = capture_block(model, tokens, 1)
    at = [t % 9 for t in (rows or range(9))]
    v = torch.randn(16, dtype=torch.float64)
    total = activations.mixer_out[:, at] @ v
    along = contribution_along(activations, v, rows, sources=sources)
    assert relative_error(along.net.sum(dim=-1) + along.bias, total) < 1e-10
    per_head = contribution_along(activations, v, rows, sources=sources, per_head=True)
    for whole, heads in zip(along.parts, per_head.parts, strict=True):
        assert relative_error(heads.sum(dim=1), whole) < 1e-10
    vectors = token_contributions(activations, at, sources=sources)
    assert relative_error(vectors.net.sum(dim=2) + vectors.bias, activations.mixer_out[:, at]) < 1e-10
    assert relative_error(vectors.net @ v, along.net) < 1e-10
    norms = contribution_norms(activations, at, sources=sources)
    assert relative_error(norms[-1], vectors.net.norm(dim=-1)) < 1e-10


@torch.no_grad()
def test_effective_attention_rebuilds_what_enters_out_proj(model: HookedMamba) -> None:
    activations = capture_block(model, random_tokens(2, 9), 1)
    for branch in activations.branches:
        E, bias = effective_attention(branch, ROWS)
        given = torch.einsum("bcts,bsc->btc", E, branch.x_in.flatten(2)) + bias.mT
        gated = branch.gate * branch.scan.apply(branch.x)
        assert relative_error(given, gated.flatten(2)[:, [0, 4, 8]]) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("reduce", ["mean", "abs_mean", "max_abs"])
@pytest.mark.parametrize("rows", [None, ROWS])
def test_reduced_attention_is_the_reduction_of_the_dense_one(
    model: HookedMamba, reduce: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffmamba_interp.ops.frozen_scan.HEAD_CHUNK_BYTES", 8 * 2 * 9 * 9 * 5)
    tokens = random_tokens(2, 9)
    dense = extract_attention(model, tokens, 1, rows=rows)
    reduced = extract_attention(model, tokens, 1, rows=rows, reduce=reduce)
    for whole, part in zip(dense.parts, reduced.parts, strict=True):
        expected = {"mean": whole.mean(1), "abs_mean": whole.abs().mean(1), "max_abs": whole.abs().amax(1)}[reduce]
        assert relative_error(part, expected) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("kind_of_picture", ["hidden", "contribution", "contribution_norm"])
def test_records_know_which_channels_they_show(model: HookedMamba, kind_of_picture: Any) -> None:
    direction = 3 if kind_of_picture == "contribution" else None
    record = extract_attention(model, random_tokens(2, 9), 1, kind_of_picture, ROWS, (2, 5), direction=direction)
    assert record.heads == (2, 5)
    assert record.net.shape[-2:] == (3, 9)


def test_a_kernel_of_a_mixer_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match="has no kernel"):
        extract_attention(tiny_model(mixer="toy"), random_tokens(), 1, impl="fused")


# ------------------------------------------------------------------ Mamba-1's matrices in tiles


@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 130, 300])
def test_tiles_of_a_channel_are_its_matrix(length: int) -> None:
    torch.manual_seed(length)
    dt, A = torch.rand(2, length, 3).double(), -8 * torch.rand(3, 4).double()
    B, C = torch.randn(2, 2, length, 4).double()
    scan: FrozenScan = selective_attention.FrozenSelective(dt, A, B, C, torch.zeros(3).double())
    assert relative_error(scan.matrix(None, (0, 2)), selective_attention_matrix(dt, A, B, C)[:, [0, 2]]) < 1e-10


def test_long_scans_rebuild_in_float32() -> None:
    torch.manual_seed(0)
    length = 600
    dt = torch.where(torch.rand(1, length, 4) < 0.1, 2.0, 0.02) * torch.rand(1, length, 4)
    A, D = -16 * torch.rand(4, 8), torch.randn(4)
    B, C = torch.randn(2, 1, length, 8)
    x = torch.randn(1, length, 4)
    H = selective_attention.FrozenSelective(dt, A, B, C, D).matrix(None, (0, 1, 2, 3))
    exact = selective_chunked(*(value.double() for value in (x, dt, A, B, C, D))).y
    assert relative_error((torch.einsum("bdts,bsd->btd", H, x) + D * x).double(), exact) < 1e-5


def test_gradients_of_a_channel_are_finite_and_those_of_the_pairs() -> None:
    torch.manual_seed(0)
    inputs = [torch.rand(1, 130, 2), -20 * torch.rand(2, 3), *torch.randn(2, 1, 130, 3)]
    inputs = [value.double().requires_grad_() for value in inputs]
    weight = torch.randn(1, 2, 130, 130).double()
    tiles = selective_attention.FrozenSelective(*inputs, torch.zeros(2)).matrix(None, (0, 1))
    given = torch.autograd.grad((weight * tiles).sum(), inputs)
    expected = torch.autograd.grad((weight * selective_attention_matrix(*inputs)).sum(), inputs)
    for mine, wanted in zip(given, expected, strict=True):
        assert relative_error(mine, wanted) < 1e-9
