"""dtype, device and impl of `from_pretrained`: taken where their meaning is plain, refused where they are written."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffmamba_interp import HookedMamba, HookedMambaConfig, inspect_checkpoint
from tests.models.tiny import assert_same, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("bfloat16", torch.bfloat16),
        ("torch.bfloat16", torch.bfloat16),
        ("bf16", torch.bfloat16),
        ("float16", torch.float16),
        ("half", torch.float16),
        ("float32", torch.float32),
        ("Float64", torch.float64),
        (torch.float64, torch.float64),
        (None, torch.float32),
        ("auto", torch.float32),
    ],
)
def test_a_dtype_may_be_given_by_its_name(dtype: Any, expected: torch.dtype, folder: Path) -> None:
    assert HookedMamba.from_pretrained(folder, dtype=dtype).embed.weight.dtype == expected


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("format", ["diffmamba_interp", "state_spaces"])
def test_the_dtype_auto_is_the_one_in_which_the_weights_are_stored(
    stored: torch.dtype, format: Any, folder: Path, tmp_path: Path
) -> None:
    HookedMamba.from_pretrained(folder, dtype=stored).save_pretrained(tmp_path, format=format)
    model = HookedMamba.from_pretrained(tmp_path, dtype="auto")
    assert model.embed.weight.dtype == stored
    assert model.blocks[0].mixer.A_log.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "", "f99", torch.int8, torch.complex64, torch.float8_e5m2])
def test_a_dtype_that_weights_cannot_have_is_refused_with_those_they_can(dtype: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^dtype is .*: weights are floating-point: float32, bfloat16, .*'auto'"):
        HookedMamba.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["cpu", "CPU", None, torch.device("cpu"), "cpu:0"])
def test_a_device_may_be_given_in_plain_words(device: Any, folder: Path) -> None:
    assert_same(HookedMamba.from_pretrained(folder, device=device), HookedMamba.from_pretrained(folder))


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
@pytest.mark.parametrize("device", ["gpu", "cuda", "gpu:1", "cuda:7", 0])
def test_a_gpu_that_is_not_there_is_said_before_anything_is_read(device: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^device is .*, but torch sees no GPUs? here: use 'cpu'"):
        HookedMamba.from_pretrained(tmp_path, device=device)


@pytest.mark.parametrize("device", ["", "graphics", "cpu:x", "gpu:x", -5])
def test_what_is_no_device_is_refused(device: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="^device is"):
        HookedMamba.from_pretrained(folder, device=device)


def test_the_meta_device_holds_no_values(folder: Path) -> None:
    with pytest.raises(ValueError, match="^device is 'meta', which holds no values"):
        HookedMamba.from_pretrained(folder, device="meta")


@pytest.mark.parametrize("impl", ["x", "", "Fused"])
def test_what_is_no_implementation_is_refused_when_it_is_written(impl: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^impl is .*: it must be 'auto', 'fused' or 'reference'"):
        HookedMamba.from_pretrained(folder, impl=impl)


@pytest.mark.parametrize("path", [None, 5, 1.5, [], b"model"])
def test_what_is_no_path_is_refused_by_its_name(path: Any) -> None:
    refused = pytest.raises(TypeError, match="path")
    with refused:
        HookedMamba.from_pretrained(path)
    with refused:
        inspect_checkpoint(path)
    with refused:
        tiny_model().save_pretrained(path)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_an_empty_path_is_not_the_current_folder(path: str) -> None:
    for use in (HookedMamba.from_pretrained, inspect_checkpoint, tiny_model().save_pretrained):
        with pytest.raises(ValueError, match="^path is"):
            use(path)


@pytest.mark.parametrize("revision", ["", 5])
def test_what_is_no_revision_is_refused_by_its_name(revision: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="revision"):
        HookedMamba.from_pretrained("someone/model", revision=revision)


@pytest.mark.parametrize("size", [None, -1, 0, "x", "5XB", [], True])
def test_what_is_no_size_of_a_shard_is_refused_before_anything_is_written(size: Any, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match="max_shard_size"):
        tiny_model().save_pretrained(tmp_path / "out", max_shard_size=size)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["", "x", "meta"])
def test_a_checkpoint_is_inspected_for_a_device_that_there_is(device: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="^device is"):
        inspect_checkpoint(folder, device=device)
    assert inspect_checkpoint(folder, device="gpu").scan


@pytest.mark.parametrize("field", ["differential", "placement", "dt_limit"])
def test_a_config_of_the_wrong_kind_of_values_names_the_field(field: str) -> None:
    values = {"d_model": 16, "n_layers": 1, "d_vocab": 8, "d_head": 8}
    wrong: dict[str, Any] = {"differential": {"placement": 5}} if field == "placement" else {field: 5}
    with pytest.raises((ValueError, TypeError), match=field):
        HookedMambaConfig.from_dict(values | wrong)
