"""Only what lies below the root is opened, and what is found there is offered."""

import shutil
from pathlib import Path

import pytest

from app.shell.folders import find_folders, fingerprint, open_folder, resolve_below
from tests.app.conftest import MODEL


@pytest.mark.parametrize(
    "name",
    ["../secret", "../nothing", "/", "..", "models/../../secret", "models/../../shown/../secret", "~/../../..//"],
)
def test_a_path_out_of_the_root_is_refused_in_the_same_words_whatever_lies_there(root: Path, name: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match="leads outside of the root|there is no folder"):
        resolve_below(root, name)


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "", "  ", "x" * 5000, "\u202e"])
def test_what_is_no_folder_name_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no folder name"):
        resolve_below(root, name)


@pytest.mark.parametrize("name", ["models/none", "bundled:none", "bundled:../secret", "models/alternate/config.json"])
def test_a_folder_that_is_not_there_is_said_to_be_missing(root: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_folder(root, name)


def test_a_link_that_leads_out_of_the_root_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root.parent / "secret", target_is_directory=True)
    with pytest.raises(ValueError, match="leads outside of the root"):
        resolve_below(tmp_path, "link")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "params.pt", "anything"])
def test_a_file_that_is_a_link_out_of_the_root_is_refused_whatever_its_kind(
    root: Path, tmp_path: Path, file: str
) -> None:
    (tmp_path / "kept").write_text("{}", encoding="utf-8")
    base = tmp_path / "root"
    shutil.copytree(root / MODEL, base / "model")
    (base / "model" / file).unlink(missing_ok=True)
    (base / "model" / file).symlink_to(tmp_path / "kept")
    with pytest.raises(ValueError, match=f"{file}.*is a link that leads outside of the root"):
        open_folder(base, "model")
    assert resolve_below(tmp_path, "root/model")


def test_a_folder_below_the_root_is_opened_by_a_relative_or_an_absolute_name(root: Path) -> None:
    assert resolve_below(root, MODEL) == resolve_below(root, str(root / MODEL)) == (root / MODEL).resolve()


def test_checkpoints_and_lenses_are_told_apart_and_hidden_folders_left_out(tmp_path: Path) -> None:
    for folder, file in (("a/model", "model.safetensors"), ("lens", "params.pt"), (".hidden", "model.safetensors")):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("config.json", file):
            (tmp_path / folder / name).touch()
    (tmp_path / "empty").mkdir()
    assert find_folders(tmp_path) == (["a/model"], ["lens"])


def test_another_file_in_a_folder_changes_its_fingerprint(tmp_path: Path) -> None:
    before = fingerprint(tmp_path)
    (tmp_path / "config.json").touch()
    assert fingerprint(tmp_path) != before
