from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.text import token_stream
from diffmamba_interp.text.documents import DataError, Document
from diffmamba_interp.text.sources import TextSource
from diffmamba_interp.text.token_stream import TokenStream, cached_tokens, encode_texts, write_tokens
from diffmamba_interp.text.tokenizer import bos_tokens, train_tokenizer


@pytest.fixture
def documents(texts: list[str]) -> list[Document]:
    odd = ["été <|endoftext|> x", "a"]
    return [Document(text, f"{i}") for i, text in enumerate([*texts[:90], *odd])]


@pytest.fixture
def source() -> TextSource:
    return TextSource(location="generated", n_chars=100_000)


def test_documents_come_back_one_by_one(
    documents: list[Document], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    stream = write_tokens(documents, tokenizer, tmp_path / "a.npy")
    assert len(stream.ends) == len(stream.n_bytes) == len(documents)
    assert stream.ends[-1] == len(stream.tokens)
    for index, document in enumerate(documents):
        tokens = stream.document(index)
        assert tokens[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(tokens[:-1]) == document.text
        assert stream.n_bytes[index] == len(document.text.encode())
    np.testing.assert_array_equal(stream.document(-1), stream.document(len(documents) - 1))


def test_end_of_text_stands_between_documents_and_nowhere_else(
    documents: list[Document], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    stream = write_tokens(documents, tokenizer, tmp_path / "a.npy")
    np.testing.assert_array_equal(np.flatnonzero(stream.tokens == tokenizer.eos_token_id) + 1, stream.ends)


def test_a_stream_is_mapped_and_as_small_as_the_vocabulary_allows(
    documents: list[Document], tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = write_tokens(documents, tokenizer, tmp_path / "a.npy")
    assert isinstance(stream.tokens, np.memmap)
    assert stream.tokens.dtype == np.uint16
    np.testing.assert_array_equal(TokenStream.load(tmp_path / "a.npy").tokens, stream.tokens)
    monkeypatch.setattr(type(tokenizer), "__len__", lambda self: 70_000)
    wide = write_tokens(documents, tokenizer, tmp_path / "b.npy")
    assert wide.tokens.dtype == np.uint32
    np.testing.assert_array_equal(wide.tokens, stream.tokens)


def test_a_token_limit_stops_after_the_document_that_reaches_it(
    documents: list[Document], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    whole = write_tokens(documents, tokenizer, tmp_path / "a.npy")
    part = write_tokens(documents, tokenizer, tmp_path / "b.npy", max_tokens=int(whole.ends[2]))
    np.testing.assert_array_equal(part.ends, whole.ends[:3])
    np.testing.assert_array_equal(part.tokens, whole.tokens[: whole.ends[2]])


def test_a_failure_leaves_the_old_stream_and_no_litter(
    documents: list[Document], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    def failing() -> Iterator[Document]:
        yield from documents[:70]
        raise DataError("line 71: broken")

    old = write_tokens(documents[:3], tokenizer, tmp_path / "a.npy").tokens.copy()
    with pytest.raises(DataError, match="line 71"):
        write_tokens(failing(), tokenizer, tmp_path / "a.npy")
    np.testing.assert_array_equal(TokenStream.load(tmp_path / "a.npy").tokens, old)
    parts = ["a.bytes.npy", "a.ends.npy", "a.npy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*parts, *(f"{part}.sha256" for part in parts)])


def test_parts_that_do_not_agree_are_refused(
    documents: list[Document], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    write_tokens(documents, tokenizer, tmp_path / "a.npy")
    write_tokens(documents[:5], tokenizer, tmp_path / "b.npy")
    for name in ("ends.npy", "ends.npy.sha256"):
        (tmp_path / f"b.{name}").replace(tmp_path / f"a.{name}")
    with pytest.raises(DataError, match="do not belong together"):
        TokenStream.load(tmp_path / "a.npy")


@pytest.mark.parametrize("part", [".npy", ".ends.npy", ".bytes.npy"])
def test_a_byte_that_flipped_in_the_cache_is_noticed(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, part: str
) -> None:
    cached_tokens(source, tokenizer, split="eval", folder=tmp_path)
    (file,) = (path for path in tmp_path.glob("tokens-*.npy") if path.name.partition(".")[2] == part[1:])
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file.name} is damaged.*Delete tokens-\w+\* in .*next run makes it again"):
        cached_tokens(source, tokenizer, split="eval", folder=tmp_path)


@pytest.mark.parametrize("part", [".npy", ".ends.npy", ".bytes.npy"])
@pytest.mark.parametrize("has_sum", [True, False], ids=["with a sum", "older"])
@pytest.mark.parametrize(
    ("damage", "message"), [("cut", "damaged|cut off"), ("empty", "damaged|cut off"), ("gone", "")]
)
def test_a_damaged_stream_is_one_error_that_names_the_file(
    documents: list[Document],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    part: str,
    has_sum: bool,
    damage: str,
    message: str,
) -> None:
    write_tokens(documents, tokenizer, tmp_path / "a.npy")
    file = tmp_path / f"a{part}"
    if not has_sum:
        for beside in tmp_path.glob("*.sha256"):
            beside.unlink()
    if damage == "gone":
        file.unlink()
        message = "no token stream" if part == ".npy" else "is missing"
    else:
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else file.stat().st_size // 2])
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        TokenStream.load(tmp_path / "a.npy")
    assert f"a{part}" in str(error.value)


def test_a_stream_without_sums_still_opens(
    documents: list[Document], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    stream = write_tokens(documents, tokenizer, tmp_path / "a.npy")
    for beside in tmp_path.glob("*.sha256"):
        beside.unlink()
    np.testing.assert_array_equal(TokenStream.load(tmp_path / "a.npy").tokens, stream.tokens)


def test_documents_begin_with_what_the_tokenizer_puts_there_when_asked(
    documents: list[Document],
    tokenizer: PreTrainedTokenizerBase,
    bos_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    plain = write_tokens(documents, tokenizer, tmp_path / "plain.npy", bos="auto")
    stream = write_tokens(documents, bos_tokenizer, tmp_path / "bos.npy", bos="auto")
    without = write_tokens(documents, bos_tokenizer, tmp_path / "without.npy")
    np.testing.assert_array_equal(without.tokens, plain.tokens)
    (bos,) = bos_tokens(bos_tokenizer)
    for index in range(len(documents)):
        np.testing.assert_array_equal(stream.document(index), [bos, *plain.document(index)])
    np.testing.assert_array_equal(stream.n_bytes, plain.n_bytes)


def test_all_documents_come_in_an_order_that_files_do_not_decide(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    texts = [f"text {i % 20}" for i in range(40)]
    for name, order in (("a", texts), ("b", texts[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in order))
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("a", 1)):
        source = TextSource(location=str(tmp_path / f"{name}.jsonl"))
        stream = cached_tokens(source, tokenizer, split=None, folder=tmp_path, seed=seed)
        orders.append([tokenizer.decode(stream.document(i)[:-1]) for i in range(len(stream.ends))])
    assert sorted(orders[0]) == sorted(texts)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][::2] == orders[0][1::2], "equal texts stand beside each other"


def test_nothing_to_tokenise_is_reported(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no documents"):
        write_tokens([], tokenizer, tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"must end in \.npy"):
        write_tokens([], tokenizer, tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_texts_are_encoded_as_plain_text(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [f"<|endoftext|> {i}" for i in range(150)]
    ids = list(encode_texts(tokenizer, texts))
    assert [tokenizer.decode(one) for one in ids] == texts
    assert all(tokenizer.eos_token_id not in one for one in ids)


def test_the_cache_is_made_once(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cached_tokens(source, tokenizer, split="lm_train", folder=tmp_path)
    monkeypatch.setattr(token_stream, "write_tokens", None)
    again = cached_tokens(source, tokenizer, split="lm_train", folder=tmp_path)
    np.testing.assert_array_equal(again.tokens, made.tokens)


def test_text_tokenizer_split_seed_and_limit_each_make_another_cache(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, texts: list[str], tmp_path: Path
) -> None:
    def names() -> set[str]:
        return {path.name for path in tmp_path.glob("tokens-*.npy") if path.name.count(".") == 1}

    variants = [
        (source, tokenizer, {}),
        (TextSource(location="generated", n_chars=100_000, seed=1), tokenizer, {}),
        (source, train_tokenizer(texts, 401), {}),
        (source, tokenizer, {"split": "eval"}),
        (source, tokenizer, {"seed": 1}),
        (source, tokenizer, {"max_tokens": 500}),
    ]
    for number, (text, words, options) in enumerate(variants, start=1):
        cached_tokens(text, words, folder=tmp_path, **{"split": "lm_train", **options})
        assert len(names()) == number


def test_the_same_bytes_in_a_file_of_another_kind_make_another_cache(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    line = '{"text": "a"}'
    texts = {}
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_text(line)
        location = TextSource(location=str(tmp_path / name))
        stream = cached_tokens(location, tokenizer, split=None, folder=tmp_path / "cache")
        texts[name] = tokenizer.decode(stream.document(0)[:-1])
    assert texts == {"a.jsonl": "a", "a.txt": line}


def test_the_splits_of_a_source_share_no_document(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    seen: list[str] = []
    for split in ("lm_train", "lens_train", "eval"):
        stream = cached_tokens(source, tokenizer, split=split, folder=tmp_path)
        seen += [tokenizer.decode(stream.document(i)[:-1]) for i in range(len(stream.ends))]
    assert sorted(seen) == sorted(document.text for document in source.documents())


def test_an_empty_split_names_the_text_and_the_split(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    source = TextSource(location="generated", n_chars=1_000, max_documents=1)
    with pytest.raises(DataError, match="generated, split 'eval': there are no documents"):
        cached_tokens(source, tokenizer, split="eval", folder=tmp_path)
