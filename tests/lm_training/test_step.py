"""Where a step is replayed as a graph, and that the graph computes what the launches one by one compute."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffmamba_interp.config import DifferentialConfig
from diffmamba_interp.lm_training.loss import RoleSums
from diffmamba_interp.lm_training.mixture import Batch
from diffmamba_interp.lm_training.optimiser import make_optimiser, restore_optimiser
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.lm_training.step import EAGER_STEPS, Captured, EagerStep, GraphedStep, make_step
from diffmamba_interp.models.branch_stack import parameter_versions
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.runs.process_group import ProcessGroup
from tests.lm_training.tiny import ALONE, N_TOKENS, tiny_config, tiny_recipe

GPU = ProcessGroup(device=torch.device("cuda", 0))


def batch(seed: int) -> Batch:
    numbers = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, N_TOKENS, (4, 33), generator=numbers)
    return Batch(tokens.to(torch.uint16), torch.randint(0, 4, (4, 33), generator=numbers).to(torch.uint8))


def recipe(folder: Path, **changes: object) -> Recipe:
    return tiny_recipe(folder, batch_size=4, **changes)


def new_model(device: torch.device) -> HookedMamba:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_state": 16, "d_head": 16, "differential": DifferentialConfig()}
    return HookedMamba(tiny_config(**sizes)).to(device).train()


def train(step: EagerStep | GraphedStep, n: int) -> tuple[list[float], Tensor, dict[str, float]]:
    """Losses and norms of `n` steps, the weights after them, the means by role."""
    sums = RoleSums(GPU.device)
    eager = step.eager if isinstance(step, GraphedStep) else step
    values = [float(x) for i in range(n) for x in step(batch(i), 1e-3 * (i + 1), sums)]
    weights = torch.cat([parameter.detach().flatten() for parameter in eager.model.parameters()])
    return values, weights, sums.read()


def test_a_cpu_takes_its_steps_one_launch_at_a_time(tmp_path: Path) -> None:
    model = new_model(torch.device("cpu"))
    made = recipe(tmp_path)
    assert isinstance(make_step(model, make_optimiser(model, made.optimiser), made, ALONE), EagerStep)


def test_a_snapshots_learning_rate_does_not_replace_this_runs(tmp_path: Path) -> None:
    model, made = new_model(torch.device("cpu")), recipe(tmp_path)
    saved = make_optimiser(model, made.optimiser)
    EagerStep(model, saved, made, ALONE)(batch(0), 0.125, RoleSums("cpu"))
    other = make_optimiser(model, dataclasses.replace(made.optimiser, lr=0.5))
    restore_optimiser(other, saved.state_dict())
    assert [group["lr"] for group in other.param_groups] == [0.5, 0.5]
    moments = [state["exp_avg"] for state in other.state.values()]
    assert sum(float(moment.abs().sum()) for moment in moments) > 0


def test_what_a_replay_wrote_is_seen_by_whoever_keeps_something_made_of_the_parameters() -> None:
    # The replay of a graph leaves no trace; on a CPU a write through .data leaves none either.
    model = new_model(torch.device("cpu"))
    graphed = GraphedStep.__new__(GraphedStep)
    graphed.eager = EagerStep(model, make_optimiser(model, recipe(Path()).optimiser), recipe(Path()), ALONE)
    graphed.n_eager = EAGER_STEPS
    zeros = {name: torch.zeros(()) for name in ("scale", "loss", "norm")}
    memory = {"tokens": torch.zeros(4, 33, dtype=torch.int64), "roles": torch.zeros(4, 32, dtype=torch.uint8)}

    def replay() -> None:
        for parameter in model.parameters():
            parameter.data.add_(1.0)

    graphed.captured = Captured(replay, **memory, **zeros, sums=RoleSums("cpu"))
    before = parameter_versions(list(model.parameters()))
    graphed(batch(0), 1e-3, RoleSums("cpu"))
    after = parameter_versions(list(model.parameters()))
    assert before is not None
    assert after is not None
    assert not set(before) & set(after)


@pytest.mark.gpu
def test_a_differential_model_is_evaluated_as_it_is_between_replays(tmp_path: Path) -> None:
    model, made = new_model(GPU.device), recipe(tmp_path)
    step = make_step(model, make_optimiser(model, made.optimiser), made, GPU)
    tokens = batch(9).tokens.to(GPU.device).long()
    for n in range(2):
        train(step, EAGER_STEPS + 4)
        model.eval()
        with torch.no_grad():
            evaluated = model(tokens)
            fresh = new_model(GPU.device).eval()
            fresh.load_state_dict(model.state_dict())
            torch.testing.assert_close(evaluated, fresh(tokens), msg=f"evaluation {n}")
        model.train()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_graph_computes_what_single_launches_compute(tmp_path: Path, precision: str) -> None:
    made = recipe(tmp_path, precision=precision)
    results = []
    for is_graph in (False, True):
        model = new_model(GPU.device)
        chosen = dataclasses.replace(made, cuda_graph=is_graph)
        step = make_step(model, make_optimiser(model, made.optimiser), chosen, GPU)
        assert isinstance(step, GraphedStep) == is_graph
        results.append(train(step, EAGER_STEPS + 4))
    (values, weights, means), (graph_values, graph_weights, graph_means) = results
    assert graph_values == pytest.approx(values, rel=2e-3)
    assert graph_means == pytest.approx(means, rel=2e-3)
    assert (weights - graph_weights).norm() < 0.02 * (weights - initial_weights()).norm()


def initial_weights() -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in new_model(GPU.device).parameters()])
