"""Sums of files, kept beside them and checked."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from diffmamba_interp.files.checksums import (
    DamagedFileError,
    check_sum,
    file_sha256,
    replacing_with_sum,
    require_sha256,
    sum_path,
)

REMEDY = "Delete it, and it is made anew."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with replacing_with_sum(tmp_path / "folder" / "x.bin") as file:
        file.write(bytes(range(200)))
    return tmp_path / "folder" / "x.bin"


def test_a_file_is_checked_against_the_sum_that_was_written_with_it(path: Path) -> None:
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.bin", "x.bin.sha256"]
    assert file_sha256(path) == hashlib.sha256(bytes(range(200))).hexdigest()
    assert check_sum(path, remedy=REMEDY)
    assert (
        subprocess.run(["sha256sum", "--check", "x.bin.sha256"], cwd=path.parent, capture_output=True).returncode == 0
    )


@pytest.mark.parametrize("at", range(0, 200, 37))
def test_a_flipped_byte_is_noticed_and_the_error_says_what_to_do(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"{path} is damaged.*{REMEDY}"):
        check_sum(path, remedy=REMEDY)
    with pytest.raises(DamagedFileError, match="is damaged"):
        require_sha256(path, hashlib.sha256(bytes(range(200))).hexdigest(), remedy=REMEDY)
    sum_path(path).write_text(f"{file_sha256(path)}  x.bin\n")
    assert check_sum(path, remedy=REMEDY)


def test_a_file_without_a_sum_is_read_as_before(path: Path) -> None:
    sum_path(path).unlink()
    assert not check_sum(path, remedy=REMEDY)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"abc  x.bin\n", b"g" * 64])
def test_a_sum_that_is_none_is_named(path: Path, content: bytes) -> None:
    sum_path(path).write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"x.bin.sha256 holds no sha256.*{REMEDY}"):
        check_sum(path, remedy=REMEDY)


def test_a_failure_while_writing_leaves_the_old_file_with_its_sum(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing_with_sum(path) as file:
        file.write(bytes(1 // 0))
    assert check_sum(path, remedy=REMEDY)
    assert path.read_bytes() == bytes(range(200))


def test_a_file_that_is_replaced_is_never_beside_the_sum_of_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt), replacing_with_sum(path) as file:
        file.write(b"new")
    assert not check_sum(path, remedy=REMEDY)
