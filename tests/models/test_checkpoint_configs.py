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
from tests.models.tiny import assert_same, assert_same_values, tiny_config, tiny_model


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
        {"hidden_size": 32, "num_heads": 4},
        {"hidden_act": "gelu"},
        {"rms_norm": False},
        {"state_size": 8},
        {"vocab_size": 96},
        {"conv_kernel": 3},
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


@pytest.mark.parametrize(
    "fields",
    [
        {"num_heads": 4},
        {"num_heads": 128, "head_dim": 64},
        {"head_dim": 64},
        {"expand": 4, "num_heads": 16},
        {"n_groups": 8},
        {"n_groups": 2},
        {"n_groups": 3},
    ],
    ids=str,
)
def test_sizes_that_only_divide_the_tensors_are_the_tensors_where_the_config_is_wrong(
    fields: dict[str, Any], tmp_path: Path, published_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = published(tmp_path, published_models, "alternate", **fields)
    with caplog.at_level(logging.WARNING, logger="diffmamba_interp"):
        model = HookedMamba.from_pretrained(folder)
    assert_same_values(model, HookedMamba.from_pretrained(published_models / "alternate"))
    assert next(iter(fields)) in caplog.text


SIZES = (
    *("vocab_size", "hidden_size", "state_size", "num_hidden_layers", "conv_kernel", "expand", "use_bias"),
    *("use_conv_bias", "n_groups", "num_heads", "head_dim"),
)


@pytest.mark.parametrize("silent", [*((name,) for name in SIZES), ("num_heads", "head_dim"), ("n_groups", "expand")])
@pytest.mark.parametrize("value", ["absent", "null"])
def test_sizes_on_which_the_config_is_silent_are_the_tensors(
    silent: tuple[str, ...], value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(n_groups=2, expand=1, d_conv=3, proj_bias=True, conv_bias=False)
    model.save_pretrained(tmp_path, format="hf_mamba2")
    raw = json.loads((tmp_path / "config.json").read_text())
    raw |= dict.fromkeys(silent)
    kept = {name: item for name, item in raw.items() if value == "null" or item is not None}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    with caplog.at_level(logging.WARNING, logger="diffmamba_interp"):
        assert_same(HookedMamba.from_pretrained(tmp_path), model)
    assert caplog.text == ""


def test_groups_and_states_that_could_be_read_in_two_ways_are_an_error_that_names_both(tmp_path: Path) -> None:
    """B and C have n_groups x state_size channels: 2 x 4 of them may be 1 x 8, and nothing in the weights tells."""
    tiny_model(n_groups=2).save_pretrained(tmp_path, format="hf_mamba2")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"n_groups": 1}))
    with pytest.raises(ValueError, match="n_groups 2 with state_size 4 or n_groups 1 with state_size 8"):
        HookedMamba.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw | {"n_groups": None, "state_size": None}))
    with pytest.raises(ValueError, match="n_groups and state_size are missing, .* only their product, 8"):
        HookedMamba.from_pretrained(tmp_path)


def test_a_lone_unembedding_that_the_config_does_not_tie_is_refused_with_what_to_say(tmp_path: Path) -> None:
    model = tiny_model(tie_embeddings=True)
    model.save_pretrained(tmp_path, format="hf_mamba2")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("backbone.embeddings.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": None}))
    with pytest.raises(ValueError, match="Only the unembedding is stored.*tie_word_embeddings"):
        HookedMamba.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert_same(HookedMamba.from_pretrained(tmp_path), model)


@pytest.mark.parametrize(
    "ssm", [{"ngroups": None}, {"ngroups": 3}, {"d_state": None}, {"headdim": 64}, {"expand": None, "headdim": None}]
)
def test_a_state_spaces_config_is_completed_from_the_tensors_too(ssm: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(n_groups=2, expand=4)
    model.save_pretrained(tmp_path, format="state_spaces")
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["ssm_cfg"] = {name: value for name, value in (raw["ssm_cfg"] | ssm).items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert_same(HookedMamba.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("ssm", [{"activation": "silu"}, {"activation": "swish"}, {"d_ssm": 32}])
def test_what_mamba_ssm_says_of_a_plain_mixer_in_other_words_is_accepted(ssm: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, format="state_spaces")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"ssm_cfg": raw["ssm_cfg"] | ssm}))
    assert_same(HookedMamba.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("ssm", [{"activation": "gelu"}, {"d_ssm": 16}, {"D_has_hdim": True}, {"rmsnorm": False}])
def test_what_mamba_ssm_has_and_is_no_plain_mixer_is_refused_by_name(ssm: dict[str, Any], tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="state_spaces")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"ssm_cfg": raw["ssm_cfg"] | ssm}))
    (name,) = ssm
    with pytest.raises(ValueError, match=f"config.json: .*ssm_cfg.{name}="):
        HookedMamba.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("format", "fields", "named"),
    [
        ("hf_mamba2", {"sliding_window": 3, "hidden_dropout": 0.1}, "sliding_window, hidden_dropout"),
        ("state_spaces", {"mystery": 1}, "mystery"),
        ("state_spaces", {"ssm_cfg": {"layer": "Mamba2", "d_state": 4, "headdim": 8, "chunk": 3}}, "ssm_cfg.chunk"),
    ],
)
def test_a_config_field_that_the_loader_does_not_know_is_a_warning_that_names_it(
    format: Any, fields: dict[str, Any], named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, format=format)
    with caplog.at_level(logging.WARNING, logger="diffmamba_interp"):
        HookedMamba.from_pretrained(tmp_path)
        assert caplog.text == ""
        raw = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(raw | fields))
        assert_same(HookedMamba.from_pretrained(tmp_path), model)
    assert f"does not know, so they change nothing here: {named}." in caplog.text


def test_an_unknown_field_of_our_own_format_is_an_error(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["model"]["mystery"] = 1
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"config\.json: unknown keys: model\.mystery"):
        HookedMamba.from_pretrained(tmp_path)


def test_escapes_in_the_names_of_unknown_fields_do_not_reach_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"\x1b[31mred": 1}))
    with caplog.at_level(logging.WARNING, logger="diffmamba_interp"):
        HookedMamba.from_pretrained(tmp_path)
    assert "\\x1b[31mred" in caplog.text
    assert "\x1b" not in caplog.text
