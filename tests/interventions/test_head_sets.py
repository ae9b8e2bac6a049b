"""Sets of heads: which have the largest scores, what matches them, and what goes when they are knocked out."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.hook_names import mixer_prefix
from diffmamba_interp.interventions import (
    AtTokens,
    Head,
    KnockOut,
    ablate_heads,
    describe,
    intervene,
    knock_out_heads,
    largest_heads,
    matched_heads,
)
from tests.models import mixers  # noqa: F401 - registers the toy
from tests.models.tiny import random_tokens, relative_error, tiny_model

SIZES = {
    (0, "minuend"): np.array([1.0, 1.1, 5.0, 5.5, 30.0, 33.0]),
    (0, "subtrahend"): np.array([1.0, 1.0, 1.0]),
    (1, None): np.array([2.0, 2.0]),
}
KINDS: dict[str, dict[str, Any]] = {
    "mamba2": {"n_groups": 2},
    "diff-mamba2": {"differential": DifferentialConfig()},
    "mamba1": {"mixer": "mamba1"},
    "diff-mamba1": {"mixer": "mamba1", "differential": DifferentialConfig()},
}


def test_the_largest_share_of_all_heads_comes_largest_first_and_holds_at_least_one() -> None:
    scores = {(0, "minuend"): np.array([0.1, np.nan, 0.3]), (1, None): np.array([0.9, 0.2])}
    assert largest_heads(scores, 0.4) == (Head(1, None, 0), Head(0, "minuend", 2))
    assert largest_heads(scores, 0.01) == (Head(1, None, 0),)
    with pytest.raises(ValueError, match="no head has a score"):
        largest_heads({(0, None): np.array([np.nan])})


def test_a_match_is_of_the_same_scan_and_of_nearly_the_same_size() -> None:
    chosen = (Head(0, "minuend", 0), Head(0, "minuend", 3), Head(0, "minuend", 5))
    for seed in range(4):
        matches = matched_heads(chosen, SIZES, seed=seed, nearest=1)
        assert sorted(matches) == [Head(0, "minuend", 1), Head(0, "minuend", 2), Head(0, "minuend", 4)]
    assert matched_heads(chosen, SIZES, seed=1) == matched_heads(chosen, SIZES, seed=1)
    draws = {matched_heads([Head(0, "minuend", 0)], SIZES, seed=seed) for seed in range(20)}
    assert draws == {(Head(0, "minuend", other),) for other in (1, 2, 3)}


def test_where_a_scan_has_no_other_head_left_the_block_and_then_the_model_stand_in() -> None:
    chosen = [Head(0, "subtrahend", head) for head in range(3)]
    assert {head.scan for head in matched_heads(chosen, SIZES)} == {(0, "minuend")}
    of_another = matched_heads([Head(1, None, 0), Head(1, None, 1)], SIZES)
    assert {head.block for head in of_another} == {0}
    with pytest.raises(ValueError, match="6 heads are chosen and 5 are left"):
        matched_heads([Head(0, "minuend", head) for head in range(6)], SIZES)
    with pytest.raises(ValueError, match="no number for Head"):
        matched_heads([Head(7, None, 0)], SIZES)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_writes_of_some_heads_knocked_out_are_columns_of_their_matrices_at_zero(kind: str) -> None:
    """y = H x + D x with H[h, :, s] = 0 for these heads and sources, and as it was for all others."""
    model, tokens = tiny_model(**KINDS[kind]), random_tokens()
    branch = "subtrahend" if model.cfg.differential else None
    prefix = mixer_prefix(1, branch)
    names = [f"{prefix}.hook_{leaf}" for leaf in ("hidden_attention", "x", "ssm_y")]
    _, clean = model.run_with_cache(tokens, names)
    H, x, y = (clean[name] for name in names)
    gone = torch.zeros_like(H)
    gone[:, [0, 2], :, 3:5] = H[:, [0, 2], :, 3:5]
    with intervene(model, KnockOut(positions=(3, 4), blocks=1, branch=branch, heads=(0, 2))):
        _, cache = model.run_with_cache(tokens, names[2])
    values = x[..., None] if x.ndim == 3 else x
    expected = y - torch.einsum("bhts,bshp->bthp", gone, values).reshape(y.shape)
    assert relative_error(cache[names[2]], expected) < 5e-6
    assert relative_error(cache[names[2]], y) > 1e-3


@torch.no_grad()
def test_all_heads_by_their_numbers_are_all_heads() -> None:
    model, tokens = tiny_model(DifferentialConfig(placement=(0,))), random_tokens()
    n_heads = model.cfg.mixer_sizes("plain").n_heads
    with intervene(model, KnockOut(positions=3, blocks=1)):
        expected = model(tokens)
    with intervene(model, KnockOut(positions=3, blocks=1, heads=range(n_heads))):
        assert relative_error(model(tokens), expected) < 5e-6


@torch.no_grad()
@pytest.mark.parametrize("heads", [None, (1,)])
def test_certain_tokens_are_knocked_out_wherever_they_stand(heads: Any) -> None:
    """As a mask of their positions does; also in prompts of other lengths, and where a prompt is read on."""
    model, tokens = tiny_model(), random_tokens(3, 12)
    ids = (int(tokens[0, 2]), int(tokens[1, 7]))
    mask = (tokens == ids[0]) | (tokens == ids[1])
    assert 2 <= int(mask.sum()) < mask.numel()
    with intervene(model, KnockOut(positions=mask, heads=heads)):
        expected = model(tokens)
    at_tokens = KnockOut(positions=AtTokens(ids=ids), heads=heads)
    with intervene(model, at_tokens):
        assert torch.equal(model(tokens), expected)
        first, state = model.forward_with_state(tokens[:, :4])
        rest, _ = model.forward_with_state(tokens[:, 4:], state)
    assert relative_error(torch.cat([first, rest], dim=1), expected) < 5e-6
    assert relative_error(expected, model(tokens)) > 1e-3
    assert describe(at_tokens)["positions"] == {"ids": list(ids)}


@torch.no_grad()
def test_ablated_heads_add_nothing_or_their_mean() -> None:
    model, tokens = tiny_model(DifferentialConfig(placement=(0,))), random_tokens()
    heads = (Head(1, None, 2), Head(0, "minuend", 1), Head(1, None, 0))
    with intervene(model, ablate_heads(heads)):
        _, cache = model.run_with_cache(tokens, "*.inner_norm.hook_gated")
    gated = cache["blocks.1.mixer.inner_norm.hook_gated"].unflatten(-1, (4, 8))
    assert float(gated[:, :, [0, 2]].abs().max()) == 0.0 < float(gated[:, :, [1, 3]].abs().min())
    assert float(cache["blocks.0.mixer.minuend.inner_norm.hook_gated"].unflatten(-1, (4, 4))[:, :, 1].abs().max()) == 0
    with intervene(model, knock_out_heads(heads, 2)):
        given = model(tokens)
    one_by_one = [KnockOut(positions=2, blocks=head.block, branch=head.branch, heads=head.head) for head in heads]
    with intervene(model, one_by_one):
        assert relative_error(given, model(tokens)) < 5e-6


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: KnockOut(positions=2, level="input", heads=1), "B and C, which the input makes, are not one head's"),
        (lambda: AtTokens(ids=()), "ids is empty"),
    ],
)
def test_what_cannot_be_knocked_out_is_refused(refused: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused()


def test_a_token_or_a_head_that_the_model_lacks_is_refused() -> None:
    model, tokens = tiny_model(), random_tokens()
    with (
        pytest.raises(ValueError, match="ids holds token ids from 99 to 99"),
        intervene(model, KnockOut(positions=AtTokens(ids=(99,)))),
    ):
        model(tokens)
    with pytest.raises(ValueError, match="head 9 is out of range"):
        KnockOut(positions=2, heads=9).hooks(model)
    toy: HookedMamba = tiny_model(mixer="toy")
    with pytest.raises(ValueError, match="has no write that is one head's alone"):
        KnockOut(positions=2, heads=0).hooks(toy)


@torch.no_grad()
def test_a_decay_that_another_hook_has_set_stays_where_no_write_is_knocked_out() -> None:
    model, tokens = tiny_model(), random_tokens()
    name = "blocks.0.mixer.hook_log_decay"

    def half(value: Tensor, name: str) -> Tensor:
        return 0.5 * value

    with model.hooks([(name, half)]), intervene(model, KnockOut(positions=2, blocks=0, heads=1)):
        _, cache = model.run_with_cache(tokens, [name, "blocks.0.mixer.hook_dt"])
    _, clean = model.run_with_cache(tokens, name)
    assert torch.equal(cache[name][:, 3:], 0.5 * clean[name][:, 3:])
    assert float(cache["blocks.0.mixer.hook_dt"][:, 2, 1].abs().max()) == 0.0
