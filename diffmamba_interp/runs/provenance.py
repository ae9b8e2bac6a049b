"""What results were made with: sums of weights, the device, and the versions that decide the numbers."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.files.json_files import read_toml

PACKAGE = "diffmamba-interp"
_PACKAGES = (PACKAGE, "torch", "numpy", "transformers", "tokenizers", "tuned-lens")


def weights_sha256(folder: str | Path) -> str:
    """Sha256 of a checkpoint's weights: of the file if there is one, of the files' digests in order if several."""
    folder = Path(folder)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights (*.safetensors or pytorch_model*.bin).")
    digests = [file_sha256(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def device_name(device: torch.device | str) -> str:
    """The name of the GPU that `device` means; of anything else its own: "cpu"."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers; "not installed" for one that is not there.

    This package's own, where it runs from a bare source tree, is that of the tree, which it says.
    """
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = _of_source_tree() if name == PACKAGE else "not installed"
    return versions


def _of_source_tree() -> str:
    """The version that pyproject.toml beside the package states."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    if not project.is_file():
        return "not installed"
    return f"{read_toml(project)['project']['version']} (source tree)"
