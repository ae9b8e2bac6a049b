"""Diff-S6: its equations, what its scans share, its hook points, and whatever reads them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp import (
    DifferentialConfig,
    HookedMamba,
    convert_to_differential,
    extract_attention,
    inspect_checkpoint,
)
from diffmamba_interp.config import lambda_init
from diffmamba_interp.hook_names import BRANCHES
from diffmamba_interp.implicit_attention import head_rivals
from diffmamba_interp.implicit_attention.head_rivals import matrix_measures
from diffmamba_interp.implicit_attention.source_scores import source_scores
from diffmamba_interp.interventions import AblateHead, SetLambda, SwapBranches, collect_means, intervene
from diffmamba_interp.models.mixer import new_mixer
from tests.models.tiny import random_tokens, relative_error, tiny_config, tiny_model

AT = "blocks.1.mixer"
MIXERS: dict[str, dict[str, Any]] = {"mamba2": {"n_groups": 2}, "mamba1": {"mixer": "mamba1", "dt_rank": 3}}


def model_of(mixer: str, **changes: Any) -> HookedMamba:
    """Block 0 plain, block 1 a Diff-S6; in float64."""
    return tiny_model(DifferentialConfig(placement=(1,), **changes), **MIXERS[mixer]).double().requires_grad_(False)


def normed(value: Tensor, eps: float = 1e-5) -> Tensor:
    return value / (value.square().mean(dim=-1, keepdim=True) + eps).sqrt()


def gate_by_hand(model: HookedMamba, y: Tensor, z: Tensor) -> Tensor:
    gated = y * F.silu(z)
    if model.cfg.mixer == "mamba1":
        return gated
    groups = gated.unflatten(-1, (model.cfg.n_groups, -1))
    return normed(groups).flatten(-2) * model.get_parameter(f"{AT}.minuend.inner_norm.weight")


def scan_alone(model: HookedMamba, branch: str, u: Tensor) -> tuple[Tensor, Tensor]:
    """y and z of a plain mixer with the branch's own weights and, for the rest, the minuend's."""
    weights = model.get_submodule(f"{AT}.minuend").state_dict() | model.get_submodule(f"{AT}.{branch}").state_dict()
    plain = new_mixer(model.cfg, model.cfg.mixer_sizes("plain")).double()
    in_proj = plain.get_parameter("in_proj.weight")
    missing_rows = in_proj.shape[0] - weights["in_proj.weight"].shape[0]
    weights["in_proj.weight"] = F.pad(weights["in_proj.weight"], (0, 0, missing_rows, 0))
    plain.load_state_dict(weights)
    seen: dict[str, Tensor] = {}
    for name in ("hook_ssm_y", "hook_z"):
        plain.get_submodule(name).attach(lambda value, _, name=name: seen.update({name: value.flatten(2)}))
    plain(u)
    return seen["hook_ssm_y"], seen["hook_z"]


@torch.no_grad()
@pytest.mark.parametrize("normalisation", ["post", "pre", "none"])
@pytest.mark.parametrize("subtract_at", ["gated", "scan"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_two_scans_are_subtracted_inside_one_mixer(mixer: str, subtract_at: Any, normalisation: Any) -> None:
    model = model_of(mixer, subtract_at=subtract_at, normalisation=normalisation, lambda_form="sigmoid")
    _, cache = model.run_with_cache(random_tokens())
    (y1, z1), (y2, z2) = (scan_alone(model, branch, cache["blocks.1.hook_mixer_in"]) for branch in BRANCHES)
    lambda_ = torch.sigmoid(model.get_parameter(f"{AT}.lambda_q1")) + lambda_init(1)
    a, b = y1, y2
    if subtract_at == "gated":
        a, b = gate_by_hand(model, y1, z1), gate_by_hand(model, y2, z2)
    assert relative_error(cache[f"{AT}.minuend.hook_out"], a) < 1e-10
    assert relative_error(cache[f"{AT}.subtrahend.hook_out"], b) < 1e-10
    if normalisation == "pre":
        a = normed(a) * model.get_parameter(f"{AT}.subnorm.minuend.weight")
        b = normed(b) * model.get_parameter(f"{AT}.subnorm.subtrahend.weight")
    d = a - lambda_ * b
    assert relative_error(cache[f"{AT}.hook_difference"], d) < 1e-10
    if normalisation == "post":
        d = normed(d) * model.get_parameter(f"{AT}.subnorm.weight")
    if normalisation != "none":
        d = (1 - lambda_init(1)) * d
    inner = d if subtract_at == "gated" else gate_by_hand(model, d, z1)
    out = inner @ model.get_parameter(f"{AT}.minuend.out_proj.weight").T
    assert relative_error(cache["blocks.1.hook_mixer_out"], out) < 1e-10


def test_the_published_one_over_mamba1_gates_once_and_has_lambda_one() -> None:
    """y = (y1 - y2) SiLU(z): one in_proj, so that both places of the subtraction are the same."""
    made = [model_of("mamba1", subtract_at=at, normalisation="none", lambda_form="one") for at in ("scan", "gated")]
    assert [name for name, _ in made[0].named_parameters()] == [name for name, _ in made[1].named_parameters()]
    assert not [name for name, _ in made[0].named_parameters() if "lambda" in name]
    made[1].load_state_dict(made[0].state_dict())
    logits, cache = made[0].run_with_cache(random_tokens(), [f"{AT}.hook_lambda", f"{AT}.minuend.hook_z"])
    assert relative_error(made[1](random_tokens()), logits) < 1e-12
    assert cache[f"{AT}.hook_lambda"] == 1
    u = made[1].run_with_cache(random_tokens(), "blocks.1.hook_mixer_in")[1]["blocks.1.hook_mixer_in"]
    assert torch.equal(scan_alone(made[1], "subtrahend", u)[1], cache[f"{AT}.minuend.hook_z"])


SHARED = {
    "mamba2": {"conv1d.weight", "conv1d.bias", "inner_norm.weight", "out_proj.weight"},
    "mamba1": {"in_proj.weight", "conv1d.weight", "conv1d.bias", "out_proj.weight"},
}


OF_A_GATE = {"mamba2": ["hook_z", "inner_norm.hook_scale", "inner_norm.hook_gated"], "mamba1": ["hook_z", "hook_gated"]}


@pytest.mark.parametrize("mixer", MIXERS)
def test_only_the_minuend_has_what_is_shared_and_it_alone_is_scaled_at_first(mixer: str) -> None:
    for subtract_at in ("gated", "scan"):
        model = model_of(mixer, subtract_at=subtract_at)
        parts = [set(dict(model.get_submodule(f"{AT}.{branch}").named_parameters())) for branch in BRANCHES]
        assert parts[0] - parts[1] == SHARED[mixer]
        assert parts[1] < parts[0]
        points = [{n for n in model.hook_points if n.startswith(f"{AT}.{branch}.")} for branch in BRANCHES]
        missing = {n.replace(".minuend.", ".subtrahend.") for n in points[0]} - points[1]
        expected = set() if subtract_at == "gated" else {f"{AT}.subtrahend.{point}" for point in OF_A_GATE[mixer]}
        assert missing == expected
        assert model.blocks[1].mixer.writing_weights() == [model.get_parameter(f"{AT}.minuend.out_proj.weight")]
        sizes = model.cfg.mixer_sizes("differential")
        assert sizes == model.cfg.mixer_sizes("plain")
        assert model.get_parameter(f"{AT}.subtrahend.A_log").shape == model.get_parameter("blocks.0.mixer.A_log").shape


@torch.no_grad()
@pytest.mark.parametrize("subtract_at", ["gated", "scan"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_branches_and_heads_are_taken_out_and_exchanged_where_they_are_subtracted(mixer: str, subtract_at: Any) -> None:
    form = "token_head_gate" if subtract_at == "scan" else "token_gate"
    norm = "none" if subtract_at == "scan" else "post"
    model, tokens = model_of(mixer, subtract_at=subtract_at, lambda_form=form, normalisation=norm), random_tokens()
    _, cache = model.run_with_cache(tokens)
    a, b = (cache[f"{AT}.{branch}.hook_out"] for branch in BRANCHES)
    lambda_ = cache[f"{AT}.hook_lambda"]
    if form == "token_head_gate":
        lambda_ = lambda_.repeat_interleave(model.cfg.mixer_sizes("plain").d_head, dim=-1)
    with intervene(model, SwapBranches()):
        _, swapped = model.run_with_cache(tokens, f"{AT}.hook_difference")
    assert relative_error(swapped[f"{AT}.hook_difference"], b - lambda_ * a) < 1e-10
    with intervene(model, SetLambda(value=0.0)):
        _, alone = model.run_with_cache(tokens, f"{AT}.hook_difference")
    assert relative_error(alone[f"{AT}.hook_difference"], a) == 0.0
    with intervene(model, AblateHead(block=1, heads=[0, 2], branch="subtrahend")):
        _, ablated = model.run_with_cache(tokens, f"{AT}.subtrahend.hook_ssm_y")
    assert float(ablated[f"{AT}.subtrahend.hook_ssm_y"][:, :, [0, 2]].abs().max()) == 0
    means = collect_means(model, [tokens])
    assert means[f"{AT}.minuend.hook_out"].shape == (32,)
    at_gate = AblateHead(block=1, heads=0, branch="minuend", at="gated")
    if subtract_at == "scan":
        with pytest.raises(ValueError, match="before the gate.*'ssm_y'"):
            at_gate.hooks(model)
        return
    with intervene(model, at_gate):
        _, ablated = model.run_with_cache(tokens, f"{AT}.minuend.hook_out")
    d_head = model.cfg.mixer_sizes("plain").d_head
    assert float(ablated[f"{AT}.minuend.hook_out"][..., :d_head].abs().max()) == 0
    assert torch.equal(ablated[f"{AT}.minuend.hook_out"][..., d_head:], a[..., d_head:])


@torch.no_grad()
@pytest.mark.parametrize("mixer", MIXERS)
def test_lambda_of_a_head_gate_is_a_score_of_every_token_and_head_and_nothing_else(mixer: str) -> None:
    model = model_of(mixer, subtract_at="scan", normalisation="none", lambda_form="token_head_gate")
    weight, bias = model.get_parameter(f"{AT}.lambda_w").normal_(), model.get_parameter(f"{AT}.lambda_b").normal_()
    n_heads = model.cfg.mixer_sizes("plain").n_heads
    assert weight.shape == (n_heads, 16)
    _, cache = model.run_with_cache(random_tokens(), ["blocks.1.hook_mixer_in", f"{AT}.hook_lambda"])
    u, lambda_ = cache["blocks.1.hook_mixer_in"], cache[f"{AT}.hook_lambda"]
    assert lambda_.shape == (2, 9, n_heads)
    for t, h in ((0, 0), (4, 3), (8, n_heads - 1)):
        assert float(lambda_[1, t, h]) == pytest.approx(float(torch.sigmoid(weight[h] @ u[1, t] + bias[h])), abs=1e-12)


def test_a_lambda_of_fewer_heads_is_refused_and_one_number_or_one_for_each_token_is_not() -> None:
    model = model_of("mamba2", subtract_at="scan", normalisation="none", lambda_form="token_head_gate")
    for shape in ((2, 9, 3), (2, 8, 4), (3, 1, 1)):
        with pytest.raises(ValueError, match=r"hook_lambda' returned shape|lambda was replaced"):
            model.run_with_hooks(random_tokens(), [(f"{AT}.hook_lambda", lambda value, _, s=shape: value.new_ones(s))])
    each = model.run_with_hooks(random_tokens(), [(f"{AT}.hook_lambda", lambda value, _: value.new_ones(2, 9, 1))])
    scalar = model.run_with_hooks(random_tokens(), [(f"{AT}.hook_lambda", lambda value, _: value.new_ones(()))])
    with intervene(model, SetLambda(value=1.0)):
        assert torch.equal(model(random_tokens()), scalar)
        assert torch.equal(model(random_tokens()), each)


@torch.no_grad()
def test_whatever_sums_over_heads_weighs_each_with_its_own_lambda(tmp_path: Path) -> None:
    """H2 by hand, times lambda[t,h], before anything is reduced or added up."""
    model = model_of("mamba2", subtract_at="scan", normalisation="none", lambda_form="token_head_gate")
    model.get_parameter(f"{AT}.lambda_w").normal_()
    tokens = random_tokens()
    _, cache = model.run_with_cache(tokens, [f"{AT}.{branch}.hook_hidden_attention" for branch in BRANCHES])
    H1, H2 = cache.values()
    weight = model.run_with_cache(tokens, f"{AT}.hook_lambda")[1][f"{AT}.hook_lambda"]
    scaled = weight.mT[..., None] * H2
    dense = extract_attention(model, tokens, 1)
    assert torch.equal(dense.lambda_, weight)
    assert relative_error(dense.difference, H1 - scaled) < 1e-10
    reduced = {"mean": scaled.mean(1), "abs_mean": scaled.abs().mean(1), "max_abs": scaled.abs().amax(1)}
    for reduce, expected in reduced.items():
        record = extract_attention(model, tokens, 1, reduce=reduce)
        assert relative_error(record.lambda_subtrahend, expected) < 1e-10
        assert relative_error(record.difference, record.minuend - expected) < 1e-10
        assert f"{reduce}(λ H2)" in record.difference_means
        loaded = type(record).load(record.save(tmp_path / "record.npz"))
        assert torch.equal(loaded.difference, record.difference)
    few = extract_attention(model, tokens, 1, rows=[4, -1], heads=[3, 1], reduce="mean")
    assert relative_error(few.lambda_subtrahend, scaled[:, [3, 1]][:, :, [4, 8]].mean(1)) < 1e-10
    rivals = matrix_measures(H1 - scaled)["redundancy"]
    assert torch.allclose(torch.from_numpy(head_rivals(model, tokens).values["redundancy"][:, 3]).double(), rivals)
    sizes = (H1.abs() + scaled.abs()).mean(1)[:, -1]
    assert relative_error(source_scores(model, tokens, 3, blocks=1)["hidden"].double(), sizes) < 1e-5


def test_what_it_is_stands_in_config_and_report_and_other_formats_refuse_it(tmp_path: Path) -> None:
    model = model_of("mamba2", subtract_at="gated", lambda_form="sigmoid").float()
    model.save_pretrained(tmp_path / "ours")
    report = inspect_checkpoint(tmp_path / "ours")
    assert report.loads
    assert report.blocks[1].lambda_ == pytest.approx(float(model.blocks[1].mixer.lambda_()))
    assert report.blocks[1].saturated is False
    assert "Diff-S6, two scans of 4 heads of 8 in one mixer, subtract_at gated" in report.conventions[-1]
    with pytest.raises(ValueError, match="subtract_at 'mixer'.*'gated'"):
        model.save_pretrained(tmp_path / "theirs", format="diff_mamba")
    with pytest.raises(ValueError, match="subtract_at 'gated'"):
        convert_to_differential(tiny_model(), "all", differential=DifferentialConfig(subtract_at="gated"))
    assert "subtract_at" not in tiny_config(DifferentialConfig()).to_dict()["differential"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lambda_form": "token_head_gate"}, "subtract_at 'scan'.*normalisation 'none'"),
        ({"lambda_form": "token_head_gate", "subtract_at": "scan"}, "normalisation 'none' .not 'post'"),
        ({"lambda_form": "one", "lambda_initialisation": "published"}, "lambda_initialisation 'small'"),
        ({"subtract_at": "scan", "head_division": "n_heads"}, "leave head_division out"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DifferentialConfig(**changes)
