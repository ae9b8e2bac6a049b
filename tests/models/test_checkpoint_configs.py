import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from diffmamba_interp import HookedMamba
from diffmamba_interp.models.checkpoint_configs import read_config, write_config
from diffmamba_interp.models.checkpoints import open_checkpoint
from tests.models.tiny import assert_same, tiny_config, tiny_model


def published(tmp_path: Path, published_models: Path, placement: str, **fields: Any) -> Path:
    """The published fixture with other config fields; None removes one."""
    source = published_models / placement
    raw = json.loads((source / "config.json").read_text()) | fields
    (tmp_path / "config.json").write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))
    os.link(source / "model.safetensors", tmp_path / "model.safetensors")
    return tmp_path


def test_a_silent_config_is_overruled_by_the_weights_with_a_warning(
    tmp_path: Path, published_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = published(tmp_path, published_models, "alternate", diffmamba=None, diffmamba_settings=None)
    with caplog.at_level(logging.WARNING, logger="diffmamba_interp"):
        model = HookedMamba.from_pretrained(folder)
    assert model.cfg.differential_blocks == (0, 2)
    assert "does not say that the model is differential" in caplog.text
    caplog.clear()
    HookedMamba.from_pretrained(published_models / "alternate")
    assert caplog.text == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"diffmamba": False},
        {"diffmamba_settings": "all"},
        {"diffmamba_settings": 2},
        {"diffmamba_settings": [0, 1]},
        {"diffmamba_settings": "half"},
        {"num_hidden_layers": 2},
        {"num_heads": 4},
        {"hidden_size": 32, "num_heads": 4},
        {"hidden_act": "gelu"},
        {"rms_norm": False},
        {"state_size": 8},
        {"vocab_size": 96},
        {"conv_kernel": 3},
        {"n_groups": 2},
        {"use_bias": True},
        {"use_conv_bias": False},
        {"tie_word_embeddings": True},
        {"expand": "2"},
        {"head_dim": 0},
        {"time_step_limit": [0.0]},
        {"time_step_limit": 3},
        {"layer_norm_epsilon": "tiny"},
    ],
    ids=str,
)
def test_a_config_that_contradicts_the_weights_or_itself_is_an_error(
    fields: dict[str, Any], tmp_path: Path, published_models: Path
) -> None:
    with pytest.raises(ValueError):
        HookedMamba.from_pretrained(published(tmp_path, published_models, "alternate", **fields))


@pytest.mark.parametrize(
    ("placement", "setting"), [("quarter", 1), ("quarter", "1"), ("all", 4), ("all", 9), ("alternate", [0, 2])]
)
def test_a_number_as_setting_counts_the_last_blocks_and_a_list_names_them(
    placement: str, setting: object, tmp_path: Path, published_models: Path
) -> None:
    folder = published(tmp_path, published_models, placement, diffmamba_settings=setting)
    expected = open_checkpoint(published_models / placement).cfg
    assert open_checkpoint(folder).cfg == expected


def test_a_differential_config_over_plain_weights_is_an_error(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"diffmamba": True, "diffmamba_settings": "alternate"}))
    with pytest.raises(ValueError, match=r"blocks \[0\] differential, but the weights make it blocks \[\]"):
        HookedMamba.from_pretrained(tmp_path)


def test_every_stored_field_of_a_config_is_read_back() -> None:
    unusual = tiny_config(
        dt_limit=(0.01, 0.2), norm_eps=1e-3, n_groups=2, expand=4, d_conv=3, proj_bias=True, conv_bias=False,
        tie_embeddings=True, residual_in_fp32=False, chunk_size=32, dt_min=0.01, dt_max=0.2, dt_floor=1e-3,
        initializer_range=0.5,
    )  # fmt: skip
    assert read_config(write_config(unusual, "hf_mamba2"), "hf_mamba2", {}) == unusual


def test_a_real_state_spaces_config_is_understood(tmp_path: Path) -> None:
    """The fields of the published 370M Mamba-2, at a tiny size."""
    raw = {
        "d_model": 16, "d_intermediate": 0, "n_layer": 2, "vocab_size": 20,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 4, "headdim": 8}, "attn_layer_idx": [], "attn_cfg": {},
        "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    }  # fmt: skip
    model = tiny_model(d_vocab=32, tie_embeddings=True)
    model.save_pretrained(tmp_path, format="state_spaces")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    loaded = HookedMamba.from_pretrained(tmp_path)
    assert (loaded.cfg.d_vocab, loaded.cfg.d_vocab_padding, loaded.cfg.tie_embeddings) == (32, 12, True)
    assert_same(loaded, model)


def test_a_tied_checkpoint_may_leave_out_its_copy_of_the_embedding(tmp_path: Path) -> None:
    model = tiny_model(tie_embeddings=True)
    model.save_pretrained(tmp_path, format="hf_mamba2")
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    save_file(
        {**tensors, "lm_head.weight": tensors["backbone.embeddings.weight"].clone()}, tmp_path / "model.safetensors"
    )
    assert_same(HookedMamba.from_pretrained(tmp_path), model)
    save_file({**tensors, "lm_head.weight": tensors["backbone.embeddings.weight"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="two different matrices"):
        HookedMamba.from_pretrained(tmp_path)


def test_the_embedding_may_have_either_published_name(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, format="hf_mamba2")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same(HookedMamba.from_pretrained(tmp_path), model)
