"""A small model with weights large enough that its predictions, and a lens' errors, are far from uniform."""

from pathlib import Path

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.lens import LensRecipe, TunedLens
from diffmamba_interp.text.batches import random_tokens


@pytest.fixture(scope="session")
def small_model_folder(fixtures_dir: Path) -> Path:
    return fixtures_dir / "published_diffmamba2" / "alternate"


@pytest.fixture
def model(small_model_folder: Path) -> HookedMamba:
    return HookedMamba.from_pretrained(small_model_folder).requires_grad_(False)


@pytest.fixture
def tiny_model() -> HookedMamba:
    """Two blocks of random weights, one plain and one differential, with predictions far from uniform."""
    torch.manual_seed(0)
    cfg = HookedMambaConfig(
        d_model=32, n_layers=2, d_vocab=40, d_state=8, d_head=16, differential=DifferentialConfig(placement=(1,))
    )
    made = HookedMamba(cfg).requires_grad_(False)
    made.embed.weight.normal_()
    made.unembed.weight.normal_(std=0.5)
    return made


@pytest.fixture
def lens(model: HookedMamba) -> TunedLens:
    """A lens with random, small, non-zero translators."""
    made = TunedLens.from_model(model, name="small")
    weight, bias = made.stacked()
    generator = torch.Generator().manual_seed(1)
    made.load_stacked(
        0.05 * torch.randn(weight.shape, generator=generator), 0.05 * torch.randn(bias.shape, generator=generator)
    )
    return made


@pytest.fixture
def tokens(model: HookedMamba) -> torch.Tensor:
    return random_tokens(model.cfg.d_vocab, (3, 12), seed=5)


@pytest.fixture
def recipe() -> LensRecipe:
    """Four steps of four sequences of 16 tokens."""
    return LensRecipe(steps=4, tokens_per_step=64, sequence_length=16, eval_tokens=64)


@pytest.fixture(scope="session")
def lenses_dir() -> Path:
    return Path(__file__).parents[2] / "lenses"
