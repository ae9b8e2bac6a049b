"""Patching does what the equations say it does."""

import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba
from tests.models.tiny import random_tokens, relative_error, tiny_model

PREFIX = "blocks.0.mixer.minuend"


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)))


@torch.no_grad()
def test_clean_resid_pre_of_block_0_in_a_corrupted_run_gives_the_clean_logits(model: HookedMamba) -> None:
    clean_tokens, corrupted = random_tokens(seed=1), random_tokens(seed=2)
    clean, cache = model.run_with_cache(clean_tokens, "blocks.0.hook_resid_pre")
    assert not torch.equal(model(corrupted), clean)
    patched = model.run_with_hooks(corrupted, [("blocks.0.hook_resid_pre", lambda value, name: cache[name])])
    assert torch.equal(patched, clean)


@torch.no_grad()
def test_lambda_zero_leaves_the_minuend_and_each_sample_may_have_its_own(model: HookedMamba) -> None:
    tokens = random_tokens(3, 7)
    lambdas = torch.tensor([0.0, 0.4, -2.0]).reshape(3, 1, 1)
    with model.hooks([("blocks.0.mixer.hook_lambda", lambda value, name: lambdas)]):
        together, cache = model.run_with_cache(tokens)
    assert torch.equal(cache["blocks.0.mixer.hook_difference"][0], cache[f"{PREFIX}.hook_out"][0])
    for sample, one in enumerate(lambdas):
        alone = model.run_with_hooks(
            tokens[sample : sample + 1], [("blocks.0.mixer.hook_lambda", lambda value, name, one=one: one.reshape(()))]
        )
        assert relative_error(together[sample : sample + 1], alone) < 2e-6


@torch.no_grad()
def test_lambda_may_be_given_per_position(model: HookedMamba) -> None:
    tokens = random_tokens(2, 7)
    per_position = torch.zeros(2, 7, 1)
    per_position[:, 4:] = 5.0
    with model.hooks([("blocks.0.mixer.hook_lambda", lambda value, name: per_position)]):
        _, cache = model.run_with_cache(tokens)
    minuend, subtrahend = cache[f"{PREFIX}.hook_out"], cache["blocks.0.mixer.subtrahend.hook_out"]
    assert torch.equal(cache["blocks.0.mixer.hook_difference"], minuend - per_position * subtrahend)


@torch.no_grad()
def test_a_lambda_for_another_number_of_samples_is_an_error(model: HookedMamba) -> None:
    for batch, shape in ((1, (3, 1, 1)), (2, (3, 1, 1)), (3, (3, 6, 1))):
        with pytest.raises(ValueError, match="lambda was replaced by shape"):
            model.run_with_hooks(
                random_tokens(batch, 7),
                [("blocks.0.mixer.hook_lambda", lambda value, name, shape=shape: torch.ones(shape))],
            )


@torch.no_grad()
def test_a_patched_state_is_read_where_it_was_patched_and_nowhere_else(model: HookedMamba) -> None:
    """y[t] = state[t] C[t] + D x[t] with the given states; the recurrence is not run again from them."""
    tokens = random_tokens()

    def clear_at_4(value: Tensor, name: str) -> Tensor:
        edited = value.clone()
        edited[:, 4] = 0.0
        return edited

    _, clean = model.run_with_cache(tokens)
    with model.hooks([(f"{PREFIX}.hook_state", clear_at_4)]):
        _, patched = model.run_with_cache(tokens)
    y, expected = patched[f"{PREFIX}.hook_ssm_y"], clean[f"{PREFIX}.hook_ssm_y"].clone()
    D = model.get_parameter(f"{PREFIX}.D")
    expected[:, 4] = (D[:, None] * clean[f"{PREFIX}.hook_x"])[:, 4]
    assert relative_error(y, expected) < 2e-6


@torch.no_grad()
def test_a_patched_last_state_is_where_the_next_call_continues(model: HookedMamba) -> None:
    replacement = torch.randn(2, 4, 4, 4)

    def replace_last(value: Tensor, name: str) -> Tensor:
        return torch.cat([value[:, :-1], replacement[:, None]], dim=1)

    with model.hooks([(f"{PREFIX}.hook_state", replace_last)]):
        _, state = model.forward_with_state(random_tokens())
    assert torch.equal(state.blocks[0][0].ssm, replacement)


@torch.no_grad()
@pytest.mark.parametrize("with_state", [False, True])
def test_a_patched_hidden_attention_is_what_the_scan_applies(model: HookedMamba, with_state: bool) -> None:
    """y = H x + D x, and an earlier call's state is read as before."""
    state = model.forward_with_state(random_tokens(seed=5))[1] if with_state else None
    tokens = random_tokens()
    H = torch.randn(2, 4, 9, 9)
    values: dict[str, Tensor] = {}

    def keep(value: Tensor, name: str) -> None:
        values[name] = value

    names = [f"{PREFIX}.hook_{leaf}" for leaf in ("x", "ssm_y", "hidden_attention")]
    with model.hooks([(names, keep)]):
        model.forward_with_state(tokens, state)
    clean = dict(values)
    with model.hooks([(f"{PREFIX}.hook_hidden_attention", lambda value, name: H), (names, keep)]):
        model.forward_with_state(tokens, state)
    change = torch.einsum("bhts,bshp->bthp", H - clean[names[2]], clean[names[0]])
    assert relative_error(values[names[1]], clean[names[1]] + change) < 5e-6


@torch.no_grad()
def test_state_and_hidden_attention_cannot_both_be_replaced(model: HookedMamba) -> None:
    names = [f"{PREFIX}.hook_state", f"{PREFIX}.hook_hidden_attention"]
    with pytest.raises(ValueError, match="Replace one of them"):
        model.run_with_hooks(random_tokens(), [(names, lambda value, name: 2 * value)])
    _, cache = model.run_with_cache(random_tokens(), names)
    for name in names:
        with model.hooks([(name, lambda value, name: 2 * value)]):
            changed, _ = model.run_with_cache(random_tokens(), names)
        alone = model.run_with_hooks(random_tokens(), [(name, lambda value, name: 2 * value)])
        assert torch.equal(changed, alone)


@torch.no_grad()
def test_log_decay_is_patchable_apart_from_dt(model: HookedMamba) -> None:
    """Without decay and at the same dt, the state is a plain sum of writes."""
    with model.hooks([(f"{PREFIX}.hook_log_decay", lambda value, name: torch.zeros_like(value))]):
        _, cache = model.run_with_cache(random_tokens(), lambda name: name.startswith(PREFIX))
    writes = torch.einsum(
        "bth,bthp,btgn->bthpn", *(cache[f"{PREFIX}.hook_{leaf}"] for leaf in ("dt", "x", "B"))
    )  # one group
    assert relative_error(cache[f"{PREFIX}.hook_state"], writes.cumsum(dim=1)) < 2e-6


@pytest.mark.parametrize(
    "name", ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.0.mixer.hook_lambda", f"{PREFIX}.hook_dt"]
)
def test_the_gradient_through_a_patched_value_is_that_of_finite_differences(name: str) -> None:
    model = tiny_model(DifferentialConfig(placement=(0,))).double()
    tokens = random_tokens(1, 6)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, name)
    value = cache[name].clone().requires_grad_()

    def logit(value: Tensor) -> Tensor:
        return model.run_with_hooks(tokens, [(name, lambda old, _: value)])[0, -1, 3]

    (gradient,) = torch.autograd.grad(logit(value), value)
    direction = torch.randn_like(value)
    step = 1e-5
    with torch.no_grad():
        slope = (logit(value + step * direction) - logit(value - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=1e-6, abs=1e-9)
    assert float(gradient.abs().max()) > 1e-6


def test_gradients_of_cached_values_reach_the_embedding(model: HookedMamba) -> None:
    _, cache = model.run_with_cache(random_tokens(), "blocks.1.hook_resid_pre")
    cache["blocks.1.hook_resid_pre"].sum().backward()
    assert model.embed.weight.grad is not None
    assert float(model.embed.weight.grad.abs().sum()) > 0
    model.zero_grad()
