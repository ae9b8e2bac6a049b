import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from diffmamba_interp.data.documents import DataError
from diffmamba_interp.data.files import find_files, read_file, without_lone_surrogates

TEXTS = ["one\ntwo", "drei", "ünïcödé 🎉"]


def texts_of(path: Path, **options: str) -> list[str]:
    return [document.text for document in read_file(path, **options)]


def json_lines(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({field: text, "meta": {}}) + "\n" for text in texts).encode()


def write(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(content)
    else:
        path.write_bytes(content)
    return path


def write_table(path: Path, columns: dict) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines_are_one_document_a_line(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", json_lines(TEXTS))
    documents = list(read_file(path))
    assert [document.text for document in documents] == TEXTS
    assert documents[2].source == f"{path}, line 3"
    assert texts_of(write(tmp_path / f"b{suffix}", json_lines(TEXTS, "body")), text_field="body") == TEXTS


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst"])
def test_a_text_file_is_one_document(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", "\n\n".join(TEXTS).encode())
    assert texts_of(path) == ["\n\n".join(TEXTS)]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_tables_are_one_document_a_row(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"a{suffix}", {"text": TEXTS, "n": [1, 2, 3]})
    documents = list(read_file(path))
    assert [document.text for document in documents] == TEXTS
    assert documents[1].source == f"{path}, row 2"
    with pytest.raises(DataError, match=r"row 1: no field 'body'; the fields are text, n"):
        texts_of(path, text_field="body")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut', "not JSON"),
        (b'["a"]', "expected a JSON object"),
        (b'{"txt": "a"}', "no field 'text'; the fields are txt"),
        (b'{"text": 5}', "holds int, not text"),
        (b'{"text": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_line_is_reported_with_file_and_line_number(
    tmp_path: Path, suffix: str, line: bytes, message: str
) -> None:
    path = write(tmp_path / f"bad{suffix}", json_lines(TEXTS) + line + b"\n" + json_lines(TEXTS))
    documents = read_file(path)
    assert [next(documents).text for _ in TEXTS] == TEXTS
    with pytest.raises(DataError, match=f"bad{suffix}, line 4: .*{message}"):
        next(documents)


def test_a_text_file_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"latin\.txt, line 3: not UTF-8"):
        texts_of(write(tmp_path / "latin.txt", "one\ntwo\ncafé".encode("latin-1")))


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".txt.gz"])
def test_a_file_that_was_cut_off_is_reported(tmp_path: Path, suffix: str) -> None:
    content = b"".join(json_lines([f"{i * i * 7919 % 104729} words"]) for i in range(5_000))
    path = write(tmp_path / f"cut{suffix}", content)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cut.*damaged or was cut off"):
        texts_of(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet", ".arrow"])
def test_a_file_that_is_not_what_its_name_says_is_reported(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"wrong{suffix}"
    path.write_bytes(b"neither one nor the other, but long enough to be read as something")
    with pytest.raises(DataError, match=f"wrong{suffix}.*damaged"):
        texts_of(path)


def test_blank_documents_and_lines_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines(["", "a", " \n"]) + b"\n\n" + json_lines(["b"]))
    assert [document.source.rsplit(" ", 1)[1] for document in read_file(path)] == ["2", "6"]
    assert texts_of(write(tmp_path / "empty.txt", b"")) == []


def test_lines_longer_than_a_block_are_read_whole(tmp_path: Path) -> None:
    texts = ["x" * 3_000_000, "y", "z" * 1_200_000]
    assert texts_of(write(tmp_path / "a.jsonl.gz", json_lines(texts))) == texts


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "a\\ud83d b"}\n{"text": "\\ud83c\\udf89"}\n')
    assert texts_of(path) == ["a\ufffd b", "🎉"]
    assert without_lone_surrogates("plain") == "plain"


def test_unknown_kinds_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown kind of file; known are \.jsonl"):
        read_file(write(tmp_path / "a.csv", b"text"))
    with pytest.raises(FileNotFoundError, match="is no file"):
        read_file(tmp_path / "none.txt")


def test_files_are_found_by_path_folder_and_pattern_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    names = ["b.txt", "a.jsonl.gz", "sub/c.parquet"]
    for name in (*names, "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)]
    assert found == ["a.jsonl.gz", "b.txt", "sub/c.parquet"]
    assert find_files(tmp_path / "b.txt") == [tmp_path / "b.txt"]
    assert find_files(str(tmp_path / "*.txt")) == [tmp_path / "b.txt"]
    assert find_files(str(tmp_path / "**" / "*.parquet")) == [tmp_path / "sub" / "c.parquet"]
    with pytest.raises(FileNotFoundError, match="names no file"):
        find_files(tmp_path / "*.zip")
