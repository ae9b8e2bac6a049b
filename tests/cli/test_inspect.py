import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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
