"""Which files a location names: literal paths, patterns, folders with and without a manifest."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from diffmamba_interp.text.documents import DataError
from diffmamba_interp.text.locations import find_files
from diffmamba_interp.text.sources import TextSource


def lay(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pa.table({"text": [name]}), path)
        else:
            path.write_text(name)
    return folder


def names_of(location: str | Path, base: Path, **options: str) -> list[str]:
    return [path.relative_to(base).as_posix() for path in find_files(location, **options)]


def texts_of(location: Path, **options: str) -> list[str]:
    return [document.text for document in TextSource(location=str(location), **options).documents()]


def test_files_are_found_by_path_folder_and_pattern_in_a_fixed_order(tmp_path: Path) -> None:
    lay(tmp_path, "b.txt", "a.jsonl.gz", "sub/c.parquet", "notes.md")
    assert names_of(tmp_path, tmp_path) == ["a.jsonl.gz", "b.txt", "sub/c.parquet"]
    assert names_of(tmp_path / "b.txt", tmp_path) == ["b.txt"]
    assert names_of(tmp_path / "*.txt", tmp_path) == ["b.txt"]
    assert names_of(tmp_path / "**" / "*.parquet", tmp_path) == ["sub/c.parquet"]
    assert names_of(tmp_path / "?ub" / "[a-c].parquet", tmp_path) == ["sub/c.parquet"]
    with pytest.raises(FileNotFoundError, match="names no file"):
        find_files(tmp_path / "*.zip")


@pytest.mark.parametrize("name", ["d[12]/t.parquet", "a*b/t.parquet", "e[v1]/t.parquet", "q?/[x].parquet"])
def test_a_path_that_exists_is_literal_whatever_signs_are_in_it(tmp_path: Path, name: str) -> None:
    lay(tmp_path, name, "d1/t.parquet", "axb/t.parquet", "ev/t.parquet", "qq/x.parquet")
    source = TextSource(location=str(tmp_path / name))
    assert [document.text for document in source.documents()] == [name]
    assert names_of((tmp_path / name).parent, tmp_path) == [name]


@pytest.mark.parametrize("folder", ["e[v1]", "a*b"])
def test_a_folder_that_exists_is_literal_in_front_of_a_pattern(tmp_path: Path, folder: str) -> None:
    lay(tmp_path, f"{folder}/t.txt", "ev/t.txt", "axb/t.txt")
    assert names_of(tmp_path / folder / "*.txt", tmp_path) == [f"{folder}/t.txt"]
    assert names_of(tmp_path / "*" / "t.txt", tmp_path) == sorted([f"{folder}/t.txt", "ev/t.txt", "axb/t.txt"])


def test_the_recorded_sha256_is_that_of_the_rows_that_are_read(tmp_path: Path) -> None:
    lay(tmp_path, "d[12]/t.txt", "d1/t.txt")
    literal, other = (TextSource(location=str(tmp_path / folder / "t.txt")) for folder in ("d[12]", "d1"))
    assert literal.sha256() != other.sha256()
    (tmp_path / "d1/t.txt").write_text("d[12]/t.txt")
    assert literal.sha256() == other.sha256()


def test_hidden_files_and_folders_are_not_read(tmp_path: Path) -> None:
    hidden = [".ipynb_checkpoints/a-checkpoint.txt", "._a.txt", "__MACOSX/b.txt", ".git/c.txt", ".cache/d.txt"]
    notes = ["_metadata.parquet", "_temporary/0/part.parquet", "_SUCCESS", ".part-0.parquet.crc", "__pycache__/e.txt"]
    lay(tmp_path, "a.txt", "_underscore.txt", *hidden, *notes)
    assert names_of(tmp_path, tmp_path) == ["_underscore.txt", "a.txt"]
    assert names_of(tmp_path / "*.txt", tmp_path) == ["_underscore.txt", "a.txt"]
    assert names_of(tmp_path / "**" / "*.txt", tmp_path) == ["_underscore.txt", "a.txt"]
    assert names_of(tmp_path / ".cache", tmp_path) == [".cache/d.txt"], "what is named is meant"
    assert names_of(tmp_path / "._a.txt", tmp_path) == ["._a.txt"]


def test_links_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    lay(tmp_path, "in/a.txt", "in/sub/b.txt", "elsewhere/c.txt")
    (tmp_path / "in/second.txt").symlink_to(tmp_path / "in/a.txt")
    os.link(tmp_path / "in/a.txt", tmp_path / "in/third.txt")
    (tmp_path / "in/sub/circle").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/other").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert names_of(tmp_path / "in", tmp_path) == ["in/a.txt", "in/other/c.txt", "in/sub/b.txt"]
    assert names_of(tmp_path / "in" / "*.txt", tmp_path) == ["in/a.txt"]
    (tmp_path / "in/gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone\.txt is a link to nothing"):
        find_files(tmp_path / "in")
    with pytest.raises(FileNotFoundError, match=r"gone\.txt is a link to nothing"):
        find_files(tmp_path / "in/gone.txt")


def test_folders_may_be_named_like_files_and_names_may_be_of_any_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, "a.txt/b.txt", "ü/文.txt", "empty/none.md")
    assert names_of(tmp_path / "a.txt", tmp_path) == ["a.txt/b.txt"]
    assert names_of(tmp_path / "ü" / "*.txt", tmp_path) == ["ü/文.txt"]
    monkeypatch.chdir(tmp_path / "ü")
    assert find_files("../a.txt/*.txt") == [Path("../a.txt/b.txt")]
    with pytest.raises(FileNotFoundError, match="names no file"):
        find_files(tmp_path / "empty")
    with pytest.raises(DataError, match="is empty"):
        find_files("")
    with pytest.raises(DataError, match="is an address"):
        find_files("https://example.com/a.txt")


def test_the_home_folder_is_meant_by_a_tilde_unless_a_file_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(lay(tmp_path, "texts/a.txt")))
    assert names_of("~/texts", tmp_path) == names_of("~/texts/*.txt", tmp_path) == ["texts/a.txt"]
    monkeypatch.chdir(lay(tmp_path / "here", "~root.txt"))
    assert find_files("~root.txt") == [Path("~root.txt")]


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        find_files(tmp_path / "pipe.txt")


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "a.txt", "locked/b.txt")
    iterdir = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"locked may not be looked into \(Permission denied\)"):
        find_files(tmp_path)


def test_a_saved_dataset_is_the_files_that_it_lists(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "saved")
    saved = datasets.load_from_disk(tmp_path / "saved").map(lambda row: {"text": row["text"] + "!"})
    assert list((tmp_path / "saved").glob("cache-*.arrow")), "map leaves its result beside the data"
    assert texts_of(tmp_path / "saved") == texts_of(tmp_path) == ["a", "b"]
    saved.select([1, 0]).save_to_disk(tmp_path / "chosen")
    assert texts_of(tmp_path / "chosen") == ["b!", "a!"]
    (tmp_path / "chosen/data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"state\.json lists data-00000-of-00001\.arrow, which is missing"):
        find_files(tmp_path / "chosen")


def test_the_splits_of_a_saved_dataset_dict_are_never_joined(tmp_path: Path) -> None:
    import datasets

    parts = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"holds several splits \(train, test\).*choose one with hub_split"):
        find_files(tmp_path / "saved")
    with pytest.raises(DataError, match="several splits"):
        find_files(tmp_path)
    assert texts_of(tmp_path / "saved", hub_split="test") == texts_of(tmp_path / "saved/test") == ["test"]
    with pytest.raises(DataError, match="no split 'dev'; its splits: train, test"):
        find_files(tmp_path / "saved", split="dev")
    datasets.DatasetDict(train=parts["train"]).save_to_disk(tmp_path / "single")
    assert texts_of(tmp_path / "single") == ["train"]


def test_shards_that_the_hub_named_by_split_are_never_joined(tmp_path: Path) -> None:
    lay(tmp_path, *(f"data/{name}-00000-of-00001.parquet" for name in ("train", "test")), "data/more.parquet")
    with pytest.raises(DataError, match=r"several splits \(test, train\)"):
        find_files(tmp_path)
    assert names_of(tmp_path, tmp_path, split="train") == ["data/train-00000-of-00001.parquet"]
    assert len(find_files(tmp_path / "data" / "*.parquet")) == 3, "what is named is meant"
    with pytest.raises(DataError, match="has no splits that are told apart"):
        find_files(lay(tmp_path / "plain", "a.txt"), split="train")


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "test.jsonl"),
        ("train.txt", "test.txt.gz"),
        ("Train_0.txt", "train_1.txt", "dev_0.txt"),
        ("wiki.train.txt", "wiki.valid.txt"),
        ("train/00.jsonl", "train/01.jsonl", "val.jsonl.zst", "test.jsonl.zst"),
        ("en/train/a.txt", "en/test/a.txt"),
        ("train-00000-of-00001-0a1b.jsonl", "validation-00000-of-00001-0a1b.jsonl"),
    ],
)
def test_files_and_folders_that_differ_in_the_name_of_a_split_alone_are_never_joined(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    lay(tmp_path, *names)
    with pytest.raises(DataError, match=r"several splits \(.*choose one with hub_split"):
        find_files(tmp_path)
    train = find_files(tmp_path, split="train")
    assert [path.relative_to(tmp_path).as_posix() for path in train] == [n for n in names if "train" in n.lower()[:10]]


def test_names_that_only_speak_of_a_test_are_no_splits(tmp_path: Path) -> None:
    lay(tmp_path, "crash-test.txt", "train-journey.txt", "sub/test.txt", "val.txt")
    assert len(find_files(tmp_path)) == 4


def test_parts_that_are_missing_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay(tmp_path, "train-00000-of-00003.parquet", "train-00002-of-00003.parquet", "whole-00000-of-00001.parquet")
    assert len(find_files(tmp_path)) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} holds 2 of the 3 parts of train: only these are read"
    ]


def test_a_folder_of_the_hubs_cache_is_its_newest_snapshot(tmp_path: Path) -> None:
    lay(tmp_path, "snapshots/old/a.txt", "snapshots/new/a.txt", "blobs/0", "refs/main")
    (tmp_path / "refs/main").write_text("new")
    assert names_of(tmp_path, tmp_path) == ["snapshots/new/a.txt"]
    (tmp_path / "refs/main").unlink()
    with pytest.raises(DataError, match="several snapshots or none"):
        find_files(tmp_path)


def test_a_folder_of_the_datasets_cache_is_one_split_without_results_of_map(tmp_path: Path) -> None:
    lay(tmp_path, "name-train-00000-of-00002.arrow", "name-train-00001-of-00002.arrow", "name-test.arrow")
    lay(tmp_path, "cache-0123.arrow", "cache-train.arrow")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"splits": {"train": {}, "test": {}}}))
    with pytest.raises(DataError, match=r"several splits \(train, test\)"):
        find_files(tmp_path)
    assert names_of(tmp_path, tmp_path, split="test") == ["name-test.arrow"]
    assert len(find_files(tmp_path, split="train")) == 2


@pytest.mark.parametrize("log", ["_delta_log/0.json", ".hoodie/0", "metadata/version-hint.text"])
def test_a_table_whose_log_decides_what_is_valid_is_refused(tmp_path: Path, log: str) -> None:
    lay(tmp_path, "part-0.parquet", "part-1.parquet", log)
    with pytest.raises(DataError, match="whose log says which of its files are valid"):
        find_files(tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"splits": 3}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    lay(tmp_path, "train/a.arrow")
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset_dict\.json"):
        find_files(tmp_path)
