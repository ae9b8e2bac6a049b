"""Our numbers are those of the published Diff-Mamba implementation, to float32 round-off."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffmamba_interp import HookedMamba
from diffmamba_interp.config import lambda_init
from tests.models.tiny import relative_error

TOLERANCE = 2e-5
PLACEMENTS = ("alternate", "all", "quarter")


@pytest.fixture(scope="module", params=PLACEMENTS)
def folder(request: pytest.FixtureRequest, published_models: Path) -> Path:
    return published_models / request.param


@torch.no_grad()
def test_every_published_value_is_ours(folder: Path) -> None:
    """Logits; of two placements the stream after every block, branch outputs, lambda and mixer outputs, too."""
    expected = load_file(folder / "expected.safetensors")
    model = HookedMamba.from_pretrained(folder)
    logits, cache = model.run_with_cache(expected.pop("input_ids"))
    kept = expected.pop("positions", slice(None))
    n_layers = model.cfg.n_layers
    streams = [cache[f"blocks.{block}.hook_resid_post"] for block in range(n_layers)]
    streams.append(model.ln_final(streams[-1]))
    ours = {"logits": logits} | {f"hidden_states.{at}": stream for at, stream in enumerate(streams)}
    for block in range(n_layers):
        ours[f"layers.{block}.mixer_out"] = cache[f"blocks.{block}.hook_mixer_out"]
        if model.cfg.block_kind(block) == "differential":
            ours[f"layers.{block}.lambda"] = cache[f"blocks.{block}.mixer.hook_lambda"].reshape(1)
            for branch in ("minuend", "subtrahend"):
                ours[f"layers.{block}.{branch}_out"] = cache[f"blocks.{block}.mixer.{branch}.hook_out"]
    ours = {
        name: value[:, kept] if name.startswith("hidden_states") or name.endswith("_out") else value
        for name, value in ours.items()
    }
    errors = {name: relative_error(ours[name], value) for name, value in expected.items()}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


@torch.no_grad()
def test_the_plain_side_of_the_published_conversion_gives_its_logits(fixtures_dir: Path, tmp_path: Path) -> None:
    """The converted side is the placement "quarter" of the other tests."""
    source = fixtures_dir / "published_conversion"
    shutil.copy(source / "config.json", tmp_path / "config.json")
    shutil.copy(source / "plain.safetensors", tmp_path / "model.safetensors")
    expected = load_file(source / "expected.safetensors")
    logits = HookedMamba.from_pretrained(tmp_path)(expected["input_ids"])
    assert relative_error(logits, expected["plain_logits"]) < TOLERANCE


@torch.no_grad()
def test_a_published_model_read_in_pieces_gives_the_published_logits(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    model, tokens = HookedMamba.from_pretrained(folder), expected["input_ids"]
    logits, state = model.forward_with_state(tokens[:, :11])
    rest, _ = model.forward_with_state(tokens[:, 11:], state)
    assert relative_error(torch.cat([logits, rest], dim=1), expected["logits"]) < TOLERANCE


@torch.no_grad()
def test_the_other_forms_of_the_scan_give_the_published_logits_too(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    model = HookedMamba.from_pretrained(folder)
    for costly in ("blocks.*.hook_state", "blocks.*.hook_hidden_attention"):
        logits = model.run_with_hooks(expected["input_ids"], [(costly, lambda value, name: None)])
        assert relative_error(logits, expected["logits"]) < TOLERANCE


def test_lambda_init_counts_blocks_of_the_whole_model(published_models: Path) -> None:
    model = HookedMamba.from_pretrained(published_models / "quarter")
    (block,) = model.cfg.differential_blocks
    assert block == model.cfg.n_layers - 1
    assert model.blocks[block].mixer.lambda_init == lambda_init(block)


@torch.no_grad()
def test_double_precision_agrees_with_the_published_float32(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    model = HookedMamba.from_pretrained(folder, dtype=torch.float64)
    logits = model(expected["input_ids"])
    assert logits.dtype == torch.float64
    assert relative_error(logits, expected["logits"].double()) < TOLERANCE
