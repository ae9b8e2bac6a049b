"""The stacked mixer is the two branches: checked on the reference path, where both can run."""

import pytest
import torch
from torch.func import functional_call

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.models.differential_mixer import DifferentialMixer


def differential_model(**changes: object) -> HookedMamba:
    values = {"d_model": 16, "n_layers": 1, "d_vocab": 11, "d_state": 4, "d_head": 8, "n_groups": 1, "proj_bias": True}
    differential = DifferentialConfig(head_division=changes.pop("head_division", "d_head"))  # type: ignore[arg-type]
    model = HookedMamba(HookedMambaConfig(**(values | changes), differential=differential))  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.double()


def apart(mixer: DifferentialMixer, u: torch.Tensor, state=None, valid=None):
    first, after_first = mixer.minuend(u, None if state is None else state[0], valid)
    second, after_second = mixer.subtrahend(u, None if state is None else state[1], valid)
    return first - mixer.lambda_() * second, (after_first, after_second)


def stacked(mixer: DifferentialMixer, u: torch.Tensor, valid=None, lambda_key=()):
    """What the GPU path hands to its kernel, run by the reference instead."""
    tensors = mixer.stack.tensors(mixer.minuend, mixer.subtrahend, mixer.lambda_, lambda_key)
    m, state = functional_call(mixer.stack.mixer, tensors, (u, None, valid))
    return m, mixer.stack.split_state(state)


@pytest.mark.parametrize("n_groups", [1, 2])
@pytest.mark.parametrize("head_division", ["d_head", "n_heads"])
def test_the_stack_equals_the_branches_apart_with_state_and_padding(n_groups: int, head_division: str) -> None:
    mixer = differential_model(n_groups=n_groups, head_division=head_division, d_head=4).blocks[0].mixer
    u = torch.randn(2, 9, 16, dtype=torch.float64)
    valid = torch.arange(9) < torch.tensor([[9], [5]])
    expected, state = apart(mixer, u, valid=valid)
    given, stacked_state = stacked(mixer, u, valid=valid)
    torch.testing.assert_close(given, expected)
    for ours, theirs in zip(stacked_state, state, strict=True):
        torch.testing.assert_close(ours.conv, theirs.conv)
        torch.testing.assert_close(ours.ssm, theirs.ssm)


def test_the_stack_gives_every_parameter_its_gradient() -> None:
    mixer = differential_model().blocks[0].mixer
    u = torch.randn(1, 6, 16, dtype=torch.float64)
    expected = torch.autograd.grad(apart(mixer, u)[0].square().sum(), parameters := dict_of_trained(mixer))
    given = torch.autograd.grad(stacked(mixer, u)[0].square().sum(), parameters)
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def dict_of_trained(mixer: DifferentialMixer) -> list[torch.nn.Parameter]:
    return [*mixer.minuend.parameters(), *mixer.subtrahend.parameters(), mixer.lambda_q1]


@torch.no_grad()
def test_the_kept_stack_follows_changes_of_weights_and_lambda() -> None:
    mixer = differential_model().blocks[0].mixer
    u = torch.randn(1, 6, 16, dtype=torch.float64)
    key = lambda: (mixer.lambda_q1.data_ptr(), mixer.lambda_q1._version)  # noqa: E731
    stacked(mixer, u, lambda_key=key())
    mixer.subtrahend.in_proj.weight.mul_(1.5)
    torch.testing.assert_close(stacked(mixer, u, lambda_key=key())[0], apart(mixer, u)[0])
    mixer.lambda_q1.add_(0.3)
    torch.testing.assert_close(stacked(mixer, u, lambda_key=key())[0], apart(mixer, u)[0])


@torch.no_grad()
def test_moving_the_model_drops_the_kept_stack() -> None:
    model = differential_model()
    mixer = model.blocks[0].mixer
    stacked(mixer, torch.randn(1, 6, 16, dtype=torch.float64))
    assert mixer.stack._cached is not None
    model.float()
    assert mixer.stack._cached is None
