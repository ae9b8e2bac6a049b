import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.config import lambda_init
from diffmamba_interp.models.inspection import inspect_checkpoint, is_saturated
from tests.models.tiny import tiny_model


@torch.no_grad()
def test_a_report_tells_what_loading_would_give(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "published_diffmamba2" / "alternate"
    report, model = inspect_checkpoint(folder), HookedMamba.from_pretrained(folder)
    assert report.loads
    assert (report.format, report.dtypes) == ("diff_mamba", ("F32",))
    assert report.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    for block, line in zip(model.blocks, report.blocks, strict=True):
        assert line.kind == block.kind
        assert line.n_parameters == sum(parameter.numel() for parameter in block.parameters())
        if line.kind == "differential":
            assert line.lambda_ == pytest.approx(float(block.mixer.lambda_()))
            assert line.lambda_init == lambda_init(line.index)
            assert line.saturated == (not 0.01 < line.lambda_ - line.lambda_init < 0.99)
        else:
            assert (line.lambda_, line.lambda_init, line.saturated) == (None, None, None)


@pytest.mark.parametrize(("total", "expected"), [(0.0, False), (4.0, False), (5.0, True), (-5.0, True)])
def test_a_sigmoid_near_its_ends_is_reported_as_saturated(total: float, expected: bool, tmp_path: Path) -> None:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    with torch.no_grad():
        model.blocks[0].mixer.lambda_q1.fill_(total / 16)
    model.save_pretrained(tmp_path)
    assert inspect_checkpoint(tmp_path).blocks[0].saturated is expected
    assert is_saturated(1 / (1 + 2.718281828**-total)) is expected


@torch.no_grad()
def test_a_lambda_without_a_sigmoid_cannot_be_saturated(tmp_path: Path) -> None:
    model = tiny_model(DifferentialConfig(placement=(0,), lambda_form="exp_dot"))
    model.save_pretrained(tmp_path)
    line = inspect_checkpoint(tmp_path).blocks[0]
    assert line.saturated is None
    assert line.lambda_ == pytest.approx(float(model.blocks[0].mixer.lambda_()))


def test_keys_that_do_not_fit_are_reported_and_not_raised(tmp_path: Path) -> None:
    tiny_model(DifferentialConfig(placement=(0,))).save_pretrained(tmp_path, format="diff_mamba")
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["backbone.layers.0.lambda_q1"]
    tensors["backbone.layers.1.mixer.D"] = torch.zeros(9)
    tensors["stray"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors")
    report = inspect_checkpoint(tmp_path)
    assert not report.loads
    assert report.missing_keys == ("backbone.layers.0.lambda_q1",)
    assert report.unexpected_keys == ("stray",)
    assert report.misshapen_keys == ("backbone.layers.1.mixer.D",)
    assert report.blocks[0].lambda_ is None
    assert report.blocks[0].lambda_init == pytest.approx(0.2)


@pytest.mark.parametrize("format", ["diffmamba_interp", "hf_mamba2", "state_spaces"])
def test_every_plain_format_is_inspected_and_a_tied_matrix_counts_once(format: Any, tmp_path: Path) -> None:
    model = tiny_model(tie_embeddings=True, n_groups=2, d_vocab=24, d_vocab_padding=4)
    model.save_pretrained(tmp_path, format=format)
    report = inspect_checkpoint(tmp_path)
    assert report.format == format
    assert report.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    text = " ".join(report.conventions)
    assert "tied" in text
    assert "norm per group" in text
    assert ("last 4 rows padding" in text) == (format != "hf_mamba2")


def test_a_report_goes_to_json_and_names_the_scan(fixtures_dir: Path) -> None:
    report = inspect_checkpoint(fixtures_dir / "published_diffmamba2" / "all", device="cpu")
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["loads"] is True
    assert len(values["blocks"]) == len(report.blocks)
    assert report.scan.startswith("reference (")
    assert "post" in " ".join(report.conventions)


def test_what_cannot_be_understood_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inspect_checkpoint(tmp_path)
