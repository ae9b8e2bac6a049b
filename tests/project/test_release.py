"""What an index of packages shows, and what is said before an upload."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ADDRESS = "https://forge.test/me/tool"


@pytest.fixture(scope="module")
def release(project_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", project_root / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_long_description_has_no_path_left_that_only_a_checkout_knows(
    release: ModuleType, project_root: Path
) -> None:
    readme = (project_root / "README.md").read_text(encoding="utf-8")
    shown = release.long_description(readme, ADDRESS, "9.9.9")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme)
    assert pictures
    assert all(f"({ADDRESS}/raw/v9.9.9/{picture})" in shown for picture in pictures)
    targets = re.findall(r"\]\(([^)]+)\)", shown)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    # Badges stand below the title, and nothing else is changed.
    title, _, badges, rest = shown.split("\n", 3)
    assert title == readme.splitlines()[0]
    assert badges.startswith("[![version](https://")
    assert rest.replace(f"{ADDRESS}/raw/v9.9.9/", "").replace(f"{ADDRESS}/blob/v9.9.9/", "") == readme.split("\n", 1)[1]


def test_links_get_the_projects_address_and_addresses_stay(release: ModuleType) -> None:
    text = "# T\n[a](docs/x.md) [b](https://b.test) [c](#part) ![p](p.png)"
    assert release.long_description(text, ADDRESS, "1").endswith(
        f"[a]({ADDRESS}/blob/v1/docs/x.md) [b](https://b.test) [c](#part) ![p]({ADDRESS}/raw/v1/p.png)"
    )


def test_an_upload_is_offered_only_once_the_project_has_an_address(
    release: ModuleType, pyproject: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pyproject["tool"]["release"]["address"].startswith("https://")
    monkeypatch.setattr(release, "PROJECT", tmp_path)
    files = tmp_path / "dist" / "a.tar.gz", tmp_path / "dist" / "a.whl"
    (tmp_path / "dist").mkdir()
    for file in files:
        file.write_bytes(b"0")
    said = "\n".join(release.instructions(*files, ADDRESS, "9.9.9"))
    assert "twine upload dist/a.tar.gz dist/a.whl" in said
    said = "\n".join(release.instructions(*files, release.PLACEHOLDER, "9.9.9"))
    assert "not to be uploaded yet" in said
    assert "twine upload" not in said


def test_citation_and_changelog_are_of_this_version(project_root: Path, pyproject: dict[str, Any]) -> None:
    version = pyproject["project"]["version"]
    citation = (project_root / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
    assert f"license: {pyproject['project']['license']}" in citation
    changelog = (project_root / "CHANGELOG.md").read_text(encoding="utf-8")
    (newest, *_) = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest == version
    assert changelog.index("### What changes for you") < changelog.index("\n## 0.1.0")


def test_the_note_for_contributors_fits_one_screen(project_root: Path) -> None:
    lines = (project_root / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30
