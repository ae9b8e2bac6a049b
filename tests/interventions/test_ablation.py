"""Branches and heads, taken away, averaged or exchanged."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.interventions import (
    AblateBranch,
    AblateHead,
    ScaleLambda,
    SetLambda,
    SwapBranches,
    SwapHeads,
    collect_means,
    hooks_of,
    intervene,
)
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from tests.models.tiny import COVERING_VARIANTS, random_tokens, relative_error, tiny_model, variant_id


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    """Block 0 differential, block 1 plain."""
    return tiny_model(DifferentialConfig(placement=(0,)), n_groups=2)


def run(model: HookedMamba, interventions: object) -> Tensor:
    return model.run_with_hooks(random_tokens(), hooks_of(model, interventions))


def scale_out_proj(model: HookedMamba, prefix: str, columns: slice, factor: float) -> None:
    model.get_parameter(f"{prefix}.out_proj.weight")[:, columns] *= factor


# ------------------------------------------------------------------ branches


@torch.no_grad()
@pytest.mark.parametrize("branch", ["minuend", "subtrahend"])
@pytest.mark.parametrize("cfg", COVERING_VARIANTS, ids=variant_id)
def test_a_zeroed_branch_is_one_whose_output_weights_are_zero(cfg: DifferentialConfig, branch: str) -> None:
    model = tiny_model(cfg)
    ablated, clean = run(model, AblateBranch(branch=branch)), model(random_tokens())
    scale_out_proj(model, f"blocks.0.mixer.{branch}", slice(None), 0.0)
    assert relative_error(ablated, model(random_tokens())) < 1e-6
    assert relative_error(ablated, clean) > 1e-3


@torch.no_grad()
def test_without_its_subtrahend_a_block_is_one_whose_lambda_is_zero(model: HookedMamba) -> None:
    assert torch.equal(run(model, AblateBranch(branch="subtrahend")), run(model, SetLambda(value=0.0)))


@torch.no_grad()
def test_a_mean_ablated_branch_has_its_mean_at_every_position(model: HookedMamba) -> None:
    prompts = [random_tokens(3, 7, seed=5), random_tokens(1, 4, seed=6)]
    means = collect_means(model, prompts)
    name = "blocks.0.mixer.subtrahend.hook_out"
    values = [model.run_with_cache(tokens, name)[1][name].reshape(-1, 16) for tokens in prompts]
    assert relative_error(means[name], torch.cat(values).mean(dim=0)) < 1e-6
    with intervene(model, AblateBranch(branch="subtrahend", means=means)):
        _, cache = model.run_with_cache(random_tokens(), name)
    assert torch.equal(cache[name], means[name].expand(2, 9, 16))


@torch.no_grad()
@pytest.mark.parametrize("cfg", COVERING_VARIANTS, ids=variant_id)
def test_swapped_branches_are_those_of_a_model_with_their_weights_exchanged(cfg: DifferentialConfig) -> None:
    model = tiny_model(cfg)
    swapped, clean = run(model, SwapBranches()), model(random_tokens())
    # With normalisation "pre" the sub-norm's gain belongs to its branch, and changes place with it.
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if ".minuend." in name:
            other = parameters[name.replace(".minuend.", ".subtrahend.")]
            kept = parameter.clone()
            parameter.copy_(other)
            other.copy_(kept)
    assert relative_error(swapped, model(random_tokens())) < 5e-6
    assert relative_error(swapped, clean) > 1e-3


@torch.no_grad()
def test_a_swap_acts_after_the_other_interventions_whatever_the_order(model: HookedMamba) -> None:
    """b - lambda a with lambda 0 is b: the subtrahend alone."""
    for interventions in ([SwapBranches(), SetLambda(value=0.0)], [SetLambda(value=0.0), SwapBranches()]):
        with intervene(model, interventions):
            _, cache = model.run_with_cache(random_tokens())
        subtrahend = cache["blocks.0.mixer.subtrahend.hook_out"]
        assert relative_error(cache["blocks.0.mixer.hook_difference"], subtrahend) < 1e-6
    both = [SwapBranches(), AblateBranch(branch="subtrahend"), SetLambda(value=-1.0)]
    with intervene(model, both):
        _, cache = model.run_with_cache(random_tokens())
    minuend = cache["blocks.0.mixer.minuend.hook_out"]
    assert relative_error(cache["blocks.0.mixer.hook_difference"], minuend) < 1e-6


# ------------------------------------------------------------------ heads

SCANS = [(0, "minuend", "blocks.0.mixer.minuend"), (0, "subtrahend", "blocks.0.mixer.subtrahend")]
SCANS += [(1, None, "blocks.1.mixer")]


@torch.no_grad()
@pytest.mark.parametrize(("block", "branch", "prefix"), SCANS)
def test_a_head_taken_out_of_the_gated_norm_writes_nothing_and_the_others_write_the_same(
    model: HookedMamba, block: int, branch: str | None, prefix: str
) -> None:
    model = tiny_model(model.cfg.differential, n_groups=2)
    ablated = run(model, AblateHead(block=block, branch=branch, heads=1, at="gated"))
    d_head = model.cfg.mixer_sizes(model.cfg.block_kind(block)).d_head
    scale_out_proj(model, prefix, slice(d_head, 2 * d_head), 0.0)
    assert relative_error(ablated, model(random_tokens())) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("block", "branch", "prefix"), SCANS)
def test_heads_taken_out_of_the_scan_give_zero_and_leave_the_other_heads(
    model: HookedMamba, block: int, branch: str | None, prefix: str
) -> None:
    name = f"{prefix}.hook_ssm_y"
    with intervene(model, AblateHead(block=block, branch=branch, heads=(0, 3))):
        y = model.run_with_cache(random_tokens(), name)[1][name]
    clean = model.run_with_cache(random_tokens(), name)[1][name]
    assert torch.equal(y[:, :, [0, 3]], torch.zeros_like(y[:, :, [0, 3]]))
    assert torch.equal(y[:, :, [1, 2]], clean[:, :, [1, 2]])


@torch.no_grad()
@pytest.mark.parametrize("at", ["ssm_y", "gated"])
def test_a_mean_ablated_head_has_its_mean_and_the_other_heads_their_values(model: HookedMamba, at: str) -> None:
    name = "blocks.0.mixer.minuend." + ("hook_ssm_y" if at == "ssm_y" else "inner_norm.hook_gated")
    means = collect_means(model, [random_tokens(3, 7, seed=5)])
    with intervene(model, AblateHead(block=0, branch="minuend", heads=2, at=at, means=means)):
        value = model.run_with_cache(random_tokens(), name)[1][name].reshape(2, 9, 4, 4)
    clean = model.run_with_cache(random_tokens(), name)[1][name].reshape(2, 9, 4, 4)
    assert torch.equal(value[:, :, 2], means[name].reshape(4, 4)[2].expand(2, 9, 4))
    assert torch.equal(value[:, :, [0, 1, 3]], clean[:, :, [0, 1, 3]])


@torch.no_grad()
def test_swapped_heads_exchange_their_outputs(model: HookedMamba) -> None:
    name = "blocks.1.mixer.hook_ssm_y"
    with intervene(model, SwapHeads(block=1, first=0, second=2)):
        y = model.run_with_cache(random_tokens(), name)[1][name]
    clean = model.run_with_cache(random_tokens(), name)[1][name]
    assert torch.equal(y, clean[:, :, [2, 1, 0, 3]])
    assert torch.equal(run(model, [SwapHeads(block=1, first=0, second=2)] * 2), model(random_tokens()))


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (AblateHead(block=1, heads=4), "head 4 is out of range: a scan of block 1 has heads 0 to 3"),
        (AblateHead(block=0, heads=0), "block 0 is differential: .* branch='minuend' or branch='subtrahend'"),
        (AblateHead(block=1, heads=0, branch="minuend"), "block 1 is plain"),
        (AblateHead(block=5, heads=0), "block 5 is out of range"),
        (AblateHead(block=1, heads=()), "heads is empty"),
        (AblateBranch(branch="minuend", blocks=1), "block 1 is plain"),
        (AblateBranch(branch="minuend", means={}), "means holds no mean of 'blocks.0.mixer.minuend.hook_out'"),
        (AblateHead(block=1, heads=0, means={}), "means holds no mean of 'blocks.1.mixer.hook_ssm_y'"),
        (SwapBranches(blocks=1), "block 1 is plain"),
        (SwapHeads(block=1, first=0, second=9), "head 9 is out of range"),
    ],
)
def test_what_the_model_lacks_is_refused_before_anything_runs(
    model: HookedMamba, intervention: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        hooks_of(model, intervention)


def test_means_need_prompts_and_values_with_positions(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        collect_means(model, [])
    with pytest.raises(ValueError, match="not \\[batch, pos"):
        collect_means(model, [random_tokens()], "blocks.0.mixer.hook_lambda")


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
