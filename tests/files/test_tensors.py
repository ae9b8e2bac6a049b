"""Files of tensors: the same bytes for the same content, sums, and no unpickling."""

from pathlib import Path

import pytest
import torch

from diffmamba_interp.files.checksums import DamagedFileError
from diffmamba_interp.files.tensors import read_tensors, write_tensors

REMEDY = "Delete it."


@pytest.mark.parametrize("with_sum", [False, True])
def test_tensors_have_the_same_bytes_under_any_name(tmp_path: Path, with_sum: bool) -> None:
    for name in ("a.pt", "quite another name.bin"):
        write_tensors(tmp_path / name, {"x": torch.arange(5)}, with_sum=with_sum)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "quite another name.bin").read_bytes()
    content, has_sum = read_tensors(tmp_path / "a.pt", remedy=REMEDY)
    assert content["x"].tolist() == [0, 1, 2, 3, 4]
    assert has_sum is with_sum
    assert torch.load(tmp_path / "a.pt", weights_only=True)["x"].tolist() == [0, 1, 2, 3, 4]


def test_without_a_sum_the_bytes_are_those_of_torch(tmp_path: Path) -> None:
    with (tmp_path / "theirs.pt").open("wb") as file:
        torch.save({"x": torch.arange(5)}, file)
    write_tensors(tmp_path / "ours.pt", {"x": torch.arange(5)})
    assert (tmp_path / "ours.pt").read_bytes() == (tmp_path / "theirs.pt").read_bytes()


@pytest.mark.parametrize("content", [b"", b"no zip file at all", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."])
def test_what_is_no_such_file_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"x.pt is corrupt.* Delete it\.") as e:
        read_tensors(tmp_path / "x.pt", remedy=REMEDY)
    assert "weights_only" not in str(e.value)


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / ".x.pt.writing").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device: .*x.pt'"):
        write_tensors(tmp_path / "x.pt", {"x": torch.arange(50_000)})
