import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffmamba_interp import HookedMamba
from diffmamba_interp.inspect import main


@pytest.fixture
def folder(fixtures_dir: Path) -> Path:
    return fixtures_dir / "published_diffmamba2" / "alternate"


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """The same checkpoint without its final norm."""
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    del tensors["backbone.norm_f.weight"]
    save_file({**tensors, "stray": torch.zeros(1)}, tmp_path / "model.safetensors")
    return tmp_path


def test_the_table_shows_every_block_and_that_the_checkpoint_loads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    kinds = [kind for line in lines for kind in line.split()[1:2] if kind in ("plain", "differential")]
    assert kinds == ["differential", "plain", "differential", "plain"]
    assert lines[-1].strip() == "loads: yes"
    assert any("format diff_mamba" in line for line in lines)
    assert any(line.strip().startswith("scan: ") for line in lines)


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["format"] == "diff_mamba"
    assert [block["kind"] for block in values["blocks"]][:2] == ["differential", "plain"]


def test_keys_that_do_not_fit_are_named_and_the_exit_status_says_so(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(broken)]) == 1
    out = capsys.readouterr().out
    assert "missing keys: backbone.norm_f.weight" in out
    assert "unexpected keys: stray" in out
    assert out.strip().endswith("loads: no")


@pytest.mark.parametrize("path", ["no such folder", "nobody/nothing"])
def test_an_unknown_path_is_an_error_on_stderr(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert path in captured.err


def test_it_runs_as_a_module(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diffmamba_interp.inspect", str(folder)], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    assert "loads: yes" in done.stdout


@pytest.mark.parametrize("name", ["mamba2", "diff-mamba2"])
def test_a_bundled_model_is_inspected_by_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == name
    assert lines[-1].strip() == "loads: yes"


def spoilt(folder: Path, tmp_path: Path, **tensors: torch.Tensor) -> Path:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file({**load_file(folder / "model.safetensors"), **tensors}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_said_and_are_not_success(
    value: float, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "backbone.layers.0.lambda_q1"
    tensor = load_file(folder / "model.safetensors")[name]
    tensor[0] = value
    path = spoilt(folder, tmp_path, **{name: tensor})
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert f"hold NaN or infinity: {name}" in out
    assert out.strip().endswith("loads: yes, but its weights are not all numbers")
    assert main([str(path), "--json"]) == 1
    values = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert values["not_finite_keys"] == [name]
    assert main([str(path), "--no-check-values"]) == 0


def test_escapes_in_names_do_not_reach_the_terminal(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spoilt(folder, tmp_path, **{"\x1b[31mred\x07\u202e": torch.zeros(1)})
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "unexpected keys: \\x1b[31mred\\x07\\u202e" in out
    assert "\x1b" not in out
    with pytest.raises(ValueError, match=r"\\x1b\[31mred") as caught:
        HookedMamba.from_pretrained(path)
    assert "\x1b" not in str(caught.value)
