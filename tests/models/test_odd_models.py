"""Legal but unusual configurations, dtypes, copies and modes."""

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffmamba_interp import ActivationCache, DifferentialConfig, HookedMamba
from tests.models.tiny import random_tokens, relative_error, tiny_config, tiny_model

ODD: dict[str, dict[str, Any]] = {
    "one block": {"n_layers": 1},
    "no convolution memory": {"d_conv": 1},
    "narrow convolution": {"d_conv": 2},
    "wide convolution": {"d_conv": 7},
    "no convolution bias": {"conv_bias": False},
    "projection bias": {"proj_bias": True},
    "clamped dt": {"dt_limit": (0.01, 0.05)},
    "expand 1": {"expand": 1},
    "expand 4": {"expand": 4, "n_groups": 2},
    "no power of two": {"d_model": 30, "d_head": 6, "d_state": 7, "d_vocab": 29},
    "one channel per head": {"d_head": 2},
    "one state": {"d_state": 1},
    "stream in the dtype of the weights": {"residual_in_fp32": False},
}

DIFFERENTIALS = {
    "plain": None,
    "halved d_head": DifferentialConfig(placement=(0,)),
    "halved heads": DifferentialConfig(placement=(0,), head_division="n_heads"),
}


@torch.no_grad()
@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
@pytest.mark.parametrize("differential", DIFFERENTIALS.values(), ids=DIFFERENTIALS)
def test_an_unusual_config_runs_whole_in_steps_and_in_every_form_of_the_scan(
    changes: dict[str, Any], differential: DifferentialConfig | None
) -> None:
    if changes.get("expand") == 1 and differential is not None and differential.head_division == "n_heads":
        changes = {**changes, "d_head": 4}
    model, tokens = tiny_model(differential, **changes), random_tokens(2, 7)
    logits, cache = model.run_with_cache(tokens)
    assert all(bool(value.isfinite().all()) for value in cache.values())
    by_steps, state = [], None
    for token in tokens.T:
        step, state = model.forward_with_state(token[:, None], state)
        by_steps.append(step)
    assert relative_error(torch.cat(by_steps, dim=1), logits) < 5e-6
    for costly in ("*.hook_write", "*.hook_state", "*.hook_hidden_attention"):
        assert relative_error(model.run_with_cache(tokens, costly)[0], logits) < 5e-6


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"d_state": 5},
        {"d_conv": 3},
        {"expand": 4},
        {"d_head": 4},
        {"n_groups": 2},
        {"norm_eps": 0.1},
        {"dt_limit": (0.05, 0.06)},
        {"proj_bias": True},
        {"conv_bias": False},
        {"tie_embeddings": True},
        {"dt_min": 0.05},
        {"dt_max": 0.5},
        {"dt_floor": 0.08},
        {"initializer_range": 0.2},
        {"differential": DifferentialConfig()},
    ],
    ids=str,
)
def test_every_option_changes_the_model(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    usual = HookedMamba(tiny_config())
    torch.manual_seed(0)
    other = HookedMamba(tiny_config(**changes))
    same_parameters = [(n, p.shape) for n, p in usual.named_parameters()] == [
        (n, p.shape) for n, p in other.named_parameters()
    ]
    assert not same_parameters or relative_error(other(random_tokens()), usual(random_tokens())) > 1e-6


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"subnorm_eps": 1.0},
        {"normalisation": "pre"},
        {"normalisation": "none"},
        {"head_division": "n_heads"},
        {"lambda_form": "exp_dot"},
        {"lambda_initialisation": "published"},
        {"placement": (1,)},
    ],
    ids=str,
)
def test_every_differential_option_changes_the_model(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    usual = HookedMamba(tiny_config(DifferentialConfig(placement=(0,))))
    torch.manual_seed(0)
    other = HookedMamba(tiny_config(DifferentialConfig(**{"placement": (0,), **changes})))
    assert relative_error(other(random_tokens()), usual(random_tokens())) > 1e-6


@torch.no_grad()
def test_a_stream_in_float32_is_kept_beside_half_precision_weights() -> None:
    for in_fp32, expected in ((True, torch.float32), (False, torch.bfloat16)):
        model = tiny_model(DifferentialConfig(placement=(0,)), residual_in_fp32=in_fp32).to(torch.bfloat16)
        _, cache = model.run_with_cache(random_tokens())
        assert cache["blocks.1.hook_resid_post"].dtype == expected
        assert cache["blocks.0.mixer.hook_lambda"].dtype == torch.float32


def test_published_lambda_initialisation_saturates_and_the_small_one_does_not() -> None:
    sums = {}
    for initialisation in ("published", "small"):
        differential = DifferentialConfig(lambda_initialisation=initialisation)
        model = HookedMamba(tiny_config(differential, d_model=256, d_head=64, n_layers=8))
        sums[initialisation] = [abs(float(block.mixer.lambda_q1.detach().sum())) for block in model.blocks]
    assert max(sums["small"]) < 1.0
    assert sum(total > 4.6 for total in sums["published"]) >= 4


# ------------------------------------------------------------------ dtypes and modes


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02), (torch.float64, 1e-5)])
def test_a_model_can_be_cast(dtype: torch.dtype, tolerance: float) -> None:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    tokens = random_tokens()
    exact = model(tokens)
    cast = copy.deepcopy(model).to(dtype)
    assert relative_error(cast(tokens).to(torch.float32), exact) < tolerance
    assert torch.equal(cast.generate(tokens, 3)[:, :9], tokens)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_inference_modes_give_the_same_numbers_and_allow_patching(mode: Callable[[], Any]) -> None:
    model, tokens = tiny_model(DifferentialConfig(placement=(0,))), random_tokens()
    exact = model(tokens).detach()
    with mode():
        logits, cache = model.run_with_cache(tokens)
        assert torch.equal(logits, exact)
        for name in cache:
            assert torch.equal(model.run_with_hooks(tokens, [(name, lambda value, name: cache[name].clone())]), exact)
    later = model.run_with_hooks(tokens, [("hook_embed", lambda value, name: cache[name].clone())])
    assert torch.equal(later.detach(), exact)


def test_training_reaches_every_parameter() -> None:
    for differential in (
        DifferentialConfig(placement=(0,)),
        DifferentialConfig(lambda_form="exp_dot", normalisation="pre"),
    ):
        model = tiny_model(differential, tie_embeddings=True)
        torch.nn.functional.cross_entropy(
            model(random_tokens()).flatten(0, 1), random_tokens(seed=3).flatten()
        ).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
        assert without == []


# ------------------------------------------------------------------ copies and threads


@torch.no_grad()
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_a_copy_is_a_model_of_its_own(duplicate: Callable[[HookedMamba], HookedMamba]) -> None:
    model, tokens = tiny_model(DifferentialConfig(placement=(0,)), tie_embeddings=True), random_tokens()
    exact = model(tokens)
    twin = duplicate(model)
    assert torch.equal(twin(tokens), exact)
    assert twin.unembed.weight is twin.embed.weight
    with model.hooks([("hook_embed", lambda value, name: 0 * value)]):
        assert torch.equal(twin(tokens), exact)
    with twin.hooks([("hook_embed", lambda value, name: 0 * value)]):
        assert torch.equal(model(tokens), exact)
        assert not torch.equal(twin(tokens), exact)
    twin.blocks[0].mixer.lambda_q1.add_(1.0)
    assert torch.equal(model(tokens), exact)


@torch.no_grad()
def test_threads_that_share_a_model_see_their_own_values_only() -> None:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    prompts = [random_tokens(2, 5 + index, seed=index) for index in range(4)]
    expected = [model.run_with_cache(prompt) for prompt in prompts]
    wrong: list[str] = []

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(3):
                logits, cache = model.run_with_cache(prompts[index])
                same = [torch.equal(cache[name], value) for name, value in expected[index][1].items()]
                if not (torch.equal(logits, expected[index][0]) and all(same) and len(cache) == len(same)):
                    wrong.append(str(index))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not any(point.is_hooked for point in model.hook_points.values())


def test_a_cache_is_what_the_public_name_says() -> None:
    assert isinstance(tiny_model().run_with_cache(random_tokens())[1], ActivationCache)


@torch.no_grad()
def test_a_changed_parameter_is_seen_by_the_next_call() -> None:
    model, tokens = tiny_model(DifferentialConfig(placement=(0,))), random_tokens()
    for name, parameter in model.named_parameters():
        before = model(tokens)
        parameter.add_(0.1)
        assert not torch.equal(model(tokens), before), name
