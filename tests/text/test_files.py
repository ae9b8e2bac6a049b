import gzip
import json
import logging
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from diffmamba_interp.text.documents import DataError
from diffmamba_interp.text.files import read_file, read_rows, without_lone_surrogates

TEXTS = ["one\ntwo", "drei", "ünïcödé 🎉"]


def texts_of(path: Path, **options: Any) -> list[str]:
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
    with pytest.raises(DataError, match=r"no field 'body'; the fields are text, n: choose one with text_field"):
        texts_of(path, text_field="body")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut', "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"text": ' + b"1" * 5_000 + b"}", "not valid JSON.*digits"),
        (b'["a"]', "expected a JSON object"),
        (b'{"txt": "a"}', "no field 'text'; the fields are txt"),
        (b'{"text": 5}', "holds int, not text: choose another field with text_field"),
        (b'{"text": ["a"]}', "holds list, not text"),
        (b'{"text": null}', "holds null, not text: pass over such rows with skip_empty"),
        (b'{"text": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_line_is_reported_with_file_and_line_number(
    tmp_path: Path, suffix: str, line: bytes, message: str
) -> None:
    path = write(tmp_path / f"bad{suffix}", json_lines(TEXTS) + line + b"\n" + json_lines(TEXTS))
    documents = read_file(path)
    assert [next(documents).text for _ in TEXTS] == TEXTS
    with pytest.raises(DataError, match=f"bad{suffix}, line 4.*{message}"):
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


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_text_in_wide_characters_without_a_mark_is_not_read_as_letters_and_zeros(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.txt", "hello world".encode(encoding))
    with pytest.raises(DataError, match=r"a.txt is full of zero bytes: .*convert the file to UTF-8"):
        texts_of(path)
    assert texts_of(write(path, b"a stray \0 is kept")) == ["a stray \0 is kept"]


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
    for name in ("a.csv", "a.json", "a.zip", "a.txt.bz2"):
        with pytest.raises(DataError, match=r"unknown kind of file; known are \.jsonl.* Convert or unpack it"):
            read_file(write(tmp_path / name, b"text"))
    with pytest.raises(FileNotFoundError, match="is no file"):
        read_file(tmp_path / "none.txt")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt", ".txt.gz"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, suffix: str) -> None:
    content = json_lines(["a"]) if suffix.startswith(".jsonl") else b"a"
    assert texts_of(write(tmp_path / f"a{suffix}", b"\xef\xbb\xbf" + content)) == ["a"]


def test_lines_may_end_as_windows_ends_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines(TEXTS).replace(b"\n", b"\r\n"))
    assert texts_of(path) == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_rows_without_text_are_passed_over_when_asked_and_counted(tmp_path: Path, suffix: str) -> None:
    values = ["a", None, "b", " ", None]
    if suffix == ".jsonl":
        content = "".join(json.dumps({"text": value} if value != "b" else {"text": "b"}) + "\n" for value in values)
        path = write(tmp_path / "a.jsonl", content.encode() + b'{"other": 1}\n')
    else:
        path = write_table(tmp_path / f"a{suffix}", {"text": [*values, None]})
    with pytest.raises(DataError, match=r"(line|row) 2: the field 'text' holds null"):
        texts_of(path)
    assert texts_of(path, skip_empty=True) == ["a", "b"]
    assert [row is None for row in read_rows(path, skip_empty=True)] == [False, True, False, True, True, True]


@pytest.mark.parametrize(
    ("values", "kind"), [([1, 2], "int"), ([["a"], ["b"]], "list"), ([b"a", b"b"], "bytes"), ([1.5, 2.5], "float")]
)
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_column_of_something_else_is_refused_by_its_kind(
    tmp_path: Path, suffix: str, values: list, kind: str
) -> None:
    path = write_table(tmp_path / f"a{suffix}", {"text": values})
    with pytest.raises(DataError, match=f"row 1: the field 'text' holds {kind}, not text"):
        texts_of(path, skip_empty=True)


def test_a_column_of_repeated_or_large_strings_is_text(tmp_path: Path) -> None:
    for number, column in enumerate(
        [pa.array(["a", "b"]).dictionary_encode(), pa.array(["a", "b"], pa.large_string())]
    ):
        assert texts_of(write_table(tmp_path / f"{number}.parquet", {"text": column})) == ["a", "b"]


def test_both_layouts_of_arrow_files_are_read(tmp_path: Path) -> None:
    table = pa.table({"n": [1, 2], "text": ["a", "b"]})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert texts_of(tmp_path / "a.arrow") == ["a", "b"]


def test_a_line_that_no_block_holds_is_put_together_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined anew with every block, 4 million bytes in blocks of 64 would be copied 30,000 times."""
    monkeypatch.setattr("diffmamba_interp.text.files._BLOCK_BYTES", 64)
    texts = ["x" * 4_000_000, "y" * 100, "z"]
    start = time.process_time()
    assert texts_of(write(tmp_path / "a.jsonl", json_lines(texts))) == texts
    assert time.process_time() - start < 10


@pytest.mark.parametrize("suffix", [".txt.gz", ".jsonl.gz", ".jsonl.zst"])
def test_a_packed_file_that_unpacks_to_too_much_is_refused_unless_allowed(tmp_path: Path, suffix: str) -> None:
    content = b"a" * 3_000_000 if suffix == ".txt.gz" else b"\n" * 3_000_000 + json_lines(["a"])
    path = write(tmp_path / f"a{suffix}", content)
    with pytest.raises(DataError, match=r"unpacks to more than 0.00 GB.*allow more with max_unpacked_gb"):
        texts_of(path, max_unpacked_gb=0.001)
    assert len(texts_of(path)) == 1


def test_the_limit_follows_the_size_and_holds_for_tables_and_not_for_plain_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffmamba_interp.text.files.UNPACKED_BYTES", 1_000)
    packed = write(tmp_path / "a.txt.gz", b"a" * 2_000_000)
    table = write_table(tmp_path / "a.parquet", {"text": ["a" * 100_000] * 100})
    for path in (packed, table):
        with pytest.raises(DataError, match="unpacks to more than"):
            texts_of(path)
        assert texts_of(path, max_unpacked_gb=1.0)
    assert texts_of(write(tmp_path / "b.txt.gz", bytes(range(32, 127)) * 20))
    assert texts_of(write(tmp_path / "a.txt", b"a" * 2_000_000))


def test_what_is_read_of_a_large_file_is_said_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("diffmamba_interp.text.files._BYTES_PER_REPORT", 2**20)
    with caplog.at_level(logging.INFO):
        texts_of(write(tmp_path / "a.txt.gz", b"a" * 5_000_000))
    assert "a.txt.gz: 0.00 GB so far" in caplog.text


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt", b"a")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("diffmamba_interp.text.files._open", refuse)
    with pytest.raises(DataError, match=r"a\.txt may not be read \(Permission denied\)"):
        texts_of(path)
