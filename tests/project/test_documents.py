"""README and CHANGELOG agree with the project that they describe."""

import re
from pathlib import Path
from typing import Any

import pytest

# A path that starts in one of the project's own folders.
PROJECT_PATH = re.compile(r"(?<![\w./-])((?:diffmamba_interp|app|lenses|analyses|benchmarks|tests)/[\w./-]*)")


@pytest.fixture(scope="module")
def readme(project_root: Path) -> str:
    return (project_root / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command",
    ["make demo", "make test", "streamlit run app/main.py", "python -m diffmamba_interp.train_lens"],
)
def test_the_readme_shows_the_command(readme: str, command: str) -> None:
    assert command in readme


@pytest.mark.parametrize("document", ["README.md", "Makefile", "docs/contributing.md"])
def test_every_path_in_the_document_exists(document: str, project_root: Path) -> None:
    paths = {path.rstrip(".") for path in PROJECT_PATH.findall((project_root / document).read_text(encoding="utf-8"))}
    assert paths, f"{document} names no file of the project"
    assert sorted(path for path in paths if not (project_root / path).exists()) == []


def test_the_file_map_names_every_folder_of_the_package(readme: str, project_root: Path) -> None:
    folders = {init.parent.name for init in (project_root / "diffmamba_interp").glob("*/__init__.py")}
    assert sorted(name for name in folders if f"{name}/" not in readme) == []


def test_every_entry_point_in_the_readme_is_a_module(readme: str, project_root: Path) -> None:
    modules = set(re.findall(r"python -m diffmamba_interp\.(\w+)", readme))
    assert sorted(m for m in modules if not (project_root / "diffmamba_interp" / f"{m}.py").exists()) == []


def test_the_changelog_speaks_of_this_version(project_root: Path, pyproject: dict[str, Any]) -> None:
    changelog = (project_root / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.escape(pyproject["project"]["version"])
    assert re.search(rf"^## .*{version}", changelog, re.MULTILINE)


def test_the_readme_tour_runs(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tour,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(tour, "README.md", "exec"), names)
    assert names["record"].difference.shape == (1, names["tokens"].shape[1], names["tokens"].shape[1])
    assert (tmp_path / "attention.html").stat().st_size > 1000
