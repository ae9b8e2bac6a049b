"""Interventions in force together, and gone afterwards."""

import threading

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.interventions import (
    AblateHead,
    AddNoise,
    Intervention,
    KnockOut,
    ScaleLambda,
    SetLambda,
    describe,
    hooks_of,
    intervene,
)
from tests.models.tiny import random_tokens, relative_error, tiny_model

MANY = [
    SetLambda(value=0.1),
    KnockOut(positions=(1, 2), level="input"),
    AblateHead(block=1, heads=0),
    AddNoise(snr_db=10.0, blocks=1),
]


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)))


def is_untouched(model: HookedMamba) -> bool:
    no_watch = all(not block._forward_pre_hooks for block in model.blocks)
    return no_watch and not any(point.is_hooked for point in model.hook_points.values())


@torch.no_grad()
def test_interventions_at_different_places_compose_in_any_order(model: HookedMamba) -> None:
    with intervene(model, MANY):
        together = model(random_tokens())
    with intervene(model, MANY[::-1]):
        assert torch.equal(model(random_tokens()), together)
    with intervene(model, MANY[0]), intervene(model, MANY[1:]):
        assert torch.equal(model(random_tokens()), together)
    assert torch.equal(model.run_with_hooks(random_tokens(), hooks_of(model, MANY)), together)
    for left_out in range(len(MANY)):
        with intervene(model, [one for at, one in enumerate(MANY) if at != left_out]):
            assert relative_error(model(random_tokens()), together) > 1e-5


@torch.no_grad()
def test_an_intervention_on_one_scan_leaves_another_blocks_values_before_it(model: HookedMamba) -> None:
    with intervene(model, AblateHead(block=1, heads=0)):
        _, cache = model.run_with_cache(random_tokens())
    _, clean = model.run_with_cache(random_tokens())
    changed = [name for name in clean if not torch.equal(cache[name], clean[name])]
    assert changed[0] == "blocks.1.mixer.hook_ssm_y"


@torch.no_grad()
def test_nothing_is_left_behind(model: HookedMamba) -> None:
    clean = model(random_tokens())
    with intervene(model, MANY) as same:
        assert same is model
        assert not is_untouched(model)
    assert is_untouched(model)
    assert torch.equal(model(random_tokens()), clean)


@torch.no_grad()
def test_nothing_is_left_behind_by_an_error(model: HookedMamba) -> None:
    with pytest.raises(KeyError, match="inside"), intervene(model, MANY):
        raise KeyError("inside")
    assert is_untouched(model)
    with (
        pytest.raises(ValueError, match="position 40 is beyond the prompt"),
        intervene(model, KnockOut(positions=(40,))),
    ):
        model(random_tokens())
    assert is_untouched(model)
    with pytest.raises(ValueError, match="out of range"), intervene(model, [*MANY, SetLambda(value=0.0, blocks=9)]):
        pass
    assert is_untouched(model)


@torch.no_grad()
def test_another_thread_sees_the_model_as_it_is_and_disturbs_nothing(model: HookedMamba) -> None:
    def continue_a_prompt() -> torch.Tensor:
        with torch.no_grad():
            _, state = model.forward_with_state(random_tokens())
            return model.forward_with_state(random_tokens(), state)[0]

    clean, seen = continue_a_prompt(), []

    def meanwhile(value: torch.Tensor, name: str) -> None:
        thread = threading.Thread(target=lambda: seen.append(continue_a_prompt()))
        thread.start()
        thread.join()

    with intervene(model, MANY):
        alone = model(random_tokens())
        with model.hooks([("blocks.0.hook_resid_pre", meanwhile)]):
            # The other thread continues a prompt while this one is in the middle of reading one.
            assert torch.equal(model(random_tokens()), alone)
    assert torch.equal(seen[0], clean)
    assert not torch.equal(alone, model(random_tokens()))


@torch.no_grad()
def test_generation_goes_on_under_an_intervention(model: HookedMamba) -> None:
    with intervene(model, [KnockOut(positions=(0, 3)), SetLambda(value=-2.0)]):
        tokens = model.generate(random_tokens(1, 6), max_new_tokens=4)
        for n in range(6, 10):
            assert int(model(tokens[:, :n])[0, -1].argmax()) == int(tokens[0, n])


def test_an_intervention_of_ones_own_needs_only_a_method(model: HookedMamba) -> None:
    class Double:
        def hooks(self, model: HookedMamba) -> list:
            return [("hook_embed", lambda value, name: 2 * value)]

    assert isinstance(Double(), Intervention)
    with torch.no_grad(), intervene(model, Double()):
        doubled = model(random_tokens())
    assert not torch.equal(doubled, model(random_tokens()))


def test_a_description_holds_every_field_as_plain_values() -> None:
    assert describe(ScaleLambda(factor=0.5, blocks=(0, 2))) == {
        "kind": "ScaleLambda",
        "factor": 0.5,
        "blocks": [0, 2],
    }
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert describe(KnockOut(positions=mask))["positions"] == {"shape": [2, 3]}
