"""What of a text trains a lens and what measures it: nothing on both sides, nothing left out."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.lens.held_out import LensText, lens_text
from diffmamba_interp.lens.recipe import LensRecipe
from diffmamba_interp.text import DataError, TextSource, train_tokenizer
from diffmamba_interp.text.documents import split_of_hash, text_hash
from diffmamba_interp.text.generated_text import generated_documents

RECIPE = LensRecipe(split="run", eval_tokens=10**6, sequence_length=64)
TEXTS = sorted({text for document in generated_documents(n_chars=60_000) for text in document.split("\n\n")})


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS, 400)


def source_of(folder: Path, texts: Sequence[str]) -> TextSource:
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return TextSource(location=str(folder / "a.jsonl"))


def split(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **changes: Any
) -> tuple[LensText, str, str]:
    """The parts, and their text: of training, and of what is held out piece by piece, without first tokens."""
    recipe = replace(RECIPE, **changes)
    text = lens_text(source_of(tmp_path / "data", texts), tokenizer, recipe, folder=tmp_path / "cache")
    assert text.training is not None
    held_out = "|".join(tokenizer.decode(piece.tokens[1:]) for piece in text.held_out)
    return text, tokenizer.decode(text.training.tolist()), held_out


def test_many_documents_are_held_out_whole_and_all_the_rest_is_trained_on(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    text, training, _ = split(tmp_path, tokenizer, TEXTS, sequence_length=4096)
    trained = training.split("<|endoftext|>")[:-1]
    held_out = [tokenizer.decode(piece.tokens[1:]) for piece in text.held_out]
    assert sorted([*trained, *held_out]) == sorted(TEXTS), "every document once, none on both sides"
    n_held_out = sum(len(piece.tokens) for piece in text.held_out)
    assert text.training is not None
    assert 0.09 < n_held_out / (n_held_out + len(text.training)) < 0.2
    assert [piece.n_bytes for piece in text.held_out] == [len(document.encode()) for document in held_out]


def test_long_documents_are_measured_piece_by_piece_and_every_token_once(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    whole, _, _ = split(tmp_path, tokenizer, TEXTS, sequence_length=4096)
    pieces, _, _ = split(tmp_path, tokenizer, TEXTS, sequence_length=20)
    assert len(pieces.held_out) > 5 * len(whole.held_out)
    assert max(len(piece.tokens) for piece in pieces.held_out) == 20
    for measure in (lambda piece: len(piece.tokens) - 1, lambda piece: piece.n_bytes):
        assert sum(map(measure, pieces.held_out)) == sum(map(measure, whole.held_out))


@pytest.mark.parametrize("n", [1, 3])
def test_of_one_book_or_a_few_the_ends_are_held_out(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, n: int) -> None:
    size = len(TEXTS) // n
    books = ["\n\n".join(TEXTS[size * i : size * (i + 1)]) for i in range(n)]
    text, training, _ = split(tmp_path, tokenizer, books, sequence_length=4096)
    trained = training.split("<|endoftext|>")[:-1]
    ends = [tokenizer.decode(piece.tokens) for piece in text.held_out]
    assert sorted(start + end for start, end in zip(trained, ends, strict=True)) == sorted(books)
    assert 0.05 < sum(map(len, ends)) / sum(map(len, books)) < 0.15
    assert all(piece.n_bytes == len(tokenizer.decode(piece.tokens[1:]).encode()) for piece in text.held_out)


def test_one_giant_among_many_documents_is_not_held_out_whole(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    giant = "\n\n".join(TEXTS)
    for seed in range(12):
        text, training, _ = split(tmp_path, tokenizer, [giant, *TEXTS[:12]], seed=seed)
        assert len(training) > 0.75 * (len(giant) + sum(map(len, TEXTS[:12])))
        assert text.held_out


def test_equal_texts_are_never_on_both_sides(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    copies = [variant for text in TEXTS for variant in (text, text.replace(" ", "  ", 3), text)]
    for seed in range(3):
        text, training, _ = split(tmp_path, tokenizer, copies, seed=seed, sequence_length=4096)
        sides = [
            {" ".join(document.split()) for document in documents}
            for documents in (
                training.split("<|endoftext|>")[:-1],
                [tokenizer.decode(piece.tokens[1:]) for piece in text.held_out],
            )
        ]
        assert not sides[0] & sides[1]
        assert sides[0] | sides[1] == {" ".join(text.split()) for text in TEXTS}


def test_the_seed_and_the_texts_decide_what_is_held_out_and_files_do_not(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    chosen = [split(tmp_path, tokenizer, TEXTS, seed=seed)[2] for seed in (0, 1)]
    assert chosen[0] != chosen[1]
    assert split(tmp_path, tokenizer, TEXTS[::-1])[2] == chosen[0]


def test_no_more_is_held_out_than_is_measured(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    less, training, _ = split(tmp_path, tokenizer, TEXTS, eval_tokens=500)
    more, _, _ = split(tmp_path, tokenizer, TEXTS)
    assert sum(len(piece.tokens) for piece in less.held_out) < 700
    assert len(less.held_out) < len(more.held_out)
    assert less.training is not None
    assert more.training is not None
    assert len(less.training) > len(more.training)
    assert len({training.count(document) for document in TEXTS}) == 2


def test_by_hash_the_demo_chains_splits_are_taken(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    text, training, _ = split(tmp_path, tokenizer, TEXTS, split="hash", sequence_length=4096)
    expected = {
        name: sorted(t for t in TEXTS if split_of_hash(text_hash(t)) == name) for name in ("lens_train", "eval")
    }
    assert sorted(training.split("<|endoftext|>")[:-1]) == expected["lens_train"]
    assert sorted(tokenizer.decode(piece.tokens[1:]) for piece in text.held_out) == expected["eval"]
    cut, _, _ = split(tmp_path, tokenizer, TEXTS, split="hash", sequence_length=20)
    assert len(cut.held_out) == len(text.held_out), "one piece of each"
    with pytest.raises(DataError, match="no documents.*--split run uses all of them"):
        split(tmp_path, tokenizer, ["one book " * 100], split="hash")


def test_a_whole_text_is_measured_on_where_nothing_is_trained(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    recipe = replace(RECIPE, split="whole", eval_only="lens", sequence_length=4096)
    source = source_of(tmp_path / "data", TEXTS)
    text = lens_text(source, tokenizer, recipe, folder=tmp_path / "cache", for_training=False)
    assert text.training is None
    assert sorted(tokenizer.decode(piece.tokens[1:]) for piece in text.held_out) == sorted(TEXTS)


@pytest.mark.parametrize("text", ["a", "a b c", "one two three four"])
def test_too_little_text_is_said_before_anything_is_trained(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, text: str
) -> None:
    with pytest.raises(DataError, match="tokens, too few to hold any out for measuring the lens: give more text"):
        split(tmp_path, tokenizer, [text])


def test_documents_begin_as_the_tokenizers_template_has_it(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", 1)]
    )
    for bos, first in (("auto", 1), ("never", tokenizer.eos_token_id)):
        text, training, _ = split(tmp_path, tokenizer, TEXTS, bos=bos, sequence_length=4096)
        assert {int(piece.tokens[0]) for piece in text.held_out} == {first}
        assert training.count("<|pad|>") == (training.count("<|endoftext|>") if bos == "auto" else 0)
        assert [tokenizer.decode(piece.tokens[1:]) in TEXTS for piece in text.held_out]
