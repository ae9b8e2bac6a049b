"""The Mamba-1 mixer: its equations, its hook points, its states; plain and differential."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig, convert_to_differential
from diffmamba_interp.config import lambda_init
from diffmamba_interp.models.mamba1_mixer import Mamba1Mixer
from tests.models.tiny import assert_same_values, random_tokens, relative_error, tiny_config, tiny_model

EXP_DOT = DifferentialConfig(placement=(0,), lambda_form="exp_dot")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms on B, C and dt": {"scan_norm_eps": 1e-3},
    "differential": {"differential": EXP_DOT},
    "differential, pre": {"differential": DifferentialConfig(placement=(0,), normalisation="pre")},
    "differential, none": {"differential": DifferentialConfig(placement=(0,), normalisation="none")},
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def model(request: pytest.FixtureRequest) -> HookedMamba:
    return tiny_model(mixer="mamba1", dt_rank=3, **request.param)


def by_hand(mixer: Mamba1Mixer, u: Tensor, eps: float | None) -> Tensor:
    """The mixer's equations in float64, one position and one channel at a time."""
    p = {name: value.double() for name, value in mixer.state_dict().items()}
    d_inner, d_state = p["A_log"].shape
    out = []
    for sample in u.double():
        projected = sample @ p["in_proj.weight"].T
        before, z = projected[:, :d_inner], projected[:, d_inner:]
        state, rows = torch.zeros(d_inner, d_state).double(), []
        for t in range(len(sample)):
            c = p["conv1d.bias"].clone()
            for lag in range(min(4, t + 1)):
                c = c + p["conv1d.weight"][:, 0, 3 - lag] * before[t - lag]
            x = c * torch.sigmoid(c)
            low, B, C = (p["x_proj.weight"] @ x).split([3, d_state, d_state])
            if eps is not None:
                low, B, C = (value / (value.square().mean() + eps).sqrt() for value in (low, B, C))
            dt = F.softplus(p["dt_proj.weight"] @ low + p["dt_proj.bias"])
            y = torch.zeros(d_inner).double()
            for d in range(d_inner):
                state[d] = torch.exp(-dt[d] * p["A_log"][d].exp()) * state[d] + dt[d] * x[d] * B
                y[d] = state[d] @ C + p["D"][d] * x[d]
            rows.append(p["out_proj.weight"] @ (y * z[t] * torch.sigmoid(z[t])))
        out.append(torch.stack(rows))
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_the_mixer_is_its_equations(eps: float | None) -> None:
    model = tiny_model(mixer="mamba1", dt_rank=3, scan_norm_eps=eps)
    _, cache = model.run_with_cache(random_tokens())
    expected = by_hand(model.blocks[0].mixer, cache["blocks.0.hook_mixer_in"], eps)
    assert relative_error(cache["blocks.0.hook_mixer_out"].double(), expected) < 1e-5


@torch.no_grad()
def test_a_differential_block_subtracts_two_mixers_of_half_the_channels() -> None:
    model = tiny_model(EXP_DOT, mixer="mamba1", dt_rank=3)
    mixer = model.blocks[0].mixer
    _, cache = model.run_with_cache(random_tokens())
    u = cache["blocks.0.hook_mixer_in"]
    branches = [by_hand(branch, u, None) for branch in (mixer.minuend, mixer.subtrahend)]
    q1, k1, q2, k2 = (getattr(mixer, f"lambda_{name}").double() for name in ("q1", "k1", "q2", "k2"))
    assert q1.shape == (model.cfg.d_state,)
    m = branches[0] - (torch.exp(q1 @ k1) - torch.exp(q2 @ k2) + lambda_init(0)) * branches[1]
    normalized = m / (m.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    expected = (1 - lambda_init(0)) * mixer.subnorm.weight.double() * normalized
    assert relative_error(cache["blocks.0.hook_mixer_out"].double(), expected) < 1e-5
    assert mixer.minuend.sizes.d_inner == model.cfg.d_model


@torch.no_grad()
def test_the_hook_points_have_the_documented_shapes(model: HookedMamba) -> None:
    tokens = random_tokens()
    _, cache = model.run_with_cache(tokens, list(model.hook_points))
    for block in range(2):
        kind = model.cfg.block_kind(block)
        sizes: Any = model.cfg.mixer_sizes(kind)
        channels, states = (2, 9, sizes.d_inner), (2, 9, sizes.d_state)
        wanted = {
            **{"hook_in_proj": (2, 9, 2 * sizes.d_inner), "hook_state": (*channels, sizes.d_state)},
            "hook_write": (*channels, sizes.d_state),
            **dict.fromkeys(("hook_z", "hook_conv", "hook_x", "hook_dt", "hook_ssm_y", "hook_gated"), channels),
            **dict.fromkeys(("hook_B", "hook_C"), states),
            "hook_hidden_attention": (2, sizes.d_inner, 9, 9),
        }
        for prefix in ("mixer",) if kind == "plain" else ("mixer.minuend", "mixer.subtrahend"):
            inside = {name.removeprefix(f"blocks.{block}.{prefix}."): v for name, v in cache.items() if prefix in name}
            shapes = {name: tuple(v.shape) for name, v in inside.items() if name in wanted}
            assert shapes == wanted


@torch.no_grad()
def test_every_point_can_be_replaced_by_its_own_value_without_a_change(model: HookedMamba) -> None:
    tokens = random_tokens()
    logits = model(tokens)
    for name in model.hook_points:
        patched = model.run_with_hooks(tokens, [(name, lambda value, name: value.clone())])
        assert relative_error(patched, logits) < 1e-5, name


@torch.no_grad()
def test_every_point_changes_the_logits_when_it_is_replaced(model: HookedMamba) -> None:
    tokens = random_tokens()
    logits = model(tokens)
    for name in model.hook_points:
        if name.endswith("hook_state"):
            continue  # the last state of a block is read at its position only
        patched = model.run_with_hooks(tokens, [(name, lambda value, name: 1.5 * value)])
        assert relative_error(patched, logits) > 1e-6, name


@torch.no_grad()
def test_the_state_continues_a_prompt_and_padding_leaves_it(model: HookedMamba) -> None:
    tokens = random_tokens(3, 12)
    whole = model(tokens)
    _, state = model.forward_with_state(tokens[:, :5])
    rest, state = model.forward_with_state(tokens[:, 5:], state)
    assert relative_error(rest, whole[:, 5:]) < 1e-5
    last, _ = model.forward_with_state(tokens, lengths=[12, 7, 1], last_only=True)
    expected = torch.stack([whole[0, 11], whole[1, 6], whole[2, 0]])
    assert relative_error(last[:, 0], expected) < 1e-5
    _, padded = model.forward_with_state(tokens, lengths=[12, 7, 1])
    _, short = model.forward_with_state(tokens[1:2, :7])
    for given, wanted in zip(padded.tensors(), short.tensors(), strict=True):
        assert relative_error(given[1:2], wanted) < 1e-5


def test_a_saved_model_comes_back_as_it_was(model: HookedMamba, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = HookedMamba.from_pretrained(tmp_path)
    assert_same_values(loaded, model)
    with torch.no_grad():
        assert relative_error(loaded(random_tokens()), model(random_tokens())) < 1e-5


def test_half_precision_keeps_the_parameters_of_the_scan_in_float32(model: HookedMamba, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    half = HookedMamba.from_pretrained(tmp_path, dtype="bfloat16")
    wide = [name for name, parameter in half.named_parameters() if parameter.dtype == torch.float32]
    assert all(name.endswith((".A_log", ".D", ".dt_proj.bias")) or ".lambda_" in name for name in wide)
    assert len([name for name in wide if name.endswith("dt_proj.bias")]) >= 2
    with torch.no_grad():
        assert relative_error(half(random_tokens()), model(random_tokens())) < 0.1


def test_gradients_reach_every_parameter(model: HookedMamba) -> None:
    loss = model(random_tokens()).square().mean()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(grad.isfinite().all()) and float(grad.abs().max()) > 0 for grad in grads)


def test_a_new_model_has_the_published_initialisation() -> None:
    cfg = tiny_config(mixer="mamba1")
    mixer: Any = HookedMamba(cfg).blocks[0].mixer
    assert torch.allclose(mixer.A, -torch.arange(1.0, 5.0).expand(32, -1))
    assert mixer.sizes.dt_rank == 1
    dt = F.softplus(mixer.dt_proj.bias)
    assert bool(((dt > 0.9 * cfg.dt_min) & (dt < 1.1 * cfg.dt_max)).all())
    assert bool((mixer.D == 1).all())


def test_replacing_a_state_and_the_matrix_at_once_is_refused() -> None:
    model = tiny_model(mixer="mamba1")
    points = ["blocks.0.mixer.hook_state", "blocks.0.mixer.hook_hidden_attention"]
    with pytest.raises(ValueError, match="Replace one of them"):
        model.run_with_hooks(random_tokens(), [(points, lambda value, name: 2 * value)])


# ------------------------------------------------------------------ the config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "mamba3"}, "mixer is 'mamba3': it must be one of mamba2, mamba1"),
        ({"mixer": "mamba1", "d_head": 8}, "a model of mixer 'mamba1' has no d_head"),
        ({"mixer": "mamba1", "n_groups": 2, "chunk_size": 8}, "has no n_groups, chunk_size"),
        ({"dt_rank": 3}, "a model of mixer 'mamba2' has no dt_rank"),
        ({"scan_norm_eps": 1e-6}, "a model of mixer 'mamba2' has no scan_norm_eps"),
        ({"mixer": "mamba1", "dt_rank": 0}, "dt_rank is 0"),
        ({"mixer": "mamba1", "scan_norm_eps": -1.0}, "scan_norm_eps is -1.0"),
        (
            {"mixer": "mamba1", "differential": DifferentialConfig(head_division="n_heads")},
            "has no heads to divide",
        ),
        ({"mixer": "mamba1", "d_model": 15, "expand": 1, "differential": DifferentialConfig()}, "it must be even"),
    ],
)
def test_a_config_that_no_mixer_has_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HookedMambaConfig(**{"d_model": 16, "n_layers": 1, "d_vocab": 8, **changes})


def test_a_config_says_the_fields_of_its_mixer_only() -> None:
    cfg = tiny_config(EXP_DOT, mixer="mamba1", dt_rank=3, scan_norm_eps=1e-6)
    values = cfg.to_dict()
    assert HookedMambaConfig.from_dict(values) == cfg
    assert values["mixer"] == "mamba1"
    assert not {"d_head", "n_groups", "chunk_size", "dt_limit"} & set(values)
    assert not {"mixer", "dt_rank", "scan_norm_eps"} & set(tiny_config().to_dict())


def test_a_mamba1_model_is_not_converted_to_a_differential_one() -> None:
    with pytest.raises(ValueError, match="only a 'mamba2' model can be converted"):
        convert_to_differential(tiny_model(mixer="mamba1"), "all")
