"""Snapshots of runs, whole and damaged, of this version and of before."""

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from diffmamba_interp.files.checksums import DamagedFileError
from diffmamba_interp.runs.settings import changed
from diffmamba_interp.runs.snapshots import SNAPSHOT_FILE, read_snapshot, write_snapshot

CONTENT: dict[str, Any] = {"step": 3, "weight": torch.arange(600.0), "recipe": {"name": "x"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_snapshot(tmp_path, CONTENT)
    return tmp_path / SNAPSHOT_FILE


def test_a_snapshot_comes_back_and_opens_with_torch_alone(path: Path) -> None:
    read = read_snapshot(path.parent)
    assert read is not None
    assert read.keys() == CONTENT.keys()
    assert torch.equal(read["weight"], CONTENT["weight"])
    assert torch.load(path, weights_only=True)["step"] == 3


def test_a_folder_without_a_snapshot_has_none(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path) is None


def test_every_flipped_byte_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    # Every part of the archive: records, directory, its end, and the sum, byte by byte where it begins.
    places = {*range(0, len(whole), 97), *range(len(whole) - 95, len(whole))}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"snapshot.pt .*Delete it to start anew\.$"):
            read_snapshot(path.parent)


@pytest.mark.parametrize("keep", [0, 1, 500, -1, -71])
def test_a_snapshot_that_was_cut_off_is_noticed(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFileError, match="Delete it to start anew"):
        read_snapshot(path.parent)


def test_a_snapshot_of_before_sums_is_read(path: Path) -> None:
    torch.save(CONTENT, path)
    read = read_snapshot(path.parent)
    assert read is not None
    assert read["step"] == 3
    torch.save({"format": 1, **CONTENT}, path)
    read = read_snapshot(path.parent)
    assert read is not None
    assert "format" not in read


def test_a_snapshot_of_a_later_version_is_refused(path: Path) -> None:
    torch.save({"format": 3, **CONTENT}, path)
    with pytest.raises(ValueError, match="has format 3, and this version reads up to 2. Delete it"):
        read_snapshot(path.parent)


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize("content", [Harmful(), [1, 2], "archive"], ids=["code", "list", "pickle"])
def test_what_is_no_snapshot_is_refused_without_running_it_or_torchs_advice(
    path: Path, content: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    if content == "archive":
        buffer.write(pickle.dumps(Harmful(), protocol=2))
    else:
        torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DamagedFileError, match="snapshot.pt") as refusal:
        read_snapshot(path.parent)
    assert "weights_only" not in str(refusal.value)
    assert "run" not in capsys.readouterr().out


def test_what_changed_is_told_as_it_was_saved_and_as_it_is_now() -> None:
    saved = {"n": 1, "model": {"d": 8, "gone": 0}, "parts": [{"share": 0.5}], "out": "a"}
    now = {"n": 2, "model": {"d": 8}, "parts": [{"share": 0.25}], "new": True, "out": "b"}
    assert changed(saved, now, ignored={"out"}) == {
        "n": (1, 2),
        "parts[0].share": (0.5, 0.25),
        "new": (None, True),
        "model.gone": (0, None),
    }
