"""Where rows take their tokens from: crops of text, filler sentences, pieces of stories."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from diffmamba_interp.lm_training.mixture import TextCrops
from diffmamba_interp.lm_training.sample_tokens import FillerTokens, PieceTokens
from diffmamba_interp.needle.filler import split_sentences
from diffmamba_interp.text import DataError, Document, TokenStream, write_tokens


def crops(n: int = 1003, *, length: int = 10, seed: int = 0, part: int = 0) -> TextCrops:
    return TextCrops(np.arange(n, dtype=np.uint16), length=length, seed=seed, part=part)


def test_an_epoch_takes_each_crop_once_and_the_next_one_in_another_order() -> None:
    text = crops()
    epochs = [[text.crop(k).tolist() for k in range(e * text.n_crops, (e + 1) * text.n_crops)] for e in range(2)]
    for epoch in epochs:
        starts = sorted(row[0] for row in epoch)
        assert np.diff(starts).tolist() == [10] * (text.n_crops - 1)
        assert all(row == list(range(row[0], row[0] + 11)) for row in epoch)
    assert epochs[0] != epochs[1]


def test_a_crop_depends_on_seed_part_and_number_alone() -> None:
    forwards = [crops().crop(k).tolist() for k in range(5)]
    one = crops()
    assert [one.crop(k).tolist() for k in (3, 250, 4)][::2] == forwards[3:]
    assert [crops(seed=1).crop(k).tolist() for k in range(5)] != forwards
    assert [crops(part=1).crop(k).tolist() for k in range(5)] != forwards


@pytest.mark.parametrize(("n", "n_crops"), [(11, 1), (12, 1), (20, 1), (31, 2)])
def test_short_text_gives_what_crops_it_can(n: int, n_crops: int) -> None:
    text = crops(n)
    assert text.n_crops == n_crops
    assert [len(text.crop(k)) for k in range(5)] == [11] * 5


def test_text_that_fills_no_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"10 tokens, too few for one row of 10 \+ 1: give more text, or a smaller"):
        crops(10)


def test_filler_sentences_are_those_of_the_text_less_its_cut_off_ends(
    data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    stream = TokenStream.load(data / "eval.npy")
    filler = FillerTokens.from_streams(tokenizer, [stream], None)
    decode = tokenizer.backend_tokenizer.decode
    expected = [
        f" {sentence}"
        for index in range(len(stream.ends))
        for sentence in split_sentences(decode(stream.document(index)[:-1].tolist()))[1:-1]
    ]
    pairs = zip(filler.bounds[:-1], filler.bounds[1:], strict=True)
    assert [decode(filler.tokens[a:b].tolist()) for a, b in pairs] == expected


def test_fewer_filler_tokens_are_taken_when_asked(data: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    stream = TokenStream.load(data / "train.npy")
    everything, some = (FillerTokens.from_streams(tokenizer, [stream], n) for n in (None, len(stream.tokens) // 3))
    assert 0 < len(some.tokens) < 0.6 * len(everything.tokens)


def test_a_stretch_is_the_longest_within_its_budget() -> None:
    filler = FillerTokens(tokens=np.arange(10, dtype=np.uint32), bounds=np.array([0, 4, 7, 10]))
    assert [filler.stretch(0, budget) for budget in (3, 4, 6, 7, 99)] == [(0, 0), (0, 1), (0, 1), (0, 2), (0, 3)]
    assert [filler.n_starts(budget) for budget in (10, 6, 3, 11)] == [1, 2, 3, 0]


def test_filler_without_a_sentence_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    stream = write_tokens([Document("word", "here")], tokenizer, tmp_path / "short.npy")
    with pytest.raises(DataError, match="no sentence: name token streams with running text"):
        FillerTokens.from_streams(tokenizer, [stream], None)


def test_special_tokens_names_in_a_piece_are_only_letters(tokenizer: PreTrainedTokenizerBase) -> None:
    pieces = PieceTokens(tokenizer)
    ids = pieces.ids_once("a <|endoftext|> b")
    assert tokenizer.eos_token_id not in ids
    assert pieces.text(ids) == "a <|endoftext|> b"


def test_a_tokenizer_that_joins_words_across_spaces_is_refused() -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    with pytest.raises(ValueError, match="may join words across a space"):
        PieceTokens(PreTrainedTokenizerFast(tokenizer_object=backend))
