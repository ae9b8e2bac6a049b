import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle.filler import (
    MAX_SENTENCE_CHARS,
    Filler,
    splices_at_spaces,
    split_sentences,
    tokenise,
)


def test_sentences_end_where_a_reader_would_end_them() -> None:
    text = 'It rained. "Come in!" she said.  He paid 3.50 dollars\nat noon? Yes.\n\nCHAPTER II\n\nThe end'
    assert split_sentences(text) == [
        "It rained.",
        '"Come in!" she said.',
        "He paid 3.50 dollars at noon?",
        "Yes.",
        "CHAPTER II",
        "The end",
    ]


def test_closing_quotes_stay_with_their_sentence() -> None:
    assert split_sentences('He said "No." Then he left (at once.) Good.') == [
        'He said "No."',
        "Then he left (at once.)",
        "Good.",
    ]


def test_no_word_is_lost_or_changed(texts: list[str]) -> None:
    for text in texts:
        assert " ".join(split_sentences(text)) == " ".join(text.split())


def test_text_without_full_stops_is_cut_into_chunks() -> None:
    chunks = split_sentences("word " * 500 + "x" * 1_000)
    assert chunks[-1] == "x" * 1_000
    assert all(len(chunk) <= MAX_SENTENCE_CHARS for chunk in chunks[:-1])
    assert min(len(chunk) for chunk in chunks[:-2]) > MAX_SENTENCE_CHARS - 6


def test_any_run_of_sentences_has_the_tokens_and_offsets_of_its_text(
    filler: Filler, tokenizer: PreTrainedTokenizerBase
) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        first = int(rng.integers((len(filler.sentence_chars) - 1) - 1))
        last = int(rng.integers(first + 1, min(first + 30, (len(filler.sentence_chars) - 1)) + 1))
        run = filler.run(first, last)
        expected = tokenise(tokenizer, [run.text])[0]
        np.testing.assert_array_equal(run.tokens, expected.tokens)
        np.testing.assert_array_equal(run.starts, expected.starts)
        np.testing.assert_array_equal(run.ends, expected.ends)


def test_text_longer_than_one_call_is_tokenised_as_a_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "The road was long and the night was cold. " * 2_600
    filler = Filler.from_texts(tokenizer, text)
    np.testing.assert_array_equal(filler.tokens, tokenise(tokenizer, [filler.text])[0].tokens)
    assert len(filler.sentence_chars) - 1 == 2_600


def test_names_of_special_tokens_in_a_text_are_only_letters(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = tokenise(tokenizer, ["a<|endoftext|>b"])[0].tokens
    assert tokenizer.eos_token_id not in tokens
    assert tokenizer.decode(tokens) == "a<|endoftext|>b"


def test_a_tokenizer_that_joins_words_cannot_be_spliced(
    tokenizer: PreTrainedTokenizerBase, unsplit_tokenizer: PreTrainedTokenizerBase
) -> None:
    letters = frozenset("ABC")
    assert splices_at_spaces(tokenizer, letters, frozenset('.?!"x1'))
    assert not splices_at_spaces(unsplit_tokenizer, letters, frozenset("."))


def test_filler_without_a_sentence_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="holds no sentence"):
        Filler.from_texts(tokenizer, ["", " \n "])
