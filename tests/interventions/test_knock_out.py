"""A knocked-out source is a scan rebuilt without it, written out here position by position."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.hook_names import mixer_prefix
from diffmamba_interp.interventions import KnockOut, hooks_of, intervene, positions_in
from tests.models.tiny import random_tokens, relative_error, tiny_model

KNOCKED = (2, 3, 6)
SCANS = [(0, "minuend"), (0, "subtrahend"), (1, None)]


def two_blocks(n_groups: int) -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)), n_groups=n_groups).double()


def scan_without(mixer: nn.Module, u: Tensor, sources: tuple[int, ...], level: str) -> Tensor:
    """y of one sample, [pos, head, d_head]: the mixer's equations, one position and head at a time."""
    sizes = mixer.sizes
    projected = u @ mixer.in_proj.weight.T
    d_bc = sizes.n_groups * sizes.d_state
    _, xBC, dt = projected.split([sizes.d_inner, sizes.d_conv_channels, sizes.n_heads], dim=-1)
    dt = F.softplus(dt + mixer.dt_bias)
    taps, bias = mixer.conv1d.weight[:, 0], mixer.conv1d.bias
    y = torch.zeros(len(u), sizes.n_heads, sizes.d_head, dtype=u.dtype)
    state = torch.zeros(sizes.n_heads, sizes.d_head, sizes.d_state, dtype=u.dtype)
    for t in range(len(u)):
        c = bias.clone()
        for k in range(min(sizes.d_conv, t + 1)):
            if not (level == "input" and t - k in sources):
                c += taps[:, sizes.d_conv - 1 - k] * xBC[t - k]
        x, B, C = F.silu(c).split([sizes.d_inner, d_bc, d_bc])
        for h in range(sizes.n_heads):
            group = h // (sizes.n_heads // sizes.n_groups)
            of_group = slice(group * sizes.d_state, (group + 1) * sizes.d_state)
            x_h = x[h * sizes.d_head : (h + 1) * sizes.d_head]
            state[h] = torch.exp(-dt[t, h] * torch.exp(mixer.A_log[h])) * state[h]
            if not (level == "write" and t in sources):
                state[h] += dt[t, h] * torch.outer(x_h, B[of_group])
            y[t, h] = state[h] @ C[of_group] + mixer.D[h] * x_h
    return y


@torch.no_grad()
@pytest.mark.parametrize("n_groups", [1, 2])
@pytest.mark.parametrize("level", ["write", "input"])
@pytest.mark.parametrize(("block", "branch"), SCANS)
def test_a_knocked_out_source_equals_a_scan_rebuilt_without_it(
    block: int, branch: str | None, level: str, n_groups: int
) -> None:
    model, tokens = two_blocks(n_groups), random_tokens(1, 12)
    prefix = mixer_prefix(block, branch)
    names = [f"{prefix}.hook_ssm_y", f"blocks.{block}.hook_mixer_in"]
    with intervene(model, KnockOut(positions=KNOCKED, level=level, blocks=block, branch=branch)):
        y, u = (model.run_with_cache(tokens, names)[1][name][0] for name in names)
    mixer = model.get_submodule(prefix)
    assert relative_error(y, scan_without(mixer, u, KNOCKED, level)) < 1e-12
    assert relative_error(y, scan_without(mixer, u, (), level)) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("level", ["write", "input"])
def test_without_a_branch_every_scan_of_the_blocks_is_knocked_out(level: str) -> None:
    model, tokens = two_blocks(1), random_tokens(1, 12)
    with intervene(model, KnockOut(positions=KNOCKED, level=level)):
        _, cache = model.run_with_cache(tokens)
    for block, branch in SCANS:
        prefix, u = mixer_prefix(block, branch), cache[f"blocks.{block}.hook_mixer_in"][0]
        expected = scan_without(model.get_submodule(prefix), u, KNOCKED, level)
        assert relative_error(cache[f"{prefix}.hook_ssm_y"][0], expected) < 1e-12


@torch.no_grad()
def test_a_write_knocked_out_is_a_column_of_the_hidden_attention_at_zero() -> None:
    model = two_blocks(2)
    name = "blocks.0.mixer.minuend.hook_hidden_attention"
    clean = model.run_with_cache(random_tokens(), name)[1][name]
    with intervene(model, KnockOut(positions=(3,), blocks=0, branch="minuend")):
        H = model.run_with_cache(random_tokens(), name)[1][name]
    expected = clean.clone()
    expected[..., 3] = 0.0
    assert torch.equal(H, expected)
    assert not torch.equal(H, clean)


@torch.no_grad()
@pytest.mark.parametrize(("level", "changed"), [("write", {"B"}), ("input", {"conv", "x", "B", "C"})])
def test_gate_and_step_size_stay_and_only_what_the_level_says_changes_before_the_scan(
    level: str, changed: set[str]
) -> None:
    model, prefix = two_blocks(2), "blocks.0.mixer.minuend"
    leaves = ("z", "conv", "x", "B", "C", "dt", "log_decay")
    names = [f"{prefix}.hook_{leaf}" for leaf in leaves]
    _, clean = model.run_with_cache(random_tokens(), names)
    with intervene(model, KnockOut(positions=3, level=level)):
        _, cache = model.run_with_cache(random_tokens(), names)
    assert {
        leaf for leaf, name in zip(leaves, names, strict=True) if not torch.equal(cache[name], clean[name])
    } == changed


@torch.no_grad()
@pytest.mark.parametrize("level", ["write", "input"])
def test_nothing_before_the_source_changes(level: str) -> None:
    model = two_blocks(1)
    logits = model.run_with_hooks(random_tokens(), hooks_of(model, KnockOut(positions=(4,), level=level)))
    assert torch.equal(logits[:, :4], model(random_tokens())[:, :4])
    assert not torch.equal(logits[:, 4:], model(random_tokens())[:, 4:])


@torch.no_grad()
@pytest.mark.parametrize("level", ["write", "input"])
def test_a_mask_knocks_out_other_positions_in_each_sample(level: str) -> None:
    model, tokens = two_blocks(1), random_tokens(3, 9)
    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[0, 2] = mask[1, 5] = mask[1, 6] = True
    together = model.run_with_hooks(tokens, hooks_of(model, KnockOut(positions=mask, level=level)))
    for sample, positions in ((0, (2,)), (1, (5, 6))):
        one = KnockOut(positions=positions, level=level)
        alone = model.run_with_hooks(tokens[sample : sample + 1], hooks_of(model, one))
        assert relative_error(together[sample : sample + 1], alone) < 1e-12
    assert relative_error(together[2:], model(tokens[2:])) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("level", ["write", "input"])
def test_a_continued_prompt_is_knocked_out_where_it_began_and_nowhere_after(level: str) -> None:
    """Labels are scored from the prompt's state: their own first position is not position 0."""
    model, tokens = two_blocks(1), random_tokens(2, 12)
    with intervene(model, KnockOut(positions=(0, 5), level=level)):
        whole = model(tokens)
        _, state = model.forward_with_state(tokens[:, :8])
        continued, _ = model.forward_with_state(tokens[:, 8:], state)
        again = model(tokens)
    assert relative_error(continued, whole[:, 8:]) < 1e-12
    assert torch.equal(again, whole)
    assert relative_error(whole, model(tokens)) > 1e-6


def test_positions_are_those_of_spans_whatever_they_are_called() -> None:
    fact = SimpleNamespace(token_start=3, token_end=6)
    assert positions_in([fact, (5, 8), (0, 1)]) == (0, 3, 4, 5, 6, 7)
    for empty in ((4, 4), (-1, 2)):
        with pytest.raises(ValueError, match="no half-open interval"):
            positions_in([empty])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "output"}, "level is 'output': 'write' takes the source out of the state"),
        ({"positions": ()}, "positions is empty"),
        ({"positions": (-1,)}, "position -1 is negative"),
    ],
)
def test_unknown_levels_and_impossible_positions_are_refused(changes: dict, message: str) -> None:
    # The types that are enforced while testing would refuse an unknown level first.
    unchecked = getattr(KnockOut.__post_init__, "__wrapped__", KnockOut.__post_init__)
    intervention = object.__new__(KnockOut)
    for name, value in ({"positions": (1,), "level": "write", "blocks": None, "branch": None} | changes).items():
        object.__setattr__(intervention, name, value)
    with pytest.raises(ValueError, match=message):
        unchecked(intervention)


@torch.no_grad()
def test_a_position_beyond_the_prompt_is_refused() -> None:
    model = two_blocks(1)
    with pytest.raises(ValueError, match="position 9 is beyond the prompt, which has positions 0 to 8"):
        model.run_with_hooks(random_tokens(), hooks_of(model, KnockOut(positions=(9,))))
    mask = torch.ones(3, 9, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mask of shape \(3, 9\), but the forward pass has 2 samples"):
        model.run_with_hooks(random_tokens(), hooks_of(model, KnockOut(positions=mask)))
    with pytest.raises(ValueError, match="block 1 is plain"):
        hooks_of(model, KnockOut(positions=(1,), blocks=1, branch="minuend"))
