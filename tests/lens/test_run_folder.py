"""A run's folder: what may be resumed, what is refused, and what survives a full disk."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffmamba_interp.files import atomic
from diffmamba_interp.files.tensors import write_tensors
from diffmamba_interp.lens import LensRecipe, TrainingError
from diffmamba_interp.lens.run_folder import RunFolder

IDENTITY = {"model": "aa", "data": None}


@pytest.fixture
def run(tmp_path: Path, recipe: LensRecipe) -> RunFolder:
    made = RunFolder(tmp_path / "run", recipe, IDENTITY)
    made.check()
    made.begin()
    return made


def no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_snapshot_comes_back_as_it_was_written(run: RunFolder) -> None:
    assert run.read_snapshot() is None
    run.write_snapshot({"step": 3, "weight": torch.arange(3.0)})
    state = run.read_snapshot()
    assert state is not None
    assert state["step"] == 3
    assert state["weight"].tolist() == [0, 1, 2]


def test_a_full_disk_is_reported_and_keeps_the_last_snapshot(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_snapshot({"step": 1})
    monkeypatch.setattr(atomic.os, "fsync", no_space)
    with pytest.raises(TrainingError, match=r"snapshot of step 2 .*No space left.*the last one is kept"):
        run.write_snapshot({"step": 2})
    monkeypatch.undo()
    state = run.read_snapshot()
    assert state is not None
    assert state["step"] == 1
    assert sorted(p.name for p in run.path.iterdir()) == ["recipe.toml", "snapshot.pt"]


def test_another_recipe_is_refused_with_the_field(run: RunFolder) -> None:
    run.write_snapshot({"step": 1})
    other = RunFolder(run.path, replace(run.recipe, lr_scale=2.0), IDENTITY)
    with pytest.raises(ValueError, match=r"lr_scale = 1.0, but this command says lr_scale = 2.0"):
        other.check()
    (run.path / "recipe.toml").unlink()
    with pytest.raises(ValueError, match="lr_scale"):
        other.read_snapshot()


@pytest.mark.parametrize("name", ["model", "data"])
def test_another_model_or_other_data_under_the_same_name_is_refused(run: RunFolder, name: str) -> None:
    run.write_snapshot({"step": 1})
    with pytest.raises(ValueError, match=f"another {name}"):
        RunFolder(run.path, run.recipe, IDENTITY | {name: "bb"}).read_snapshot()


def test_a_snapshot_of_before_sums_is_continued(run: RunFolder) -> None:
    recipe = {name: value for name, value in asdict(run.recipe).items() if value is not None}
    content = {"format": 1, "recipe": recipe, "identity": IDENTITY, "state": {"step": 2}}
    torch.save(content, run.path / "snapshot.pt")
    assert run.read_snapshot() == {"step": 2}


def test_a_file_that_is_no_snapshot_is_refused(run: RunFolder) -> None:
    write_tensors(run.path / "snapshot.pt", {"step": 1})
    with pytest.raises(ValueError, match="no snapshot of this command"):
        run.read_snapshot()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, recipe: LensRecipe) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="did not make it"):
        RunFolder(tmp_path, recipe, IDENTITY).check()


def test_a_place_that_is_a_file_is_refused(tmp_path: Path, recipe: LensRecipe) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="--out"):
        RunFolder(tmp_path / "file", recipe, IDENTITY).check()
    with pytest.raises((NotADirectoryError, PermissionError), match="--out"):
        RunFolder(tmp_path / "file" / "below", recipe, IDENTITY).check()


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, recipe: LensRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PermissionError, match="not writable"):
        RunFolder(tmp_path / "new", recipe, IDENTITY).check()


def test_a_run_is_finished_when_its_lens_is_there_and_its_snapshot_is_gone(run: RunFolder) -> None:
    assert not run.is_finished
    (run.path / "config.json").write_text("{}")
    run.write_snapshot({"step": 4})
    assert not run.is_finished
    run.remove_snapshot()
    assert run.is_finished


def test_snapshots_are_due_after_their_minutes(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    now = time.monotonic()
    assert not run.snapshot_is_due()
    monkeypatch.setattr(time, "monotonic", lambda: now + 301)
    assert run.snapshot_is_due()
    run.write_snapshot({"step": 1})
    assert not run.snapshot_is_due()
