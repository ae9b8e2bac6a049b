"""What results were made with: sums of weights, whatever files they lie in."""

import hashlib
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from diffmamba_interp.runs import provenance
from diffmamba_interp.runs.provenance import package_versions, weights_sha256


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_sum_of_weights_is_that_of_the_file_or_of_the_shards_sums_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"second")
    assert weights_sha256(tmp_path) == sha256(b"second")
    (tmp_path / "a.safetensors").write_bytes(b"first")
    (tmp_path / "pytorch_model.bin").write_bytes(b"of another format")
    assert weights_sha256(tmp_path) == sha256((sha256(b"first") + sha256(b"second")).encode())


def test_a_folder_without_weights_has_no_sum(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        weights_sha256(tmp_path)


def test_a_package_that_runs_from_its_source_tree_has_the_version_of_the_tree(
    monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> None:
    def none_of_ours(name: str) -> str:
        if name in ("diffmamba-interp", "tuned-lens"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(provenance, "version", none_of_ours)
    versions = package_versions()
    stated = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]["version"]
    assert versions["diffmamba-interp"] == f"{stated} (source tree)"
    assert versions["tuned-lens"] == "not installed"
    assert versions["numpy"] == version("numpy")
