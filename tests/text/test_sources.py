import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffmamba_interp.text.documents import DataError
from diffmamba_interp.text.sources import TextSource, is_hub_id


class HTTPError(Exception):
    """As HTTP libraries have one that is no OSError."""


def texts_of(source: TextSource) -> list[str]:
    return [document.text for document in source.documents()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.jsonl").write_text('{"text": "second"}\n{"text": "third"}\n')
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Stands in for the hub; holds what the library was asked for."""
    import datasets
    import huggingface_hub

    asked: list[dict] = []

    def dataset_info(_: object, name: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        assert timeout < 60
        if name == "owner/silent":
            raise HTTPError("timed out")
        return SimpleNamespace(sha=f"commit of {revision}")

    def load_dataset(name: str, config: str | None, **options: object) -> Iterator[dict]:
        asked.append({"name": name, "config": config, **options})
        if name == "owner/private":
            raise datasets.exceptions.DatasetNotFoundError("no such dataset")
        if name == "owner/program":
            raise RuntimeError("Dataset scripts are no longer supported, but found program.py")
        if name == "owner/breaks":
            return broken_rows()
        return iter(
            [
                {"text": "one", "n": 1},
                {"text": None if name == "owner/nulls" else " ", "n": 2},
                {"text": "three", "n": 3},
            ]
        )

    def broken_rows() -> Iterator[dict]:
        yield {"text": "one"}
        raise HTTPError("connection reset")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return asked


def test_a_folder_is_read_file_by_file(folder: Path) -> None:
    source = TextSource(location=str(folder))
    assert texts_of(source) == ["first", "second", "third"]
    assert texts_of(source) == ["first", "second", "third"]
    assert texts_of(TextSource(location=str(folder), max_documents=2)) == ["first", "second"]


def test_the_sha256_changes_with_the_files_and_with_what_is_read_of_them(folder: Path) -> None:
    source = TextSource(location=str(folder))
    before = source.sha256()
    assert TextSource(location=str(folder)).sha256() == before
    assert TextSource(location=str(folder), max_documents=1).sha256() != before
    (folder / "a.txt").write_text("other")
    assert source.sha256() != before


def test_text_without_documents_is_reported(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match="holds no text"):
        texts_of(TextSource(location=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="names no file"):
        texts_of(TextSource(location=str(tmp_path / "missing.jsonl")))


def test_generated_text_follows_its_seed_and_size() -> None:
    base = texts_of(TextSource(location="generated", n_chars=5_000))
    assert texts_of(TextSource(location="generated", n_chars=5_000)) == base
    assert texts_of(TextSource(location="generated", n_chars=5_000, seed=1)) != base
    assert len(texts_of(TextSource(location="generated", n_chars=20_000))) > len(base)


def test_builtin_text_adds_the_documentation_of_python() -> None:
    source = TextSource(location="builtin", n_chars=5_000)
    generated = texts_of(TextSource(location="generated", n_chars=5_000))
    documents = list(itertools.islice(source.documents(), len(generated) + 100))
    assert [document.text for document in documents[: len(generated)]] == generated
    assert any(document.source.startswith("pydoc topic") for document in documents)
    assert TextSource(location="generated", n_chars=5_000).sha256() != source.sha256()


def test_a_hub_dataset_is_streamed(hub: list[dict]) -> None:
    source = TextSource(location="owner/name", hub_config="c", hub_split="validation", hub_revision="r")
    documents = list(source.documents())
    assert [document.text for document in documents] == ["one", "three"]
    assert documents[1].source == "owner/name, row 3"
    asked = {"name": "owner/name", "config": "c", "split": "validation", "revision": "commit of r", "streaming": True}
    assert hub == [asked], "read at the commit whose name is recorded"
    assert list(TextSource(location="owner/name").documents())
    assert hub[1]["split"] == "train"


def test_hub_problems_are_explained(hub: list[dict]) -> None:
    with pytest.raises(DataError, match=r"row 1: no field 'body'; the fields are text, n: choose one with text_field"):
        texts_of(TextSource(location="owner/name", text_field="body"))
    with pytest.raises(DataError, match=r"'owner/private'.*no such dataset.*no file or folder of that name here"):
        texts_of(TextSource(location="owner/private"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/silent", "timed out. There is no file or folder of that name here; check the name"),
        ("owner/program", "scripts are no longer supported.*hub_revision refs/convert/parquet"),
        ("owner/breaks", "connection reset. There is no file or folder"),
    ],
)
def test_a_hub_that_fails_at_any_moment_is_one_error(hub: list[dict], name: str, message: str) -> None:
    with pytest.raises(DataError, match=f"'{name}'.*{message}"):
        texts_of(TextSource(location=name))


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("diffmamba_interp.text.sources.HUB_TIMEOUT_S", 0.2)
        for read in (texts_of, TextSource.sha256):
            with pytest.raises(DataError, match="'owner/name'.*timed out"):
                read(TextSource(location="owner/name"))


def test_nulls_are_passed_over_when_asked_and_the_log_says_how_many(
    hub: list[dict], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match="row 2: the field 'text' holds null, not text: pass over .* skip_empty"):
        texts_of(TextSource(location="owner/nulls"))
    assert texts_of(TextSource(location="owner/nulls", skip_empty=True)) == ["one", "three"]
    assert "owner/nulls: 1 rows passed over, whose text is blank, null or missing" in caplog.text
    caplog.clear()
    (folder / "c.txt").write_text(" ")
    assert len(texts_of(TextSource(location=str(folder)))) == 3
    assert f"{folder}: 1 rows passed over, whose text is blank" in caplog.text
    assert TextSource(location=str(folder)).sha256() != TextSource(location=str(folder), skip_empty=True).sha256()


def test_files_of_other_kinds_in_a_folder_are_not_left_out_without_a_word(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts_of(TextSource(location=str(folder)))
    assert caplog.text == ""
    for name in ("c.md", "d.csv", ".hidden.md"):
        (folder / name).write_text("more text")
    assert texts_of(TextSource(location=str(folder))) == ["first", "second", "third"]
    assert "2 files of other kinds are not read: 'c.md', 'd.csv'" in caplog.text
    caplog.clear()
    texts_of(TextSource(location=str(folder / "*.txt")))
    assert caplog.text == ""


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_document_cannot_be_asked_for(n: int) -> None:
    with pytest.raises(ValueError, match=f"max_documents is {n}: it must be at least 1"):
        TextSource(location="generated", max_documents=n)


@pytest.mark.parametrize("option", ["hub_config", "hub_revision"])
def test_an_option_of_the_hub_is_refused_for_text_that_is_not_there(folder: Path, option: str) -> None:
    for location in (str(folder), "generated"):
        with pytest.raises(DataError, match=f"{option} is 'en', but .* is no dataset on the hub"):
            TextSource(location=location, **{option: "en"})
    assert getattr(TextSource(location="owner/name", **{option: "en"}), option) == "en"


def test_generated_text_has_no_splits(folder: Path) -> None:
    with pytest.raises(DataError, match="hub_split is 'test', but 'builtin' is no dataset on the hub"):
        TextSource(location="builtin", hub_split="test")


def test_paths_and_names_are_told_from_hub_ids(folder: Path) -> None:
    assert is_hub_id("owner/name")
    for location in ("generated", "builtin", str(folder), "./owner/name", "texts/a.jsonl", "texts/*", "/a/b"):
        assert not is_hub_id(location)


def test_a_table_in_a_folder_is_read(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table({"text": ["row"]}), folder / "c.parquet")
    assert texts_of(TextSource(location=str(folder / "c.parquet"))) == ["row"]
