"""Every kind of model does everything: it trains, is saved and loaded, hooked, read and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffmamba_interp import (
    DifferentialConfig,
    HookedMamba,
    HookedMambaConfig,
    LogitLens,
    TunedLens,
    extract_attention,
    needle_trajectory,
    residual_attribution,
)
from diffmamba_interp.lens import LensRecipe, LensTraining
from diffmamba_interp.lm_training.loss import RoleSums
from diffmamba_interp.lm_training.mixture import Batch
from diffmamba_interp.lm_training.optimiser import make_optimiser
from diffmamba_interp.lm_training.recipe import OptimiserRecipe, Recipe
from diffmamba_interp.lm_training.step import EagerStep
from diffmamba_interp.text.batches import RandomTokenBatches
from tests.app.conftest import OpenApp, drawn, open_app, root  # noqa: F401 - fixtures
from tests.lm_training.tiny import ALONE, tiny_recipe
from tests.models import mixers  # noqa: F401 - registers the toy
from tests.models.tiny import N_TOKENS, assert_same_values, random_tokens, relative_error, tiny_config
from tests.needle.closed_form import sample_of

STEPS = 50

Trained = tuple[HookedMamba, list[float]]

HEAD_GATE = DifferentialConfig(lambda_form="token_head_gate", subtract_at="scan", normalisation="none")
VARIANTS: dict[str, dict[str, Any]] = {
    "mamba2": {},
    "diff-mamba2": {"differential": DifferentialConfig()},
    "mamba1": {"mixer": "mamba1", "d_state": 4},
    "falcon-mamba": {"mixer": "mamba1", "d_state": 4, "scan_norm_eps": 1e-6},
    "diff-mamba1": {"mixer": "mamba1", "differential": DifferentialConfig(lambda_form="exp_dot")},
    "diff-mamba1, every second": {"mixer": "mamba1", "differential": DifferentialConfig(placement="alternate")},
    "token gate": {"differential": DifferentialConfig(lambda_form="token_gate")},
    "token gate over mamba1": {"mixer": "mamba1", "differential": DifferentialConfig(lambda_form="token_gate")},
    "diff-s6": {"differential": DifferentialConfig(subtract_at="gated", lambda_form="sigmoid")},
    "diff-s6, scans": {"differential": DifferentialConfig(subtract_at="scan", lambda_form="exp_dot", placement=(1,))},
    "diff-s6 over mamba1": {
        "mixer": "mamba1",
        "differential": DifferentialConfig(subtract_at="scan", lambda_form="one", normalisation="none"),
    },
    "head gate": {"differential": HEAD_GATE},
    "head gate over mamba1": {"mixer": "mamba1", "d_state": 4, "differential": HEAD_GATE},
    "toy": {"mixer": "toy"},
    "diff-toy": {"mixer": "toy", "differential": DifferentialConfig()},
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model after some steps of training on one batch, and its losses."""
    torch.manual_seed(0)
    model = HookedMamba(tiny_config(**request.param)).train()
    recipe: Recipe = tiny_recipe(tmp_path_factory.mktemp("data"), optimiser=OptimiserRecipe(lr=1e-2))
    step = EagerStep(model, make_optimiser(model, recipe.optimiser), recipe, ALONE)
    tokens = random_tokens(4, 17)
    batch = Batch(tokens.to(torch.uint16), torch.ones_like(tokens).to(torch.uint8))
    losses = [float(step(batch, 1e-2, RoleSums("cpu"))[0]) for _ in range(STEPS)]
    return model.eval().requires_grad_(False), losses


@pytest.fixture(scope="module")
def model(trained: Trained) -> HookedMamba:
    return trained[0]


def test_it_learns_a_batch_by_heart(trained: Trained) -> None:
    _, losses = trained
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.6 * losses[0]


def test_it_comes_back_from_a_folder_as_it_was(model: HookedMamba, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = HookedMamba.from_pretrained(tmp_path)
    assert_same_values(loaded, model)
    assert relative_error(loaded(random_tokens()), model(random_tokens())) < 1e-5
    assert loaded.cfg == model.cfg
    assert HookedMambaConfig.from_dict(model.cfg.to_dict()) == model.cfg


def test_every_hook_is_seen_and_its_own_value_changes_nothing(model: HookedMamba) -> None:
    tokens = random_tokens()
    logits, cache = model.run_with_cache(tokens, list(model.hook_points))
    assert set(cache) == set(model.hook_points)
    own = [(name, lambda value, name: cache[name].clone()) for name in model.hook_points]
    own = [(name, hook) for name, hook in own if not name.endswith(("hook_state", "hook_hidden_attention"))]
    assert relative_error(model.run_with_hooks(tokens, own), logits) < 1e-5


def test_it_reads_on_from_its_state_and_generates(model: HookedMamba) -> None:
    tokens = random_tokens(2, 6)
    continued = model.generate(tokens, 5)
    for length in range(6, 11):
        assert torch.equal(model(continued[:, :length])[:, -1].argmax(-1), continued[:, length])


@pytest.mark.parametrize("kind", ["hidden", "contribution", "contribution_norm"])
def test_its_attention_is_recorded_and_accounts_for_the_block(model: HookedMamba, kind: Any) -> None:
    tokens = random_tokens()
    for record in extract_attention(model, tokens, kind=kind, direction=3 if kind == "contribution" else None):
        assert record.net.shape[-2:] == (9, 9)
        assert float(record.net.abs().amax()) > 0
        if kind == "contribution":
            assert float(record.remainder.abs().max()) < 1e-4 * float(record.total.abs().max())
    attribution = residual_attribution(model, tokens, 3)
    assert torch.allclose(attribution.total, attribution.logit, atol=1e-4)


def test_a_lens_trains_on_it(model: HookedMamba) -> None:
    recipe = LensRecipe(steps=8, tokens_per_step=64, sequence_length=16, eval_tokens=64)
    batches = RandomTokenBatches(N_TOKENS, length=16, batch_size=recipe.sequences_per_step, seed=0)
    lens = TunedLens.from_model(model)
    steps = list(LensTraining(model, lens, batches, recipe).run())
    assert len(steps) == 8
    assert all(float(weight.abs().max()) > 0 for weight in lens.stacked()[0])


def test_needles_are_read_by_lenses_at_every_block(model: HookedMamba) -> None:
    samples = [sample_of(range(1, n), [(3,), (5, 7), (2, 9, 4)], answer=n % 2, seed=n) for n in (9, 14)]
    read = needle_trajectory(model, LogitLens.from_model(model), samples)
    assert np.isfinite(read.log_probs).all()
    assert read.log_probs.shape == (1, 2, model.cfg.n_layers + 1, 3)


def test_the_explorer_shows_its_attention(model: HookedMamba, tmp_path: Path, open_app: OpenApp) -> None:  # noqa: F811
    model.save_pretrained(tmp_path / "shown" / "variant")
    ids = " ".join(map(str, random_tokens(1, 9)[0].tolist()))
    app = open_app("attention", at_root=tmp_path / "shown", model="variant", ids=ids, block="1")
    record = extract_attention(model, random_tokens(1, 9), 1, reduce="mean")
    names = ("weights",) if model.cfg.differential is None or "minuend" not in record.pictures else ("minuend",)
    assert np.array_equal(drawn(app)["data"][0]["z"], record.to_numpy()[names[0]][0])


def test_the_explorer_lists_its_blocks(model: HookedMamba, tmp_path: Path, open_app: OpenApp) -> None:  # noqa: F811
    model.save_pretrained(tmp_path / "shown" / "variant")
    app = open_app("overview", at_root=tmp_path / "shown", model="variant")
    assert not app.exception
    assert not app.error
