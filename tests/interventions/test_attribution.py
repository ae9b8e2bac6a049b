"""One backward pass gives the derivative of every patch: exact where the logit is linear, off by what bends it."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.interventions import (
    EstimateError,
    Patch,
    PatchGrid,
    SetLambda,
    attribution_patching,
    estimate_error,
    hooks_of,
    intervene,
    patch_grid,
)
from diffmamba_interp.models.read_out import logit_direction
from tests.models.tiny import random_tokens, tiny_model

ANSWERS, AGAINST = (3, 11), (7, 0)
GIVEN = {"answers": ANSWERS, "against": AGAINST}


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,))).double()


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    return random_tokens(2, 7, seed=1), random_tokens(2, 7, seed=2)


def one(value: Tensor, name: str) -> Tensor:
    return torch.ones_like(value)


def square(value: Tensor, name: str) -> Tensor:
    return value**2


def test_an_estimate_is_exact_where_the_logit_is_linear_in_the_value(
    model: HookedMamba, pairs: tuple[Tensor, Tensor]
) -> None:
    asked = {**GIVEN, "point": "resid_post", "blocks": 1}
    with model.hooks([("ln_final.hook_scale", one)]):
        estimate, exact = attribution_patching(model, *pairs, **asked), patch_grid(model, *pairs, **asked)
    ends = [model(tokens, stop_at_block=2)[:, -1] for tokens in pairs]
    by_hand = ((ends[0] - ends[1]) * logit_direction(model, torch.tensor(ANSWERS), torch.tensor(AGAINST))).sum(-1)
    assert np.allclose(estimate.change[:, 0, -1], by_hand.detach().numpy(), atol=1e-12)
    assert np.allclose(estimate.change[:, 0, :-1], 0.0, atol=1e-12)
    assert np.abs(estimate_error(estimate, exact).error).max() < 1e-12
    assert np.allclose(estimate.recovered[:, 0, -1], 1.0)
    assert estimate.estimated
    assert not exact.estimated


def test_what_it_misses_of_a_square_is_the_square_of_the_step(model: HookedMamba, pairs: tuple[Tensor, Tensor]) -> None:
    asked = {**GIVEN, "point": "resid_post", "blocks": 1, "positions": (6,)}
    with model.hooks([("ln_final.hook_scale", one), ("ln_final.hook_normalized", square)]):
        estimate, exact = attribution_patching(model, *pairs, **asked), patch_grid(model, *pairs, **asked)
    ends = [model(tokens, stop_at_block=2)[:, -1] for tokens in pairs]
    direction = logit_direction(model, torch.tensor(ANSWERS), torch.tensor(AGAINST))
    missed = -((ends[0] - ends[1]) ** 2 * direction).sum(-1).detach().numpy()
    error = estimate_error(estimate, exact)
    assert np.allclose(error.error[:, 0, 0], missed, rtol=1e-9)
    assert np.allclose(error.missed, np.abs(missed) / np.abs(exact.change[:, 0, 0]))


@torch.no_grad()
@pytest.mark.parametrize("point", ["resid_pre", "branch_out", "ssm_y", "gated", "dt"])
def test_every_estimate_is_the_slope_of_its_patch(model: HookedMamba, pairs: tuple[Tensor, Tensor], point: str) -> None:
    clean, corrupted = pairs
    named = (lambda block: "blocks.0.mixer.subtrahend.hook_dt") if point == "dt" else point
    estimate = attribution_patching(
        model, *pairs, **GIVEN, point=named, blocks=0 if point == "dt" else None, positions=[(2,), (4, 6)]
    )
    names = {
        "resid_pre": "blocks.{block}.hook_resid_pre",
        "branch_out": "blocks.{block}.mixer.{branch}.hook_out",
        "ssm_y": "blocks.{block}.mixer{dot}{branch}.hook_ssm_y",
        "gated": "blocks.{block}.mixer{dot}{branch}.inner_norm.hook_gated",
        "dt": "blocks.0.mixer.subtrahend.hook_dt",
    }
    step = 1e-4
    rows = [0, len(estimate.blocks) - 1]
    for row in rows:
        branch = (estimate.branches or (None,) * 99)[row]
        name = names[point].format(block=estimate.blocks[row], branch=branch or "", dot="." if branch else "")
        values = [model.run_with_cache(tokens, name)[1][name] for tokens in pairs]
        head = None if estimate.heads is None else estimate.heads[row]
        sizes = model.cfg.mixer_sizes(model.cfg.block_kind(estimate.blocks[row]))
        width = 1 if point == "ssm_y" else sizes.d_head
        part = slice(None) if head is None else slice(width * head, width * (head + 1))
        for column, places in enumerate(estimate.positions):
            read = []
            for sign in (1, -1):
                moved = values[1].clone()
                for place in places:
                    moved[:, place, part] += sign * step * (values[0] - values[1])[:, place, part]
                logits = model.run_with_hooks(corrupted, hooks_of(model, Patch(name=name, value=moved)))[:, -1]
                read.append(logits[[0, 1], ANSWERS] - logits[[0, 1], AGAINST])
            slope = (read[0] - read[1]) / (2 * step)
            assert np.allclose(estimate.change[:, row, column], slope.numpy(), rtol=1e-5, atol=1e-8)
    assert np.abs(estimate.change[:, rows]).max() > 1e-3


def test_estimates_have_the_axes_of_the_exact_grid_whatever_the_batch(
    model: HookedMamba, pairs: tuple[Tensor, Tensor]
) -> None:
    seen: list[int] = []
    asked = {**GIVEN, "point": "gated"}
    estimate = attribution_patching(model, *pairs, **asked, batch_size=1, on_progress=seen.append)
    exact = patch_grid(model, *pairs, **asked)
    whole = attribution_patching(model, *pairs, **asked)
    assert seen == [1, 1]
    assert np.allclose(estimate.patched, whole.patched)
    assert np.allclose([estimate.clean, estimate.corrupted], [exact.clean, exact.corrupted])
    assert (estimate.row_names, estimate.positions) == (exact.row_names, exact.positions)
    again = PatchGrid.from_dict(json.loads(json.dumps(estimate.to_dict())))
    assert again.to_dict() == estimate.to_dict()
    assert (again.branches, again.heads, again.estimated) == (estimate.branches, estimate.heads, True)
    error = estimate_error(estimate, exact)
    assert np.allclose(EstimateError.from_dict(error.to_dict()).error, error.error)


def test_frozen_parameters_and_interventions_leave_the_estimate_right(
    model: HookedMamba, pairs: tuple[Tensor, Tensor]
) -> None:
    frozen = tiny_model(DifferentialConfig(placement=(0,))).double().requires_grad_(False)
    with torch.no_grad():
        assert np.allclose(
            attribution_patching(frozen, *pairs, **GIVEN).patched, attribution_patching(model, *pairs, **GIVEN).patched
        )
    with intervene(model, SetLambda(value=0.0)):
        off = attribution_patching(model, *pairs, **GIVEN, point="branch_out", blocks=0)
    assert off.branches == ("minuend", "subtrahend")
    assert np.abs(off.change[:, 0]).max() > 1e-3
    assert np.allclose(off.change[:, 1], 0.0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rank_correlation_is_of_the_order_of_changes(model: HookedMamba, pairs: tuple[Tensor, Tensor]) -> None:
    exact = patch_grid(model, *pairs, **GIVEN, positions=(1, 2))
    changes = exact.change
    cubed = PatchGrid(**{**vars(exact), "patched": changes**3 + exact.corrupted[:, None, None]})
    turned = PatchGrid(**{**vars(exact), "patched": -changes + exact.corrupted[:, None, None]})
    assert np.allclose(estimate_error(cubed, exact).rank_correlation, 1.0)
    assert np.allclose(estimate_error(turned, exact).rank_correlation, -1.0)
    assert np.allclose(estimate_error(turned, exact).missed, 2.0)
    flat = PatchGrid(**{**vars(exact), "patched": np.broadcast_to(exact.corrupted[:, None, None], changes.shape)})
    assert np.isnan(estimate_error(exact, flat).missed).all()
    assert np.isnan(estimate_error(exact, flat).rank_correlation).all()
    with pytest.raises(ValueError, match="estimate and exact differ in positions"):
        estimate_error(exact, patch_grid(model, *pairs, **GIVEN, positions=(1, 3)))
