"""Files that mean harm or were damaged: each is an error at once, which names the file and what is wrong in it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.models.checkpoint_fields import FORMATS
from diffmamba_interp.models.checkpoints import open_checkpoint
from tests.models.tiny import tiny_model

WRONG_VALUES = ([], {"a": 1}, "x", -1, 1e30, float("nan"), [1, 0], "\ud800")
NUMBERS = {"layer_norm_epsilon", "time_step_min", "time_step_max", "time_step_floor", "initializer_range", "norm_eps",
           "subnorm_eps", "dt_min", "dt_max", "dt_floor", "dt_init_floor", "mixer_rms_eps"}  # fmt: skip
"""Fields that may be as large as they like."""
MEANINGLESS = {"architectures", "fused_add_norm", "attn_cfg"}
SAID_OTHERWISE = {"model_type", "format", "ssm_cfg", "differential", "placement"}
"""Fields whose fault is said as what the model is, or of a field inside."""


def saved(folder: Path, format: Any) -> dict[str, Any]:
    differential = DifferentialConfig(placement=(0,)) if format in ("diff_mamba", "diffmamba_interp") else None
    changes: dict[str, Any] = {"dt_limit": (0.0, 1.0)}
    if format in ("hf_mamba", "hf_falcon_mamba"):
        changes = {"mixer": "mamba1", "scan_norm_eps": 1e-6 if format == "hf_falcon_mamba" else None}
    tiny_model(differential, **changes).save_pretrained(folder, format=format)
    return json.loads((folder / "config.json").read_text())


def places(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, *rest) for rest in places(value))


def with_value(raw: dict[str, Any], place: tuple[str, ...], value: object) -> dict[str, Any]:
    head, *rest = place
    return raw | {head: with_value(raw[head], tuple(rest), value) if rest else value}


def error_of(folder: Path) -> str | None:
    try:
        open_checkpoint(folder).require_complete()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("format", FORMATS)
def test_every_wrong_value_of_every_field_is_an_error_that_names_the_file_and_the_field(
    format: Any, tmp_path: Path
) -> None:
    raw, unnamed = saved(tmp_path, format), []
    for place in places(raw):
        for value in WRONG_VALUES:
            (tmp_path / "config.json").write_text(json.dumps(with_value(raw, place, value)))
            name, error = place[-1], error_of(tmp_path)
            harmless = (
                name in MEANINGLESS or (name in NUMBERS and value == 1e30) or (name, value) == ("attn_layer_idx", [])
            )
            if harmless:
                assert error is None, (place, value, error)
            elif error is None or str(tmp_path) not in error or (name not in error and name not in SAID_OTHERWISE):
                unnamed.append((place, value, error))
    assert unnamed == []


@pytest.mark.parametrize(
    ("format", "place"),
    [
        ("hf_mamba2", ("num_hidden_layers",)),
        ("diff_mamba", ("num_hidden_layers",)),
        ("state_spaces", ("n_layer",)),
        ("diffmamba_interp", ("model", "n_layers")),
    ],
)
@pytest.mark.parametrize("n_layers", [3, 100_000, 10**9])
def test_more_blocks_than_the_weights_have_are_an_error_before_any_is_made(
    format: Any, place: tuple[str, ...], n_layers: int, tmp_path: Path
) -> None:
    raw = saved(tmp_path, format)
    (tmp_path / "config.json").write_text(json.dumps(with_value(raw, place, n_layers)))
    start = time.perf_counter()
    message = f"{'.'.join(place)} is {n_layers}, but the weights hold tensors of 2 blocks"
    with pytest.raises(ValueError, match=message):
        HookedMamba.from_pretrained(tmp_path)
    assert time.perf_counter() - start < 5


def test_a_config_of_very_many_blocks_is_made_at_once() -> None:
    start = time.perf_counter()
    HookedMambaConfig(d_model=16, n_layers=200_000, d_vocab=8, d_head=8, differential=DifferentialConfig())
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' * 200_000, "nested too deeply"),
        ('{"architectures": 5}', "model of kind 5"),
        ('{"architectures": [5, null]}', "model of kind '5, None'"),
        ('{"architectures": {"a": 1}}', "model of kind"),
    ],
    ids=range(5),
)
def test_a_config_that_only_a_careless_reader_would_trip_over_is_an_error_with_the_file(
    text: str, message: str, tmp_path: Path
) -> None:
    saved(tmp_path, "hf_mamba2")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        HookedMamba.from_pretrained(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_byte_order_mark_before_a_config_is_passed_over(tmp_path: Path) -> None:
    saved(tmp_path, "hf_mamba2")
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text("\ufeff" + text, encoding="utf-8")
    HookedMamba.from_pretrained(tmp_path)


@pytest.mark.parametrize("field", ["d_state", "d_head", "d_conv", "n_groups", "expand", "d_vocab", "d_model"])
def test_sizes_that_no_memory_holds_are_an_error(field: str, tmp_path: Path) -> None:
    raw = saved(tmp_path, "diffmamba_interp")
    raw["model"][field] = 10**12
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=rf"config\.json: .*{field}"):
        HookedMamba.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_says_how_much_was_needed(error: Exception, tmp_path: Path) -> None:
    saved(tmp_path, "hf_mamba2")
    lacking = patch("diffmamba_interp.models.checkpoints._copies", side_effect=error)
    with (
        lacking,
        pytest.raises(MemoryError, match=r"the weights in .* take .* GiB in torch\.float32, more than there is"),
    ):
        HookedMamba.from_pretrained(tmp_path)


def test_any_other_error_of_torch_keeps_its_own_words(tmp_path: Path) -> None:
    saved(tmp_path, "hf_mamba2")
    broken = patch("diffmamba_interp.models.checkpoints._copies", side_effect=RuntimeError("something else"))
    with broken, pytest.raises(RuntimeError, match="something else"):
        HookedMamba.from_pretrained(tmp_path)


@pytest.mark.parametrize("format", ["hf_mamba2", "diffmamba_interp"])
def test_weights_without_a_tensor_are_said_to_be_empty(format: Any, tmp_path: Path) -> None:
    saved(tmp_path, format)
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="hold no tensor"):
        HookedMamba.from_pretrained(tmp_path)


@pytest.mark.parametrize("shape", [(), (0,), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("format", ["hf_mamba2", "diff_mamba", "diffmamba_interp"])
def test_a_tensor_of_any_strange_shape_is_named(format: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    saved(tmp_path, format)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in tensors:
        save_file(tensors | {name: torch.zeros(shape)}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError) as caught:
            HookedMamba.from_pretrained(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert name in str(caught.value) or "vocab" in str(caught.value) or name.rpartition(".")[2] in str(caught.value)
