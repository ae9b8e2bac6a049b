"""What a scan writes into its state: read, replaced, and followed to the output, in every kind of mixer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.hook_names import mixer_prefix
from diffmamba_interp.interventions import KnockOut, intervene
from diffmamba_interp.ops.reference import expand_groups
from tests.models.tiny import random_tokens, relative_error, tiny_model

KINDS: dict[str, dict[str, Any]] = {
    "mamba2": {"n_groups": 2},
    "diff-mamba2": {"differential": DifferentialConfig(placement=(0,)), "n_groups": 2},
    "mamba1": {"mixer": "mamba1"},
    "diff-mamba1": {"mixer": "mamba1", "differential": DifferentialConfig(placement=(0,))},
    "token gate": {"differential": DifferentialConfig(placement=(0,), lambda_form="token_gate")},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def model(request: pytest.FixtureRequest) -> HookedMamba:
    return tiny_model(**request.param)


def scan_of_block_0(model: HookedMamba) -> str:
    return mixer_prefix(0, "subtrahend" if model.cfg.block_kind(0) == "differential" else None)


@torch.no_grad()
def test_a_write_is_dt_x_B_and_adds_up_to_the_state(model: HookedMamba) -> None:
    """state[t] = decay[t] state[t-1] + write[t], with the decay that dt and A make."""
    prefix = scan_of_block_0(model)
    names = [f"{prefix}.hook_{leaf}" for leaf in ("x", "dt", "B", "write", "state")]
    _, cache = model.run_with_cache(random_tokens(), names)
    x, dt, B, write, state = (cache[name] for name in names)
    A = -model.get_parameter(f"{prefix}.A_log").exp()
    if model.cfg.mixer == "mamba1":
        assert relative_error(write, (dt * x)[..., None] * B[:, :, None]) < 1e-6
        decay = torch.exp(dt[..., None] * A)
    else:
        assert relative_error(write, (dt[..., None] * x)[..., None] * expand_groups(B, x.shape[2])[..., None, :]) < 1e-6
        decay = torch.exp(dt * A)[..., None, None]
    assert relative_error(state[:, 0], write[:, 0]) < 1e-6
    assert relative_error(state[:, 1:], decay[:, 1:] * state[:, :-1] + write[:, 1:]) < 2e-6


@torch.no_grad()
def test_a_write_replaced_by_itself_changes_no_bit(model: HookedMamba) -> None:
    name, tokens = f"{scan_of_block_0(model)}.hook_write", random_tokens()
    clean = model(tokens)
    assert torch.equal(model.run_with_cache(tokens, name)[0], clean)
    assert torch.equal(model.run_with_hooks(tokens, [(name, lambda value, name: value.clone())]), clean)


@torch.no_grad()
def test_an_edited_write_changes_every_later_state_as_the_recurrence_says(model: HookedMamba) -> None:
    """Against the states run again by hand, and what is read from them."""
    prefix, tokens = scan_of_block_0(model), random_tokens()
    names = [f"{prefix}.hook_{leaf}" for leaf in ("x", "C", "dt", "write", "ssm_y")]
    _, clean = model.run_with_cache(tokens, names)
    edit = torch.randn_like(clean[names[3]])
    edit[:, :3] = 0.0

    def add(value: Tensor, name: str) -> Tensor:
        return value + edit

    with model.hooks([(names[3], add)]):
        _, cache = model.run_with_cache(tokens, [f"{prefix}.hook_ssm_y", f"{prefix}.hook_state"])
        _, alone = model.run_with_cache(tokens, f"{prefix}.hook_ssm_y")
        _, state = model.forward_with_state(tokens)
    A = -model.get_parameter(f"{prefix}.A_log").exp()
    dt, C = clean[names[2]], clean[names[1]]
    if model.cfg.mixer == "mamba1":
        decay, C = torch.exp(dt[..., None] * A), C[:, :, None]
    else:
        decay, C = torch.exp(dt * A)[..., None, None], expand_groups(C, edit.shape[2])[..., None, :]
    D = model.get_parameter(f"{prefix}.D")
    x = clean[names[0]]
    rows, states = [], torch.zeros_like(edit[:, 0])
    for t in range(tokens.shape[1]):
        states = decay[:, t] * states + clean[names[3]][:, t] + edit[:, t]
        rows.append((states * C[:, t]).sum(dim=-1) + D.reshape(-1, *[1] * (x.ndim - 3)) * x[:, t])
    expected = torch.stack(rows, dim=1)
    assert relative_error(alone[names[4]], expected) < 5e-6
    assert relative_error(cache[names[4]], expected) < 5e-6
    assert torch.equal(alone[names[4]][:, :3], clean[names[4]][:, :3])
    assert relative_error(cache[f"{prefix}.hook_state"][:, -1], states) < 5e-6
    blocks = state.blocks[0]
    assert relative_error((blocks[1] if isinstance(blocks, tuple) else blocks).ssm, states) < 5e-6


@torch.no_grad()
def test_a_write_set_to_zero_is_a_source_that_is_knocked_out(model: HookedMamba) -> None:
    prefix, tokens = scan_of_block_0(model), random_tokens()
    branch = "subtrahend" if model.cfg.block_kind(0) == "differential" else None

    def clear(value: Tensor, name: str) -> Tensor:
        edited = value.clone()
        edited[:, 2] = 0.0
        return edited

    with intervene(model, KnockOut(positions=2, blocks=0, branch=branch)):
        expected = model(tokens)
    given = model.run_with_hooks(tokens, [(f"{prefix}.hook_write", clear)])
    assert relative_error(given, expected) < 5e-6
    assert relative_error(given, model(tokens)) > 1e-3


@pytest.mark.parametrize("also", ["state", "hidden_attention"])
def test_the_gradient_at_a_write_that_is_only_read_is_that_of_finite_differences(model: HookedMamba, also: str) -> None:
    """Beside another costly point, too, which takes another form of the scan."""
    model, tokens = model.double(), random_tokens(1, 6)
    prefix = scan_of_block_0(model)
    name = f"{prefix}.hook_write"
    for names in (name, [name, f"{prefix}.hook_{also}"]):
        logits, cache = model.run_with_cache(tokens, names)
        (gradient,) = torch.autograd.grad(logits[0, -1, 3], cache[name])
        direction = 1e-5 * torch.randn_like(gradient)
        with torch.no_grad():
            up = model.run_with_hooks(tokens, [(name, lambda value, _, by=direction: value + by)])
            down = model.run_with_hooks(tokens, [(name, lambda value, _, by=direction: value - by)])
        change = float(up[0, -1, 3] - down[0, -1, 3]) / 2
        assert change == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-13)
        assert abs(change) > 1e-10


@pytest.mark.parametrize("mixer", ["mamba2", "mamba1"])
def test_gradients_of_the_parameters_do_not_depend_on_who_looks_at_the_writes(mixer: str) -> None:
    model, tokens = tiny_model(mixer=mixer), random_tokens()
    parameter = model.blocks[0].mixer.in_proj.weight
    (expected,) = torch.autograd.grad(model(tokens).square().mean(), parameter)
    for hook in (lambda value, name: None, lambda value, name: value.clone()):
        logits = model.run_with_hooks(tokens, [("blocks.0.mixer.hook_write", hook)])
        (gradient,) = torch.autograd.grad(logits.square().mean(), parameter)
        assert relative_error(gradient, expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("mixer", ["mamba2", "mamba1"])
def test_writes_and_the_matrix_cannot_both_be_replaced_but_states_follow_the_writes(mixer: str) -> None:
    model, tokens = tiny_model(mixer=mixer), random_tokens()
    write, state, H = (f"blocks.0.mixer.hook_{leaf}" for leaf in ("write", "state", "hidden_attention"))
    with pytest.raises(ValueError, match=f"both '{write}' and '{H}' were replaced.*Replace one of them"):
        model.run_with_hooks(tokens, [([write, H], lambda value, name: 2 * value)])
    alone = model.run_with_hooks(tokens, [(write, lambda value, name: 2 * value)])
    with model.hooks([(write, lambda value, name: 2 * value)]):
        for beside in (H, state, [H, state]):
            assert relative_error(model.run_with_cache(tokens, beside)[0], alone) < 5e-6
    doubled_twice = model.run_with_hooks(tokens, [([write, state], lambda value, name: 2 * value)])
    assert relative_error(doubled_twice, model.run_with_hooks(tokens, [(state, lambda v, n: 4 * v)])) < 5e-6


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_serve_a_write_that_is_read_or_replaced(kind: str) -> None:
    """Both paths give one value and one result; the GPU path keeps its kernels for both."""
    model = tiny_model(**{**KINDS[kind], "d_state": 16}).to("cuda")
    tokens, name = random_tokens(2, 40).cuda(), f"{scan_of_block_0(model)}.hook_write"
    results: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for impl in ("reference", "fused"):
            model.impl = impl  # type: ignore[assignment]
            logits, cache = model.run_with_cache(tokens, name)
            edited = model.run_with_hooks(tokens, [(name, lambda value, name: 1.1 * value + 0.01)])
            itself = model.run_with_hooks(tokens, [(name, lambda value, name: value.clone())])
            assert relative_error(itself, model(tokens)) < 2e-3
            results[impl] = [logits, cache[name], edited]
    # The kernels' products are TF32 as shipped, and a differential block adds the errors of two scans.
    for given, expected in zip(results["fused"], results["reference"], strict=True):
        assert relative_error(given, expected) < 4e-3
