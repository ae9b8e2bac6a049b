from collections.abc import Iterator

import pytest

from diffmamba_interp.text.documents import (
    SPLITS,
    Document,
    documents_of_split,
    documents_sha256,
    shuffle_documents,
    split_of_hash,
    text_hash,
)

DOCUMENTS = [Document(f"text number {i}", f"line {i}") for i in range(200)]


def test_every_document_is_in_one_split() -> None:
    parts = [list(documents_of_split(DOCUMENTS, split)) for split in SPLITS]
    assert sorted((d for part in parts for d in part), key=lambda d: d.source) == sorted(
        DOCUMENTS, key=lambda d: d.source
    )
    for split, part in zip(SPLITS, parts, strict=True):
        assert part
        assert {split_of_hash(text_hash(document.text)) for document in part} == {split}


def test_the_split_does_not_depend_on_order_or_source() -> None:
    moved = [Document(document.text, "elsewhere") for document in reversed(DOCUMENTS)]
    for split in SPLITS:
        texts = {document.text for document in documents_of_split(DOCUMENTS, split)}
        assert {document.text for document in documents_of_split(moved, split)} == texts


@pytest.mark.parametrize("buffer_size", [None, 1, 16, 500])
def test_a_shuffle_loses_and_repeats_nothing(buffer_size: int | None) -> None:
    shuffled = list(shuffle_documents(iter(DOCUMENTS), seed=0, buffer_size=buffer_size))
    assert sorted(shuffled, key=lambda d: d.source) == sorted(DOCUMENTS, key=lambda d: d.source)
    assert (shuffled == DOCUMENTS) == (buffer_size == 1)


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> list[Document]:
        return list(shuffle_documents(DOCUMENTS, seed=seed))

    assert order(3) == order(3)
    assert order(3) != order(4)


def test_a_buffer_reads_no_further_ahead_than_its_size() -> None:
    n_read = 0

    def stream() -> Iterator[Document]:
        nonlocal n_read
        for document in DOCUMENTS:
            n_read += 1
            yield document

    next(shuffle_documents(stream(), seed=0, buffer_size=10))
    assert n_read <= 11
    with pytest.raises(ValueError, match="buffer_size is 0"):
        next(shuffle_documents(DOCUMENTS, seed=0, buffer_size=0))


def test_the_sha256_is_that_of_the_texts_in_order() -> None:
    sha256 = documents_sha256(DOCUMENTS)
    assert sha256 == documents_sha256(Document(document.text, "elsewhere") for document in DOCUMENTS)
    assert sha256 != documents_sha256(reversed(DOCUMENTS))
    assert documents_sha256([Document("ab", ""), Document("c", "")]) != documents_sha256(
        [Document("a", ""), Document("bc", "")]
    )
