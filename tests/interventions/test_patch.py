"""A cached value put into another run, a scalar such as lambda included."""

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.hook_names import differential_point
from diffmamba_interp.interventions import Patch, SetLambda, intervene
from tests.models.tiny import random_tokens, tiny_model

LAMBDA = differential_point(0, "lambda")
TOKENS = random_tokens(2, 6)


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,))).requires_grad_(False)


def test_a_cached_lambda_is_put_back(model: HookedMamba) -> None:
    with intervene(model, SetLambda(value=0.1)):
        expected, cache = model.run_with_cache(TOKENS, LAMBDA)
    with intervene(model, Patch(name=LAMBDA, value=cache[LAMBDA])):
        assert torch.equal(model(TOKENS), expected)
        prompt, state = model.forward_with_state(TOKENS[:, :3])
        rest, _ = model.forward_with_state(TOKENS[:, 3:], state)
    torch.testing.assert_close(torch.cat([prompt, rest], dim=1), expected)


def test_one_lambda_per_sample_is_put_back(model: HookedMamba) -> None:
    each = torch.tensor([0.1, 0.7])[:, None, None]
    with intervene(model, Patch(name=LAMBDA, value=each)):
        both = model(TOKENS)
    for sample, value in enumerate((0.1, 0.7)):
        with intervene(model, SetLambda(value=value)):
            torch.testing.assert_close(both[sample], model(TOKENS)[sample])


def test_a_scalar_after_one_lambda_per_sample_wins(model: HookedMamba) -> None:
    many = Patch(name=LAMBDA, value=torch.tensor([0.1, 0.7])[:, None, None])
    with intervene(model, [many, Patch(name=LAMBDA, value=torch.tensor(0.3))]):
        patched = model(TOKENS)
    with intervene(model, SetLambda(value=0.3)):
        torch.testing.assert_close(patched, model(TOKENS))


def test_what_holds_for_a_whole_prompt_has_no_positions() -> None:
    with pytest.raises(ValueError, match="value is a scalar and positions is given"):
        Patch(name=LAMBDA, value=torch.tensor(0.3), positions=2)


def test_a_scalar_is_no_value_of_other_points(model: HookedMamba) -> None:
    refused = pytest.raises(ValueError, match="value is a scalar")
    with intervene(model, Patch(name="blocks.0.hook_resid_pre", value=torch.tensor(0.3))), refused:
        model(TOKENS)


def test_a_name_that_is_not_there_is_refused_by_name(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match="name: no hook point matches 'blocks.7'"):
        Patch(name="blocks.7", value=torch.rand(2, 6, 16)).hooks(model)
