"""Lambda set by a hook is lambda built into the model."""

import math
from itertools import product

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.interventions import ScaleLambda, SetLambda, hooks_of
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from tests.models.tiny import COVERING_VARIANTS, random_tokens, relative_error, tiny_model, variant_id


def mixer_of(model: HookedMamba, block: int) -> DifferentialMixer:
    mixer = model.get_submodule(f"blocks.{block}.mixer")
    assert isinstance(mixer, DifferentialMixer)
    return mixer


def build_in(model: HookedMamba, block: int, value: float) -> None:
    """Set the parameters from which the block computes its lambda so that it is `value`."""
    mixer = mixer_of(model, block)
    wanted = value - mixer.lambda_init
    with torch.no_grad():
        for name, parameter in mixer.named_parameters(recurse=False):
            if name.startswith("lambda"):
                parameter.zero_()
        if mixer.cfg.lambda_form == "sigmoid_sum":
            mixer.lambda_q1[0] = math.log(wanted / (1 - wanted))
        else:
            # exp(q1.k1) - exp(q2.k2) with the second product at 0.
            mixer.lambda_q1[0] = 1.0
            mixer.lambda_k1[0] = math.log(1 + wanted)


def differential_everywhere(cfg: DifferentialConfig) -> HookedMamba:
    return tiny_model(DifferentialConfig(**{**cfg.__dict__, "placement": "all"}))


@torch.no_grad()
@pytest.mark.parametrize("cfg", COVERING_VARIANTS, ids=variant_id)
def test_lambda_set_by_a_hook_equals_the_model_rebuilt_with_that_lambda(cfg: DifferentialConfig) -> None:
    tokens = random_tokens()
    for value, blocks in product((0.5, 1.0), ((0,), (1,), (0, 1))):
        model = differential_everywhere(cfg)
        hooked = model.run_with_hooks(tokens, hooks_of(model, SetLambda(value=value, blocks=blocks)))
        clean = model(tokens)
        for block in blocks:
            build_in(model, block, value)
            assert float(mixer_of(model, block).lambda_()) == pytest.approx(value, abs=1e-6)
        assert relative_error(hooked, model(tokens)) < 2e-6
        assert relative_error(hooked, clean) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("cfg", COVERING_VARIANTS, ids=variant_id)
def test_a_models_own_lambda_changes_no_bit(cfg: DifferentialConfig) -> None:
    model, tokens = differential_everywhere(cfg), random_tokens()
    own = [SetLambda(value=float(mixer_of(model, block).lambda_()), blocks=block) for block in (0, 1)]
    assert torch.equal(model.run_with_hooks(tokens, hooks_of(model, own)), model(tokens))
    assert torch.equal(model.run_with_hooks(tokens, hooks_of(model, ScaleLambda(factor=1.0))), model(tokens))


@torch.no_grad()
def test_a_factor_scales_each_blocks_own_lambda() -> None:
    model, tokens = tiny_model(DifferentialConfig(placement="all")), random_tokens()
    scaled = hooks_of(model, ScaleLambda(factor=-0.5))
    values = [SetLambda(value=-0.5 * float(mixer_of(model, block).lambda_()), blocks=block) for block in (0, 1)]
    expected = model.run_with_hooks(tokens, hooks_of(model, values))
    assert relative_error(model.run_with_hooks(tokens, scaled), expected) < 1e-6


@torch.no_grad()
def test_interventions_on_one_lambda_act_in_the_order_given() -> None:
    model, tokens = tiny_model(DifferentialConfig(placement="all")), random_tokens()
    halved = [SetLambda(value=0.8), ScaleLambda(factor=0.5)]
    expected = model.run_with_hooks(tokens, hooks_of(model, SetLambda(value=0.4)))
    assert torch.equal(model.run_with_hooks(tokens, hooks_of(model, halved)), expected)
    overridden = model.run_with_hooks(tokens, hooks_of(model, halved[::-1]))
    assert torch.equal(overridden, model.run_with_hooks(tokens, hooks_of(model, halved[0])))


def test_without_blocks_all_differential_ones_are_meant() -> None:
    model = tiny_model(DifferentialConfig(placement=(1, 3)), n_layers=4)
    names = [name for name, _ in hooks_of(model, SetLambda(value=0.0))]
    assert names == ["blocks.1.mixer.hook_lambda", "blocks.3.mixer.hook_lambda"]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (0, r"block 0 is plain: it has no lambda .* The differential blocks are 1\."),
        (7, "block 7 is out of range: the model has blocks 0 to 1"),
        (-1, "block -1 is out of range"),
        ((), "blocks is empty"),
    ],
)
def test_blocks_without_a_lambda_are_refused(blocks: int | tuple[int, ...], message: str) -> None:
    model = tiny_model(DifferentialConfig(placement=(1,)))
    with pytest.raises(ValueError, match=message):
        hooks_of(model, SetLambda(value=0.0, blocks=blocks))


def test_a_plain_model_has_no_lambda_to_set() -> None:
    with pytest.raises(ValueError, match="no differential block"):
        hooks_of(tiny_model(), SetLambda(value=0.0))
    with pytest.raises(ValueError, match="This model has none"):
        hooks_of(tiny_model(), ScaleLambda(factor=0.0, blocks=0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_lambda_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number"):
        SetLambda(value=value)
    with pytest.raises(ValueError, match="must be a finite number"):
        ScaleLambda(factor=value)
