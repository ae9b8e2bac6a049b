"""Activations under other tools' names, and as SAELens keeps them."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import Mamba2ForCausalLM, MambaForCausalLM

from diffmamba_interp import ActivationCache, DifferentialConfig, HookedMamba
from diffmamba_interp.interchange import cache_for_saelens, load_activations, name_table, save_activations
from tests.models.tiny import tiny_model

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def cached(model: HookedMamba, names: str | list[str] | None = None) -> ActivationCache:
    with torch.no_grad():
        return model.run_with_cache(TOKENS, names)[1]


def test_a_cache_comes_back_by_our_names_in_its_order_with_its_tokens(tmp_path: Path) -> None:
    cache = cached(tiny_model(DifferentialConfig()))
    save_activations(cache, tmp_path / "run.safetensors")
    back = load_activations(tmp_path / "run.safetensors")
    assert list(back) == list(cache)
    assert all(torch.equal(back[name], cache[name]) for name in cache)
    assert back.tokens is not None
    assert torch.equal(back.tokens, TOKENS)
    with safe_open(tmp_path / "run.safetensors", "pt") as file:
        assert set(file.keys()) == {*cache, "tokens"}


@pytest.mark.parametrize(("mixer", "theirs"), [("mamba2", Mamba2ForCausalLM), ("mamba1", MambaForCausalLM)])
def test_nnsights_names_are_the_modules_of_transformers_that_hold_the_value(
    tmp_path: Path, mixer: Any, theirs: Any
) -> None:
    model = tiny_model(mixer=mixer)
    model.save_pretrained(tmp_path, format="hf_mamba2" if mixer == "mamba2" else "hf_mamba")
    save_activations(cached(model), tmp_path / "run.safetensors")
    theirs = theirs.from_pretrained(tmp_path).eval()
    seen: dict[str, torch.Tensor] = {}
    names = [name for name in load_activations(tmp_path / "run.safetensors", names="nnsight") if "backbone." in name]
    assert len(names) == 1 + 6 * model.cfg.n_layers
    for name in names:
        module, _, end = name.rpartition(".")

        def keep(
            _module: object, args: tuple, kwargs: dict, out: torch.Tensor, name: str = name, end: str = end
        ) -> None:
            seen[name] = out if end == "output" else next(iter([*args, *kwargs.values()]))

        theirs.get_submodule(module).register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        theirs(TOKENS)
    cache = load_activations(tmp_path / "run.safetensors", names="nnsight")
    for name in names:
        assert torch.allclose(seen[name], cache[name], atol=2e-6), name


def test_what_another_tool_has_no_name_for_keeps_ours(tmp_path: Path) -> None:
    cache = cached(tiny_model(DifferentialConfig()))
    save_activations(cache, tmp_path / "run.safetensors")
    for terms in ("transformer_lens", "nnsight"):
        back = load_activations(tmp_path / "run.safetensors", names=terms)  # type: ignore[arg-type]
        assert len(back) == len(cache)
        assert torch.equal(back["blocks.0.mixer.hook_lambda"], cache["blocks.0.mixer.hook_lambda"])
    assert torch.equal(back["backbone.layers.1.output"], cache["blocks.1.hook_resid_post"])


def test_transformer_lens_names_are_ours_where_its_bridge_has_the_value() -> None:
    table = name_table(cached(tiny_model()))
    same = {name for name, there in table.items() if there["transformer_lens"] == name}
    assert {"hook_embed", "blocks.0.hook_resid_pre", "blocks.1.hook_mixer_out", "ln_final.hook_scale"} <= same
    assert table["blocks.1.mixer.hook_in_proj"]["transformer_lens"] == "blocks.1.mixer.in_proj.hook_out"
    gated = name_table(["blocks.0.mixer.hook_gated"])["blocks.0.mixer.hook_gated"]
    assert gated["transformer_lens"] == "blocks.0.mixer.out_proj.hook_in"
    # Its convolution is cut off elsewhere, so there is no such value.
    assert table["blocks.1.mixer.hook_conv"] == {"transformer_lens": None, "nnsight": None}


def test_files_of_another_kind_and_empty_caches_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no activations that save_activations wrote"):
        load_activations(tmp_path / "model.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:100])
    with pytest.raises(ValueError, match="is no safetensors file, or a damaged one"):
        load_activations(tmp_path / "half.safetensors")
    with pytest.raises(FileNotFoundError, match="give one that save_activations wrote"):
        load_activations(tmp_path / "nothing")
    with pytest.raises(ValueError, match="the cache is empty"):
        save_activations(ActivationCache({}), tmp_path / "x")


def test_saelens_finds_a_row_for_each_sequence_of_the_size_that_it_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, name = tiny_model(), "blocks.1.hook_resid_post"
    cache_for_saelens(model, TOKENS, name, tmp_path / "kept", batch_size=1)
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    kept = datasets.load_from_disk(tmp_path / "kept")
    assert kept.column_names == [name, "token_ids"]
    assert kept.features[name].shape == (TOKENS.shape[1], model.cfg.d_model)
    rows = kept.with_format("numpy")[:]
    assert np.array_equal(rows["token_ids"], TOKENS.numpy())
    assert np.allclose(rows[name], cached(model)[name].numpy(), atol=1e-6)


def test_saelens_is_given_vectors_per_position_in_a_folder_of_their_own(tmp_path: Path) -> None:
    model = tiny_model(DifferentialConfig())
    with pytest.raises(ValueError, match=r"one vector for each position, \[batch, pos, d\]"):
        cache_for_saelens(model, TOKENS, "blocks.0.mixer.hook_lambda", tmp_path / "kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(FileExistsError, match="give a new folder"):
        cache_for_saelens(model, TOKENS, "hook_embed", tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
