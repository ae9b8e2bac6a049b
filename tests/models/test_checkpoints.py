import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.models.checkpoint_fields import FORMATS
from diffmamba_interp.models.checkpoints import FLOAT32_PARAMETERS, key_table, open_checkpoint
from tests.models.tiny import COVERING_VARIANTS, assert_same, random_tokens, tiny_config, tiny_model, variant_id

PLAIN_FORMATS = ("diffmamba_interp", "hf_mamba2", "state_spaces")


# ------------------------------------------------------------------ round trips


@pytest.mark.parametrize("format", PLAIN_FORMATS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True, "n_groups": 2},
        {"dt_limit": (0.01, 0.2), "conv_bias": False, "proj_bias": True, "residual_in_fp32": False, "chunk_size": 32},
    ],
    ids=["usual", "tied", "unusual"],
)
def test_a_plain_model_comes_back_from_every_format_that_can_hold_it(
    format: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_model(**changes)
    model.save_pretrained(tmp_path, format=format)
    loaded = HookedMamba.from_pretrained(tmp_path)
    assert open_checkpoint(tmp_path).format == format
    assert loaded.cfg == model.cfg
    assert (loaded.unembed.weight is loaded.embed.weight) == model.cfg.tie_embeddings
    assert_same(loaded, model)


@pytest.mark.parametrize("format", ["diffmamba_interp", "diff_mamba"])
@pytest.mark.parametrize("placement", ["all", "alternate", "quarter", (1, 2)])
@pytest.mark.parametrize("head_division", ["d_head", "n_heads"])
@pytest.mark.parametrize("lambda_form", ["sigmoid_sum", "exp_dot"])
def test_a_differential_model_comes_back_from_both_formats(
    format: Any, placement: Any, head_division: Any, lambda_form: Any, tmp_path: Path
) -> None:
    differential = DifferentialConfig(placement=placement, head_division=head_division, lambda_form=lambda_form)
    model = tiny_model(differential, n_layers=4)
    model.save_pretrained(tmp_path, format=format)
    loaded = HookedMamba.from_pretrained(tmp_path)
    assert open_checkpoint(tmp_path).format == format
    assert loaded.cfg == model.cfg
    assert_same(loaded, model)


@pytest.mark.parametrize("differential", COVERING_VARIANTS, ids=variant_id)
def test_our_own_format_holds_every_model(differential: DifferentialConfig, tmp_path: Path) -> None:
    model = tiny_model(differential, tie_embeddings=True, d_vocab_padding=4, norm_eps=1e-3)
    model.save_pretrained(tmp_path)
    loaded = HookedMamba.from_pretrained(tmp_path)
    assert loaded.cfg == model.cfg
    assert_same(loaded, model)


@pytest.mark.parametrize("padding", [1, 2, 7])
def test_a_padded_vocabulary_keeps_its_padding_in_the_state_spaces_format(padding: int, tmp_path: Path) -> None:
    model = tiny_model(d_vocab=24, d_vocab_padding=padding, tie_embeddings=True)
    model.save_pretrained(tmp_path, format="state_spaces")
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["vocab_size"] == 24 - padding
    assert HookedMamba.from_pretrained(tmp_path).cfg == model.cfg


def test_a_format_without_vocabulary_padding_says_that_it_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(d_vocab_padding=3)
    with caplog.at_level(logging.WARNING, logger="diffmamba_interp"):
        model.save_pretrained(tmp_path)
        assert caplog.text == ""
        model.save_pretrained(tmp_path, format="hf_mamba2")
    assert "last 3 rows of the vocabulary are padding" in caplog.text
    assert HookedMamba.from_pretrained(tmp_path).cfg.d_vocab_padding == 0


def test_published_files_come_back_key_by_key(published_models: Path, tmp_path: Path) -> None:
    for placement in ("all", "alternate", "quarter"):
        source = published_models / placement
        HookedMamba.from_pretrained(source).save_pretrained(tmp_path, format="diff_mamba")
        given, written = load_file(source / "model.safetensors"), load_file(tmp_path / "model.safetensors")
        assert given.keys() == written.keys()
        assert all(torch.equal(given[name], written[name]) for name in given)


@pytest.mark.parametrize("format", FORMATS)
def test_the_key_table_is_one_to_one(format: Any) -> None:
    differential = DifferentialConfig(placement=(0,)) if format in ("diffmamba_interp", "diff_mamba") else None
    table = key_table(tiny_config(differential), format)
    assert len(set(table.values())) == len(table)


@pytest.mark.parametrize(
    ("format", "model", "message"),
    [
        ("hf_mamba2", lambda: tiny_model(DifferentialConfig()), "use 'diff_mamba'"),
        ("diff_mamba", lambda: tiny_model(), "use 'hf_mamba2'"),
        ("state_spaces", lambda: tiny_model(DifferentialConfig()), "cannot hold a differential model"),
        ("state_spaces", lambda: tiny_model(norm_eps=1e-6), "norm_eps"),
        ("state_spaces", lambda: tiny_model(d_vocab=23, d_vocab_padding=5), "no multiple pads 18 tokens to 23"),
        ("diff_mamba", lambda: tiny_model(DifferentialConfig(normalisation="pre")), "use 'diffmamba_interp'"),
        ("diff_mamba", lambda: tiny_model(DifferentialConfig(), expand=4), "use 'diffmamba_interp'"),
    ],
)
def test_a_format_refuses_what_it_cannot_express_and_writes_nothing(
    format: Any, model: Callable[[], HookedMamba], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        model().save_pretrained(tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match="state_spaces"):
        tiny_model().save_pretrained(tmp_path, format="gguf")  # type: ignore[arg-type]


# ------------------------------------------------------------------ loading


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_parameters_that_rounding_would_harm_stay_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    tiny_model(DifferentialConfig(placement=(0,))).save_pretrained(tmp_path)
    model = HookedMamba.from_pretrained(tmp_path, dtype=dtype)
    for name, parameter in model.named_parameters():
        sensitive = name.rpartition(".")[2] in FLOAT32_PARAMETERS
        assert parameter.dtype == (torch.promote_types(dtype, torch.float32) if sensitive else dtype), name
    with torch.no_grad():
        logits, exact = model(random_tokens()), HookedMamba.from_pretrained(tmp_path)(random_tokens())
    assert logits.dtype == torch.promote_types(dtype, torch.float32)
    assert float((logits - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_weights_are_not_integers(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights are floating-point"):
        HookedMamba.from_pretrained(tmp_path, dtype=torch.int8)


def test_a_model_loads_in_evaluation_mode_with_trainable_parameters(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    model = HookedMamba.from_pretrained(tmp_path)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_shards_come_together_and_are_replaced_by_a_later_whole_file(tmp_path: Path) -> None:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    model.save_pretrained(tmp_path, max_shard_size=4000)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    assert_same(HookedMamba.from_pretrained(tmp_path), model)
    other = tiny_model(DifferentialConfig(placement=(0,)), seed=5)
    other.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(HookedMamba.from_pretrained(tmp_path), other)


@pytest.mark.parametrize("format", PLAIN_FORMATS)
def test_saving_over_the_files_a_model_was_loaded_from_corrupts_neither(format: Any, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format=format)
    model = HookedMamba.from_pretrained(tmp_path)
    twin = HookedMamba.from_pretrained(tmp_path)
    with torch.no_grad():
        model.embed.weight.add_(1.0)
    model.save_pretrained(tmp_path, format=format)
    assert_same(HookedMamba.from_pretrained(tmp_path), model)
    with torch.no_grad():
        twin.embed.weight.add_(1.0)
    assert_same(twin, model)


def test_saving_in_another_format_leaves_no_second_model_and_no_file_of_the_users_is_lost(tmp_path: Path) -> None:
    (tmp_path / "model_notes.safetensors").write_bytes(b"mine")
    (tmp_path / "models.safetensors").write_bytes(b"mine too")
    model = tiny_model()
    for format in ("state_spaces", "hf_mamba2", "state_spaces"):
        model.save_pretrained(tmp_path, format=format)  # type: ignore[arg-type]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model_notes.safetensors", "models.safetensors", "config.json", "pytorch_model.bin"}


def test_a_failed_save_leaves_the_earlier_one(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = tiny_model(seed=9)
    full = patch("diffmamba_interp.models.checkpoints.write_weights", side_effect=OSError("no space"))
    with full, pytest.raises(OSError, match="no space"):
        other.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_into_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="give a folder"):
        tiny_model().save_pretrained(tmp_path / "file")


def test_saved_files_are_as_readable_as_others(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    (tmp_path / "plain").write_text("")
    usual = (tmp_path / "plain").stat().st_mode & 0o777
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {usual}


def test_a_pickle_of_the_older_kind_loads_too(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, format="state_spaces")
    tensors = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(HookedMamba.from_pretrained(tmp_path), model)
