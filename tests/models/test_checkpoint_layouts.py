"""Names below wrappers, pickles with more than tensors, other libraries' folders. The families that load are in
`tests/equivalence/checkpoint_families.py`."""

import argparse
import collections
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.models.checkpoints import open_checkpoint
from tests.models.tiny import assert_same, tiny_model


def rename(folder: Path, new_name: Callable[[str], str]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({new_name(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_forward_module.module.", "model.", "net.model."]
)
@pytest.mark.parametrize("format", ["diffmamba_interp", "diff_mamba"])
def test_what_a_wrapper_puts_before_every_name_is_passed_over(prefix: str, format: Any, tmp_path: Path) -> None:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    model.save_pretrained(tmp_path, format=format)
    rename(tmp_path, lambda name: prefix + name)
    assert_same(HookedMamba.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_a_wrapper_of_each_block_is_passed_over_too(wrapper: str, tmp_path: Path) -> None:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    model.save_pretrained(tmp_path, format="diff_mamba")
    rename(tmp_path, lambda name: name.replace(".mixer", f".{wrapper}.mixer"))
    assert_same(HookedMamba.from_pretrained(tmp_path), model)


def test_a_prefix_that_only_some_names_have_is_no_wrapper(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2")
    tensors = load_file(tmp_path / "model.safetensors")
    both = {f"{who}.{name}": tensor.clone() for who in ("teacher", "student") for name, tensor in tensors.items()}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"student|none"):
        HookedMamba.from_pretrained(tmp_path)


def test_two_models_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2")
    tensors = load_file(tmp_path / "model.safetensors")
    wrapped = {f"module.{name}": tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors | wrapped, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the weights of two models lie in one file"):
        HookedMamba.from_pretrained(tmp_path)


def test_the_layout_of_a_translated_checkpoint_is_said(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2")
    assert open_checkpoint(tmp_path).layout == ""
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["norm_eps"] = raw.pop("layer_norm_epsilon")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert open_checkpoint(tmp_path).layout == "flash-linear-attention"


@pytest.mark.parametrize(
    ("fields", "eps", "limit"),
    [
        ({"norm_eps": 1e-6}, 1e-6, (0.0, float("inf"))),
        ({"norm_eps": 1e-2, "dt_limit": [0.0, 0.05]}, 1e-2, (0.0, 0.05)),
        ({"fuse_norm": False, "layer_norm_epsilon": 1e-3}, 1e-3, (0.0, float("inf"))),
        ({"norm_eps": 1e-4, "layer_norm_epsilon": 1e-4, "dt_limit": [0.01, float("inf")]}, 1e-4, (0.01, float("inf"))),
    ],
    ids=str,
)
def test_the_fields_of_flash_linear_attention_are_read(
    fields: dict[str, Any], eps: float, limit: tuple[float, float], tmp_path: Path
) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2")
    raw = json.loads((tmp_path / "config.json").read_text())
    raw.pop("layer_norm_epsilon")
    (tmp_path / "config.json").write_text(json.dumps(raw | fields))
    cfg = open_checkpoint(tmp_path).cfg
    assert (cfg.norm_eps, cfg.dt_limit) == (eps, limit)


def test_two_spellings_of_a_field_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"norm_eps": 1e-6}))
    with pytest.raises(ValueError, match=r"norm_eps is 1e-06, but layer_norm_epsilon, .* is 1e-05"):
        HookedMamba.from_pretrained(tmp_path)


def test_a_norm_before_the_gate_that_transformers_ignores_decides_nothing(tmp_path: Path) -> None:
    """Codestral's config says it, and its weights are those of a norm after the gate."""
    model = tiny_model()
    model.save_pretrained(tmp_path, format="hf_mamba2")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"norm_before_gate": True}))
    assert_same(HookedMamba.from_pretrained(tmp_path), model)


# ------------------------------------------------------------------ pickles of Megatron


class Unknown:
    """Of a library that is not on the list."""


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


def megatron_file(folder: Path, **content: Any) -> Path:
    model = collections.OrderedDict({"embedding.word_embeddings.weight": torch.zeros(4, 4)})
    file = folder / "mp_rank_00" / "model_optim_rng.pt"
    file.parent.mkdir()
    torch.save({"model": model, "args": argparse.Namespace(num_layers=1), **content}, file)
    return file


@pytest.mark.parametrize("extra", [Unknown(), Malicious()])
def test_a_megatron_file_with_other_classes_is_refused_by_their_name_and_runs_nothing(
    extra: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(torch.serialization.get_safe_globals())
    file = megatron_file(tmp_path, extra=extra)
    with pytest.raises(ValueError, match=r"model_optim_rng\.pt .*it holds an object of .*(Unknown|system)") as caught:
        HookedMamba.from_pretrained(tmp_path)
    assert str(file) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "convert" in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": None, "model0": {}, "model1": {}}, "holds no 'model'"),
        ({"model": {"a": "text"}}, "dictionary of tensors"),
        ({"args": argparse.Namespace(normalization="LayerNorm")}, "normalization='LayerNorm'"),
        ({"args": argparse.Namespace(apply_layernorm_1p=True)}, "apply_layernorm_1p=True"),
        ({"args": argparse.Namespace(norm_epsilon=1e-6)}, "norm_epsilon=1e-06"),
        ({"args": argparse.Namespace(mamba_num_groups="x")}, "args.mamba_num_groups is 'x'"),
        ({"args": argparse.Namespace(tensor_model_parallel_size=2)}, "tensor_model_parallel_size=2"),
        ({}, "the weights hold tensors of none|missing"),
    ],
    ids=str,
)
def test_a_megatron_model_that_is_no_plain_mamba2_is_refused(
    content: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = megatron_file(tmp_path, **content)
    with pytest.raises(ValueError, match=message) as caught:
        HookedMamba.from_pretrained(tmp_path)
    assert file.name in str(caught.value) or str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("names", [["iter_0000100", "iter_0000200"], ["iter_0000100", "release"]])
def test_the_newest_iteration_of_a_megatron_run_is_the_one_that_is_read(names: list[str], tmp_path: Path) -> None:
    for at, name in enumerate(names):
        (tmp_path / name).mkdir()
        megatron_file(tmp_path / name, args=argparse.Namespace(normalization=f"norm {at}"))
    with pytest.raises(ValueError, match="normalization='norm 1'"):
        HookedMamba.from_pretrained(tmp_path)


def test_the_refusal_of_a_pickle_does_not_repeat_the_advice_to_run_it(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="state_spaces")
    for content in ({"a": Unknown()}, {"a": Malicious()}, argparse.Namespace(a=1)):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"holds an object of .*It was not unpickled") as caught:
            HookedMamba.from_pretrained(tmp_path)
        assert "weights_only" not in str(caught.value)


# ------------------------------------------------------------------ folders of other libraries


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("name", "advice"),
    [("m.gguf", "llama.cpp"), ("m.nemo", "NeMo"), ("flax_model.msgpack", "Flax"), ("m.h5", "Tensor")],
)
def test_files_of_other_libraries_are_named_as_such(name: str, advice: str, with_config: bool, tmp_path: Path) -> None:
    if with_config:
        tiny_model().save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=advice):
        HookedMamba.from_pretrained(tmp_path)


def test_lora_parts_in_the_weights_are_named_as_an_adapter(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2")
    tensors = load_file(tmp_path / "model.safetensors")
    name = "backbone.layers.0.mixer.in_proj"
    parts = {f"{name}.base_layer.weight": tensors.pop(f"{name}.weight"), f"{name}.lora_A.default.weight": torch.ones(1)}
    save_file({f"base_model.model.{name}": value for name, value in (tensors | parts).items()},
              tmp_path / "model.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match="adapter that was not merged"):
        HookedMamba.from_pretrained(tmp_path)


@pytest.mark.parametrize("vendor", ["consolidated.safetensors", "consolidated-00001-of-00002.safetensors"])
def test_a_vendors_own_copy_beside_the_weights_is_not_read(vendor: str, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, format="hf_mamba2", max_shard_size=4000)
    save_file({"model.stray": torch.zeros(1)}, tmp_path / vendor)
    assert_same(HookedMamba.from_pretrained(tmp_path), model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 10**9}, "dim is 1000000000, but the weights are those of 16"),
        ({"dim": "x"}, "dim is 'x': it must be a whole number"),
        ({"n_layers": 100_000}, "n_layers is 100000, but the weights hold tensors of 2 blocks"),
        ({"n_groups": []}, r"n_groups is \[\]"),
        ({"rms_norm": False}, "rms_norm=False"),
        ({"model_type": "transformer"}, "a Mistral model of kind 'transformer'"),
    ],
    ids=str,
)
def test_a_fault_in_mistrals_params_is_named_by_its_own_field(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = tiny_model(n_groups=2)
    model.save_pretrained(tmp_path, format="hf_mamba2")
    tensors = load_file(tmp_path / "model.safetensors")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).unlink()
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "consolidated.safetensors")
    params = {"dim": 16, "n_layers": 2, "vocab_size": 23, "n_groups": 2, "model_type": "mamba"}
    (tmp_path / "params.json").write_text(json.dumps(params))
    assert_same(HookedMamba.from_pretrained(tmp_path), model)
    (tmp_path / "params.json").write_text(json.dumps(params | fields))
    with pytest.raises(ValueError, match=message) as caught:
        HookedMamba.from_pretrained(tmp_path)
    assert str(tmp_path / "params.json") in str(caught.value)
