"""The recipes that are shipped: they load, and say what their names promise."""

import dataclasses
from pathlib import Path

import pytest
import torch

from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.lens import LensRecipe
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.runs.settings import read_toml

NAMES = (
    *("demo_diff_mamba2", "demo_mamba2", "paper_a1_text8", "paper_a31_pg19", "paper_a32_babilong"),
    *("paper_a5_diff_mamba2_370m", "paper_a5_mamba2_370m"),
)


@pytest.fixture(scope="module")
def recipes(project_root: Path) -> dict[str, Recipe]:
    return {path.stem: read_toml(Recipe, path) for path in (project_root / "recipes").glob("*.toml")}


def n_parameters(cfg: HookedMambaConfig | None) -> int:
    assert cfg is not None
    with torch.device("meta"):
        model = HookedMamba(cfg)
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_recipe_is_known_here_and_loads(recipes: dict[str, Recipe]) -> None:
    assert set(recipes) >= set(NAMES)


@pytest.mark.parametrize(
    ("differential", "plain"),
    [("demo_diff_mamba2", "demo_mamba2"), ("paper_a5_diff_mamba2_370m", "paper_a5_mamba2_370m")],
)
def test_the_recipes_of_a_pair_differ_in_the_model_alone(
    recipes: dict[str, Recipe], differential: str, plain: str
) -> None:
    assert recipes[differential] != recipes[plain]
    assert dataclasses.replace(recipes[differential], model=recipes[plain].model) == recipes[plain]


def test_the_demo_pair_has_the_same_size_within_1_percent(recipes: dict[str, Recipe]) -> None:
    sizes = [n_parameters(recipes[name].model.config) for name in ("demo_diff_mamba2", "demo_mamba2")]
    assert max(sizes) / min(sizes) < 1.01
    assert 2 * max(sizes) < 8.3 * 2**20


@pytest.mark.parametrize(
    ("name", "millions"), [("paper_a5_diff_mamba2_370m", 375.51), ("paper_a5_mamba2_370m", 368.35)]
)
def test_the_370m_models_have_the_published_sizes_and_see_50_billion_tokens(
    recipes: dict[str, Recipe], name: str, millions: float
) -> None:
    recipe = recipes[name]
    assert n_parameters(recipe.model.config) / 1e6 == pytest.approx(millions, abs=0.01)
    assert recipe.steps * recipe.batch_size * recipe.data.length == pytest.approx(50e9, rel=1e-4)
    assert recipe.batch_size * recipe.data.length == 2**20
    assert (round(recipe.steps, -3), recipe.optimiser.warmup) == (48_000, 10_000)


def test_the_text8_model_has_two_blocks_for_each_published_layer(recipes: dict[str, Recipe]) -> None:
    recipe = recipes["paper_a1_text8"]
    assert recipe.model.config is not None
    assert recipe.model.config.n_layers == 2 * 12
    assert n_parameters(recipe.model.config) > 100e6
    assert recipe.steps * recipe.batch_size * recipe.data.length == 40 * 90_000_000
    plain, branch = (recipe.model.config.mixer_sizes(kind) for kind in ("plain", "differential"))
    assert (plain.n_heads, branch.n_heads, plain.d_head, branch.d_head) == (128, 64, 16, 16)
    assert recipe.optimiser.lr == 5e-5


def test_the_conversion_recipes_have_the_published_settings(recipes: dict[str, Recipe]) -> None:
    pg19, babilong = recipes["paper_a31_pg19"], recipes["paper_a32_babilong"]
    assert (pg19.model.placement, pg19.model.alignment) == ("quarter", "published")
    assert (pg19.steps, pg19.batch_size, pg19.optimiser.warmup) == (4000, 6 * 12 * 4, 400)
    assert pg19.batch_size // 4 // pg19.accumulation == 6
    assert (babilong.steps, babilong.batch_size, babilong.optimiser.warmup, babilong.loss) == (500, 6, 50, "answer")
    for recipe in (pg19, babilong):
        assert (recipe.optimiser.lr, recipe.optimiser.weight_decay, recipe.data.length) == (3e-4, 0.1, 2048)
        assert recipe.optimiser.floor == 0.0


def test_the_lens_recipes_of_the_370m_pair_differ_in_the_model_alone(project_root: Path) -> None:
    plain, differential = (
        read_toml(LensRecipe, project_root / "recipes" / "lenses" / f"{name}_370m.toml")
        for name in ("mamba2", "diff_mamba2")
    )
    assert dataclasses.replace(plain, model=differential.model) == differential != plain
    assert plain.steps is not None
    assert plain.tokens_per_step is not None
    assert (plain.steps, plain.tokens_per_step, plain.sequence_length) == (250, 2**18, 2048)
