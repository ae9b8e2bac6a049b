"""The project looked at from outside: its files, its settings and its levels."""

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def pyproject(project_root: Path) -> dict[str, Any]:
    return tomllib.loads((project_root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def project_files(project_root: Path) -> list[Path]:
    """Every file that is tracked or would be added next; ignored files are left out."""
    # In an unpacked archive nothing tells the project's files from others; every checkout, CI's too, is checked.
    if not (project_root / ".git").exists():
        pytest.skip("this copy is not a git checkout, so which files belong to the project is unknown")
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=project_root,
        capture_output=True,
        check=True,
        text=True,
    )
    files = [project_root / name for name in listing.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


@pytest.fixture(scope="session")
def package_sources(project_root: Path) -> list[Path]:
    return sorted((project_root / "diffmamba_interp").rglob("*.py"))


@pytest.fixture(scope="session")
def entry_points(pyproject: dict[str, Any]) -> set[str]:
    """Names of the `python -m` modules: the two top levels of the import contract."""
    layers = next(c for c in pyproject["tool"]["importlinter"]["contracts"] if c["id"] == "layers")
    return {module.strip(" ()") for level in layers["layers"][:2] for module in level.split("|")}
