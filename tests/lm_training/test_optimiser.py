import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.lm_training.optimiser import (
    clip_gradients,
    learning_rate,
    make_optimiser,
    set_learning_rate,
)
from diffmamba_interp.lm_training.recipe import OptimiserRecipe
from tests.models.tiny import tiny_config


def test_the_learning_rate_warms_up_linearly_and_falls_along_a_cosine_to_its_floor() -> None:
    recipe = OptimiserRecipe(lr=2.0, warmup=4, floor=0.1)
    rates = [learning_rate(step, 15, recipe) for step in range(15)]
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[9] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rates[14] == pytest.approx(0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(0, 10, OptimiserRecipe(lr=2.0, warmup=0)) == 2.0


def test_a_warm_up_longer_than_the_run_never_exceeds_the_rate() -> None:
    recipe = OptimiserRecipe(lr=2.0, warmup=50)
    assert max(learning_rate(step, 10, recipe) for step in range(10)) == pytest.approx(0.4)


@pytest.mark.parametrize("tied", [False, True])
def test_weight_decay_shrinks_the_projection_matrices_and_nothing_else(tied: bool) -> None:
    torch.manual_seed(0)
    model = HookedMamba(tiny_config(DifferentialConfig(placement=(0,)), tie_embeddings=tied))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimiser = make_optimiser(model, OptimiserRecipe(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    shrunk = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    expected = {name for name in before if name.endswith(("in_proj.weight", "out_proj.weight"))}
    assert len(expected) == 6
    assert shrunk == (expected if tied else expected | {"unembed.weight"})
    for name in shrunk:
        torch.testing.assert_close(model.get_parameter(name), 0.95 * before[name])


def test_every_parameter_is_optimised_once() -> None:
    model = HookedMamba(tiny_config(tie_embeddings=True))
    groups = make_optimiser(model, OptimiserRecipe(lr=0.1)).param_groups
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted({id(parameter) for parameter in model.parameters()})


def test_all_groups_get_the_learning_rate() -> None:
    optimiser = make_optimiser(HookedMamba(tiny_config()), OptimiserRecipe(lr=0.1))
    set_learning_rate(optimiser, 0.03)
    assert [group["lr"] for group in optimiser.param_groups] == [0.03, 0.03]


@pytest.mark.parametrize(("clip", "norm_after"), [(1.0, 1.0), (10.0, 5.0), (None, 5.0)])
def test_gradients_are_scaled_down_to_the_clip_and_never_up(clip: float | None, norm_after: float) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for parameter, value in zip(parameters, (3.0, 4.0), strict=True):
        parameter.grad = torch.tensor([value])
    assert clip_gradients(parameters, clip).item() == pytest.approx(5.0)
    norm = sum(float(p.grad) ** 2 for p in parameters if p.grad is not None) ** 0.5
    assert norm == pytest.approx(norm_after, rel=1e-4)
