"""The GPU kernels compute what the reference computes: values, gradients, patches, states. Needs a GPU.

float32 is checked at the precision that the environment asks of Triton: TF32 products by default, IEEE ones with
TRITON_F32_DEFAULT=ieee (run the file once with each).
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig, inspect_checkpoint
from diffmamba_interp.hook_points import select_names
from diffmamba_interp.ops import fused

pytestmark = pytest.mark.gpu

TOLERANCE = {
    torch.float32: 1e-4 if os.environ.get("TRITON_F32_DEFAULT") == "ieee" else 2e-3,
    torch.bfloat16: 2e-2,
}
LENGTHS = (1, 7, 63, 500, 4096)


KINDS: dict[str, dict[str, Any]] = {
    "mamba2": {},
    "mamba2 of two groups": {"n_groups": 2},
    "mamba1": {"mixer": "mamba1", "d_state": 16},
    "falcon-mamba": {"mixer": "mamba1", "d_state": 16, "scan_norm_eps": 1e-6},
    "diff-s6": {"n_groups": 2},
    "diff-s6, scans": {},
    "diff-s6 over mamba1": {"mixer": "mamba1", "d_state": 16},
    "head gate": {},
    "head gate over mamba1": {"mixer": "mamba1", "d_state": 16},
}
HEAD_GATE = {"subtract_at": "scan", "lambda_form": "token_head_gate", "normalisation": "none"}
DIFFERENTIAL: dict[str, dict[str, str]] = {
    "diff-s6": {"subtract_at": "gated", "lambda_form": "sigmoid"},
    "diff-s6, scans": {"subtract_at": "scan", "lambda_form": "exp_dot", "normalisation": "pre"},
    "diff-s6 over mamba1": {"subtract_at": "scan", "lambda_form": "one", "normalisation": "none"},
    "head gate": HEAD_GATE,
    "head gate over mamba1": HEAD_GATE,
}
"""What of the differential blocks a kind changes."""
of_every_kind = pytest.mark.parametrize("kind", KINDS)


def make_model(kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> HookedMamba:
    """Block 0 differential, block 1 plain."""
    sizes = {"d_model": 64, "n_layers": 2, "d_vocab": 96, "d_state": 32}
    heads = {} if "mixer" in KINDS[kind] else {"d_head": 32}
    differential = DifferentialConfig(placement="alternate", **(DIFFERENTIAL.get(kind, {}) | changes))
    cfg = HookedMambaConfig(**{**sizes, **heads, **KINDS[kind]}, differential=differential)
    torch.manual_seed(0)
    model = HookedMamba(cfg)
    for name, parameter in model.named_parameters():
        # 1 in both scans it would cancel where they are subtracted, and leave at length 1 little more than rounding.
        if name.endswith(".D"):
            parameter.data.uniform_(0.5, 1.5)
    model.to("cuda", dtype)
    for name, parameter in model.named_parameters():
        if "lambda" in name or name.endswith(("A_log", "D", "dt_bias")):
            parameter.data = parameter.data.float()
    return model


def tokens_of(length: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 96, (batch, length), device="cuda", generator=torch.Generator("cuda").manual_seed(length))


def relative_error(given: torch.Tensor, expected: torch.Tensor) -> float:
    given, expected = given.detach().double(), expected.detach().double()
    return float((given - expected).norm() / expected.norm().clamp_min(1e-12))


@pytest.fixture(params=["causal_conv1d", "our conv"])
def conv(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kernels = fused._kernels()
    if request.param == "our conv":
        monkeypatch.setattr(fused, "_kernels", lambda: dataclasses.replace(kernels, causal_conv1d=None))
    elif kernels.causal_conv1d is None:
        pytest.fail("causal_conv1d is not installed here, so half of the comparison would be missing")
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@of_every_kind
@pytest.mark.parametrize("length", LENGTHS)
def test_logits_and_every_served_hook_point_agree(conv: str, length: int, kind: str, dtype: torch.dtype) -> None:
    model, tokens = make_model(kind, dtype), tokens_of(length)
    with torch.no_grad():
        model.impl = "reference"
        expected, reference_cache = model.run_with_cache(tokens)
        model.impl = "fused"
        logits = model(tokens)
        _, cache = model.run_with_cache(tokens)
    assert relative_error(logits, expected) < TOLERANCE[dtype]
    assert list(cache)
    assert set(cache) == set(reference_cache)
    wrong = {n: e for n in cache if (e := relative_error(cache[n], reference_cache[n])) >= TOLERANCE[dtype]}
    assert not wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@of_every_kind
@pytest.mark.parametrize("length", LENGTHS)
def test_gradients_agree(conv: str, length: int, kind: str, dtype: torch.dtype) -> None:
    model, tokens = make_model(kind, dtype), tokens_of(length)
    names = [name for name, _ in model.named_parameters()]

    def gradients(impl: str) -> list[torch.Tensor]:
        model.impl = impl  # type: ignore[assignment]
        logits = model(tokens)
        weight = torch.randn(logits.shape, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
        return list(torch.autograd.grad((torch.log_softmax(logits, -1) * weight).sum(), list(model.parameters())))

    expected, given = gradients("reference"), gradients("fused")
    total = torch.cat([e.flatten().double() for e in expected]).norm()
    # A gradient that nearly cancels (lambda's, in bfloat16) is measured against the whole gradient's size.
    errors = {
        name: float((g.double() - e.double()).norm() / torch.maximum(e.double().norm(), 0.05 * total))
        for name, g, e in zip(names, given, expected, strict=True)
    }
    assert all(g.isfinite().all() for g in given)
    whole = torch.cat([(g - e).flatten().double() for g, e in zip(given, expected, strict=True)]).norm() / total
    assert whole < TOLERANCE[dtype]
    # In bfloat16 a single tensor of the reference is itself up to 5e-2 from float32, further than the kernels are.
    assert max(errors.values()) < TOLERANCE[dtype] * (1.5 if dtype == torch.bfloat16 else 1.0), errors


@pytest.mark.parametrize("changes", [{"normalisation": "pre"}, {"normalisation": "none"}, {"head_division": "n_heads"}])
def test_patching_through_the_kernels_equals_patching_through_the_reference(changes: dict[str, str]) -> None:
    assert_patching_agrees(make_model("mamba2", **changes))


@of_every_kind
def test_patching_agrees_whatever_the_mixer(kind: str) -> None:
    assert_patching_agrees(make_model(kind))


def assert_patching_agrees(model: HookedMamba) -> None:
    tokens = tokens_of(40)
    wrong = {}
    with torch.no_grad():
        for name in select_names(model.hook_points, lambda name: True):
            edit = [(name, lambda value, name: 1.1 * value + 0.01)]
            model.impl = "reference"
            expected = model.run_with_hooks(tokens, edit)
            clean = model(tokens)
            model.impl = "fused"
            error = relative_error(model.run_with_hooks(tokens, edit), expected)
            if error >= TOLERANCE[torch.float32] or torch.equal(expected, clean):
                wrong[name] = error
    assert not wrong


@of_every_kind
def test_a_prompt_read_in_pieces_and_by_steps_gives_the_whole_prompts_logits(kind: str) -> None:
    model, tokens = make_model(kind), tokens_of(80)
    model.impl = "fused"
    with torch.no_grad():
        whole = model(tokens)
        first, state = model.forward_with_state(tokens[:, :33])
        second, state = model.forward_with_state(tokens[:, 33:70], state)
        parts = [first, second]
        for step in range(70, 80):
            logits, state = model.forward_with_state(tokens[:, step : step + 1], state)
            parts.append(logits)
    assert relative_error(torch.cat(parts, dim=1), whole) < TOLERANCE[torch.float32]


@of_every_kind
def test_padding_leaves_logits_and_state_as_they_are_without_it(kind: str) -> None:
    model, tokens = make_model(kind), tokens_of(50, batch=2)
    model.impl = "fused"
    with torch.no_grad():
        padded, state = model.forward_with_state(tokens, lengths=torch.tensor([50, 20]))
        alone, alone_state = model.forward_with_state(tokens[1:, :20])
    assert relative_error(padded[1:, :20], alone) < TOLERANCE[torch.float32]
    for ours, theirs in zip(state.select(torch.tensor([1])).tensors(), alone_state.tensors(), strict=True):
        assert relative_error(ours, theirs) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("length", [65_536, 131_072])
def test_a_very_long_prompt_agrees_with_the_chunked_reference(length: int) -> None:
    model, tokens = make_model("mamba2"), tokens_of(length, batch=1)
    with torch.no_grad():
        model.impl = "reference"
        expected, _ = model.forward_with_state(tokens)
        model.impl = "fused"
        given, _ = model.forward_with_state(tokens)
    assert relative_error(given[:, -1000:], expected[:, -1000:]) < TOLERANCE[torch.float32]
    assert relative_error(given, expected) < TOLERANCE[torch.float32]


def test_inspection_checks_the_kernels_on_the_loaded_weights(fixtures_dir: Path) -> None:
    report = inspect_checkpoint(fixtures_dir / "published_diffmamba2" / "all")
    assert report.self_check is not None
    assert 0 < report.self_check < TOLERANCE[torch.float32]
