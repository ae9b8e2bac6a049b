"""The demo pair's lenses: found in every kind of installation, and made for exactly the models that are shipped."""

import hashlib
import inspect
import itertools
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from diffmamba_interp import load_demo
from diffmamba_interp.lens import JacobianLens, LensKind, TunedLens, demo_lens_folder, folders, load_demo_lens
from diffmamba_interp.lens.card import lens_sha256, measurement_table, read_metrics
from diffmamba_interp.lens.folders import read_description
from diffmamba_interp.models.demo import DEMO_FOLDER, DEMO_NAMES, DemoName, demo_folder

SAME_NATS = 0.01


of_every_lens = pytest.mark.parametrize(("name", "kind"), list(itertools.product(DEMO_NAMES, get_args(LensKind))))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_a_demo_lens_loads_over_its_model_and_changes_what_is_read(name: DemoName) -> None:
    model, _ = load_demo(name)
    lens = load_demo_lens(name, model)
    assert isinstance(lens, TunedLens)
    assert len(lens) == model.cfg.n_layers
    assert lens.unembed.weight.data_ptr() == model.unembed.weight.data_ptr()
    h = torch.randn(1, 3, model.cfg.d_model)
    assert not torch.allclose(lens(h, 0), lens.unembed(h))


def test_without_a_model_the_lens_brings_its_own() -> None:
    lens = load_demo_lens("mamba2")
    assert torch.equal(lens.unembed.weight, load_demo("mamba2")[0].unembed.weight)


def test_the_other_models_lens_is_refused() -> None:
    model, _ = load_demo("mamba2")
    with pytest.raises(ValueError, match="another unembedding"):
        load_demo_lens("diff-mamba2", model)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    # Without the type checks that tests switch on, which would refuse the name first.
    with pytest.raises(ValueError, match="no demo model 'mamba3': choose one of diff-mamba2, mamba2"):
        inspect.unwrap(demo_lens_folder)("mamba3")


def test_an_installed_copys_lens_is_taken_before_the_source_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (tmp_path / "installed" / "mamba2", tmp_path / "source" / "mamba2" / "pile"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
    monkeypatch.setattr(folders, "SOURCE_FOLDER", tmp_path / "source")
    monkeypatch.setattr(folders, "INSTALLED_FOLDER", tmp_path / "none")
    assert demo_lens_folder("mamba2") == tmp_path / "source" / "mamba2" / "pile"
    monkeypatch.setattr(folders, "INSTALLED_FOLDER", tmp_path / "installed")
    assert demo_lens_folder("mamba2") == tmp_path / "installed" / "mamba2"


def test_a_copy_without_lenses_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "SOURCE_FOLDER", tmp_path)
    monkeypatch.setattr(folders, "INSTALLED_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no lens of 'mamba2'.*train_lens --model mamba2"):
        demo_lens_folder("mamba2")
    with pytest.raises(FileNotFoundError, match=r"no jacobian lens of 'mamba2'.*--model mamba2 --kind jacobian"):
        demo_lens_folder("mamba2", "jacobian")


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_a_demo_jacobian_lens_has_a_matrix_for_every_stage(name: DemoName) -> None:
    model, _ = load_demo(name)
    lens = load_demo_lens(name, model, kind="jacobian")
    assert isinstance(lens, JacobianLens)
    assert lens.config.fitted == tuple(range(model.cfg.n_layers))
    # Behind ever fewer blocks the stream arrives ever more as it is.
    distances = [float((matrix - torch.eye(model.cfg.d_model)).norm()) for matrix in lens.jacobians]
    assert distances[0] > distances[1] > distances[-1] > 0.5
    # The numbers that int8 lost are a small part of what the prompts leave open.
    assert lens.config.relative_error is not None
    assert 0.001 < min(lens.config.relative_error) < max(lens.config.relative_error) < 0.05


@of_every_lens
def test_metrics_and_card_name_the_shipped_model_lens_and_tokenizer(name: DemoName, kind: LensKind) -> None:
    folder = demo_lens_folder(name, kind)
    measurement, provenance, _ = read_metrics(folder)
    assert provenance.model == name
    assert provenance.model_sha256 == sha256(demo_folder(name) / "model.safetensors")
    assert provenance.lens_sha256 == lens_sha256(folder)
    # The tokenizer's digest is the one that the lens was saved with; loading another tokenizer's lens is refused.
    assert provenance.tokenizer_sha256 == read_description(folder)["tokenizer_sha256"]
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    digests = (provenance.model_sha256, provenance.lens_sha256, provenance.tokenizer_sha256, provenance.data_sha256)
    assert all(f"`{digest}`" in card for digest in digests)
    assert "\n".join(measurement_table(measurement, kind)) in card


@of_every_lens
def test_the_lens_was_made_by_the_recipe_beside_it(name: DemoName, kind: LensKind, lenses_dir: Path) -> None:
    folder = lenses_dir / name / ("pile" if kind == "tuned" else kind)
    asked = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    # Made before there was a choice, when every text was split by hash.
    used: dict[str, Any] = {"split": "hash", **read_metrics(folder)[2]}
    assert asked == {field: used.get(field) for field in asked}


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_the_tuned_lens_is_nearer_to_the_output_in_every_stage_where_the_two_differ(name: DemoName) -> None:
    measurement, _, _ = read_metrics(demo_lens_folder(name))
    for stage in measurement.stages:
        same = max(stage.kl_nats.value, stage.logit_lens_kl_nats.value) < SAME_NATS
        assert same or stage.kl_saved_nats.low > 0, stage


def test_the_pair_shares_a_tokenizer_and_the_lenses_its_digest() -> None:
    folders = [demo_lens_folder(name, kind) for name in DEMO_NAMES for kind in get_args(LensKind)]
    (digest,) = {read_metrics(folder)[1].tokenizer_sha256 for folder in folders}
    from diffmamba_interp.text import load_tokenizer, tokenizer_hash

    assert digest == tokenizer_hash(load_tokenizer(DEMO_FOLDER / "tokenizer"))
