"""Every hook point of the model: it exists with its shape, is served, and hides nothing."""

import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.hook_names import BRANCHES, COSTLY_LEAVES
from tests.models.tiny import (
    COVERING_VARIANTS,
    DIFF_S6_VARIANTS,
    DIFFERENTIAL_VARIANTS,
    random_tokens,
    relative_error,
    tiny_model,
    variant_id,
)

BATCH, POS = 2, 9


@pytest.fixture(scope="module", params=[*COVERING_VARIANTS, *DIFF_S6_VARIANTS[:2]], ids=variant_id)
def model(request: pytest.FixtureRequest) -> HookedMamba:
    return tiny_model(request.param, n_groups=2)


def mixer_shapes(cfg: HookedMambaConfig, kind: str) -> dict[str, tuple[int, ...]]:
    sizes = cfg.mixer_sizes(kind)  # type: ignore[arg-type]
    per_channel = (BATCH, POS, sizes.n_heads, sizes.d_head)
    return {
        "hook_in_proj": (BATCH, POS, sizes.d_in_proj),
        "hook_z": per_channel,
        "hook_conv": (BATCH, POS, sizes.d_inner + 2 * sizes.n_groups * sizes.d_state),
        "hook_x": per_channel,
        "hook_B": (BATCH, POS, sizes.n_groups, sizes.d_state),
        "hook_C": (BATCH, POS, sizes.n_groups, sizes.d_state),
        "hook_dt": (BATCH, POS, sizes.n_heads),
        "hook_log_decay": (BATCH, POS, sizes.n_heads),
        "hook_write": (*per_channel, sizes.d_state),
        "hook_state": (*per_channel, sizes.d_state),
        "hook_hidden_attention": (BATCH, sizes.n_heads, POS, POS),
        "hook_ssm_y": per_channel,
        "inner_norm.hook_scale": (BATCH, POS, sizes.n_groups),
        "inner_norm.hook_gated": (BATCH, POS, sizes.d_inner),
    }


def documented_shapes(cfg: HookedMambaConfig) -> dict[str, tuple[int, ...]]:
    """The table of hook points, written down once more."""
    stream, scalar_per_position = (BATCH, POS, cfg.d_model), (BATCH, POS, 1)
    norm = {"hook_scale": scalar_per_position, "hook_normalized": stream}
    shapes = {"hook_embed": stream} | {f"ln_final.{leaf}": shape for leaf, shape in norm.items()}
    for block in range(cfg.n_layers):
        kind = cfg.block_kind(block)
        inside = {f"hook_{point}": stream for point in ("resid_pre", "resid_post", "mixer_in", "mixer_out")}
        inside |= {f"norm.{leaf}": shape for leaf, shape in norm.items()}
        if kind == "plain":
            inside |= {f"mixer.{leaf}": shape for leaf, shape in mixer_shapes(cfg, kind).items()}
        else:
            inside |= differential_shapes(cfg, norm)
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in inside.items()}
    return shapes


def differential_shapes(cfg: HookedMambaConfig, norm: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    differential = cfg.differential
    assert differential is not None
    sizes = cfg.mixer_sizes("differential")
    width = cfg.d_model if differential.subtract_at == "mixer" else sizes.d_inner
    norm = norm | {"hook_normalized": (BATCH, POS, width)}
    lambdas = {"token_gate": (BATCH, POS, 1), "token_head_gate": (BATCH, POS, sizes.n_heads)}
    inside: dict[str, tuple[int, ...]] = {
        "mixer.hook_lambda": lambdas.get(differential.lambda_form, ()),
        "mixer.hook_difference": norm["hook_normalized"],
    }
    for branch in BRANCHES:
        shapes = mixer_shapes(cfg, "differential")
        if branch == "subtrahend" and differential.subtract_at == "scan":
            # One gate, the minuend's, so in_proj makes no z either.
            shapes = {leaf: shape for leaf, shape in shapes.items() if leaf != "hook_z" and "inner_norm" not in leaf}
            shapes["hook_in_proj"] = (BATCH, POS, sizes.d_in_proj - sizes.d_inner)  # type: ignore[attr-defined]
        inside[f"mixer.{branch}.hook_out"] = norm["hook_normalized"]
        inside |= {f"mixer.{branch}.{leaf}": shape for leaf, shape in shapes.items()}
        if differential.normalisation == "pre":
            inside |= {f"mixer.subnorm.{branch}.{leaf}": shape for leaf, shape in norm.items()}
    if differential.normalisation == "post":
        inside |= {f"mixer.subnorm.{leaf}": shape for leaf, shape in norm.items()}
    return inside


def everything(name: str) -> bool:
    return True


def test_the_covering_variants_take_every_value_of_every_option() -> None:
    for option in ("normalisation", "head_division", "lambda_form"):
        everywhere, covered = (
            {getattr(cfg, option) for cfg in some} for some in (DIFFERENTIAL_VARIANTS, COVERING_VARIANTS)
        )
        assert covered == everywhere


@torch.no_grad()
@pytest.mark.parametrize("differential", [*DIFFERENTIAL_VARIANTS, *DIFF_S6_VARIANTS], ids=variant_id)
def test_every_documented_point_exists_with_its_shape_and_no_other(differential: DifferentialConfig) -> None:
    model = tiny_model(differential, n_groups=2)
    _, cache = model.run_with_cache(random_tokens(BATCH, POS), everything)
    assert {name: tuple(value.shape) for name, value in cache.items()} == documented_shapes(model.cfg)
    assert set(cache) == set(model.hook_points)


@torch.no_grad()
def test_a_replacement_at_any_point_reaches_the_logits(model: HookedMamba) -> None:
    """None is dead: not on its own, which is how it would be used."""
    tokens = random_tokens(BATCH, POS)
    clean = model(tokens)
    dead = []
    for name in model.hook_points:
        changed = model.run_with_hooks(tokens, [(name, lambda value, _: 1.3 * value + 0.05)])
        if relative_error(changed, clean) < 1e-4:
            dead.append(name)
    assert dead == []


@torch.no_grad()
def test_a_replacement_beside_other_hooks_reaches_the_logits() -> None:
    """Also while every point, costly ones included, is being read."""
    model = tiny_model(COVERING_VARIANTS[0], n_groups=2)
    tokens = random_tokens(BATCH, POS)
    clean = model(tokens)
    dead = []
    for name in model.hook_points:
        with model.hooks([(name, lambda value, _: 1.3 * value + 0.05)]):
            changed, cache = model.run_with_cache(tokens, everything)
        if relative_error(changed, clean) < 1e-4:
            dead.append(name)
    assert dead == []


@torch.no_grad()
def test_patching_any_value_with_itself_changes_no_bit(model: HookedMamba) -> None:
    tokens = random_tokens(BATCH, POS)
    clean = model(tokens)
    for name in model.hook_points:
        read, cache = model.run_with_cache(tokens, [name])
        patched = model.run_with_hooks(tokens, [(name, lambda value, name, cache=cache: cache[name].clone())])
        assert torch.equal(patched, read), name
        if name.rpartition(".")[2] in COSTLY_LEAVES:
            assert relative_error(read, clean) < 2e-6, name  # another form of the same scan
        else:
            assert torch.equal(read, clean), name


@torch.no_grad()
def test_the_cache_is_in_the_order_of_computation_and_of_the_model(model: HookedMamba) -> None:
    _, cache = model.run_with_cache(random_tokens())
    positions = {name: at for at, name in enumerate(cache)}
    for block in range(model.cfg.n_layers):
        order = ["hook_resid_pre", "norm.hook_scale", "norm.hook_normalized", "hook_mixer_in", "hook_mixer_out"]
        found = [positions[f"blocks.{block}.{leaf}"] for leaf in [*order, "hook_resid_post"]]
        assert found == sorted(found)
    assert list(cache)[0] == "hook_embed"
    assert list(cache)[-1] == "ln_final.hook_normalized"


@torch.no_grad()
def test_hooks_leave_no_trace_also_when_one_raises(model: HookedMamba) -> None:
    tokens = random_tokens()
    clean = model(tokens)

    def fail(value: Tensor, name: str) -> None:
        raise ZeroDivisionError

    model.run_with_hooks(tokens, [(None, lambda value, name: 2 * value)])
    assert torch.equal(model(tokens), clean)
    with pytest.raises(ZeroDivisionError):
        model.run_with_hooks(tokens, [("hook_embed", lambda v, n: 2 * v), ("ln_final.hook_scale", fail)])
    assert not any(point.is_hooked for point in model.hook_points.values())
    assert torch.equal(model(tokens), clean)


@torch.no_grad()
def test_an_edit_in_place_is_refused_at_every_point(model: HookedMamba) -> None:
    def edit(value: Tensor, name: str) -> None:
        value.mul_(2)

    for name in model.hook_points:
        with pytest.raises(RuntimeError, match=f"{name}' changed its value in place"):
            model.run_with_hooks(random_tokens(1, 3), [(name, edit)])


def test_the_values_fit_together_as_the_equations_say() -> None:
    model = tiny_model(DifferentialConfig(placement=(0,)), n_groups=2)
    with torch.no_grad():
        _, cache = model.run_with_cache(random_tokens(), everything)
    mixer = model.blocks[0].mixer
    minuend, subtrahend = (cache[f"blocks.0.mixer.{branch}.hook_out"] for branch in BRANCHES)
    lambda_, difference = cache["blocks.0.mixer.hook_lambda"], cache["blocks.0.mixer.hook_difference"]
    assert torch.equal(difference, minuend - lambda_ * subtrahend)
    normalized = cache["blocks.0.mixer.subnorm.hook_normalized"]
    assert relative_error(normalized * cache["blocks.0.mixer.subnorm.hook_scale"], difference) < 1e-6
    out = (1 - 0.2) * mixer.subnorm.weight * normalized
    assert relative_error(cache["blocks.0.hook_mixer_out"], out) < 1e-6
    for prefix in ("blocks.0.mixer.minuend", "blocks.1.mixer"):
        x, y = cache[f"{prefix}.hook_x"], cache[f"{prefix}.hook_ssm_y"]
        D = model.get_parameter(f"{prefix}.D")
        H, states, C = (cache[f"{prefix}.hook_{leaf}"] for leaf in ("hidden_attention", "state", "C"))
        skip = D[:, None] * x
        assert relative_error(torch.einsum("bhts,bshp->bthp", H, x) + skip, y) < 2e-6
        by_head = C.repeat_interleave(H.shape[1] // C.shape[2], dim=2)
        assert relative_error(torch.einsum("bthpn,bthn->bthp", states, by_head) + skip, y) < 2e-6
        assert torch.equal(H, H.tril())
        A = -model.get_parameter(f"{prefix}.A_log").exp()
        assert torch.equal(cache[f"{prefix}.hook_log_decay"], cache[f"{prefix}.hook_dt"] * A)
