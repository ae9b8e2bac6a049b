import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.text.documents import DataError
from diffmamba_interp.text.stable_random import StableRandom
from diffmamba_interp.text.tokenizer import (
    END_OF_TEXT,
    MIN_VOCAB_SIZE,
    PAD,
    bos_tokens,
    load_tokenizer,
    save_tokenizer,
    text_of_token,
    tokenizer_hash,
    train_tokenizer,
)

STRANGE = [
    "",
    " ",
    "  two  spaces\n\n\ttab \r\n",
    "don't 'sup we'll",
    "3.14159 and 1,000,000",
    "é漢字🎉\u200b\ufeff\x00\x7f",
    "<|endoftext|><|pad|>",
    "def f(x):\n    return x**2  # 100%\n",
    "אבג عربى हिन्दी",
]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("text", STRANGE)
def test_every_text_comes_back_as_it_was(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_random_unicode_comes_back_as_it_was(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = StableRandom("unicode")
    for _ in range(50):
        codes = [rng.integer(0x110000 if rng.uniform() < 0.5 else 0x300) for _ in range(40)]
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        assert tokenizer.decode(encode(tokenizer, text)) == text


def test_it_has_the_size_and_the_special_tokens_that_were_asked_for(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert len(tokenizer) == 400
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END_OF_TEXT, 0)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PAD, 1)
    assert tokenizer(END_OF_TEXT)["input_ids"] == [0]


def test_nothing_is_added_to_a_text(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("Mary")["input_ids"] == encode(tokenizer, "Mary")


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    pieces = tokenizer.convert_ids_to_tokens(encode(tokenizer, "x 1234 5.67"))
    assert all(sum(character.isdigit() for character in piece) <= 1 for piece in pieces)


def test_an_answer_does_not_change_the_tokens_of_its_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt, answer = "<context>Mary left.</context> Question: Where is Mary? Answer:", " bathroom"
    together = encode(tokenizer, prompt + answer)
    assert together == encode(tokenizer, prompt) + encode(tokenizer, answer)


def test_a_frequent_word_with_its_space_is_one_token() -> None:
    tokenizer = train_tokenizer(["Mary went to the bathroom. What an uncommon zebra."] * 50, 294)
    assert len(encode(tokenizer, " bathroom")) == 1
    assert tokenizer.decode(encode(tokenizer, " bathroom")) == " bathroom"


def test_training_twice_or_in_another_order_gives_the_same(texts: list[str]) -> None:
    first = tokenizer_hash(train_tokenizer(texts, 350))
    assert tokenizer_hash(train_tokenizer(texts, 350)) == first
    assert tokenizer_hash(train_tokenizer(texts[::-1], 350)) == first
    assert tokenizer_hash(train_tokenizer(texts, 351)) != first


def test_a_part_of_the_text_is_drawn_by_the_seed(texts: list[str]) -> None:
    def part(seed: int, max_bytes: int) -> str:
        return tokenizer_hash(train_tokenizer(texts, 300, seed, max_bytes=max_bytes))

    assert part(0, 8_000) == part(0, 8_000)
    assert part(0, 8_000) != part(1, 8_000)
    assert part(0, 10_000_000) == part(1, 10_000_000)


def test_a_folder_keeps_everything(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    for _ in range(2):
        save_tokenizer(tokenizer, tmp_path / "tok")
    assert {path.name for path in (tmp_path / "tok").iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (tmp_path / "tok" / "tokenizer.json").read_text(encoding="utf-8").count("\n") == 0
    for source in (tmp_path / "tok", tmp_path / "tok" / "tokenizer.json"):
        loaded = load_tokenizer(source)
        assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
        assert loaded.eos_token_id == 0
        for text in STRANGE:
            assert encode(loaded, text) == encode(tokenizer, text)


def test_the_hash_ignores_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "b c"], padding=True)
    assert tokenizer_hash(tokenizer) == before


def test_too_small_a_vocabulary_or_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="must be greater than 258"):
        train_tokenizer(texts, 258)
    with pytest.raises(DataError, match="of the 4096 asked for"):
        train_tokenizer(["a few words"], 4096)


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.BPE()).save(str(path))
    with pytest.raises(DataError, match="has no token <|endoftext|>"):
        load_tokenizer(path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\x00", '{"model": 3}'])
def test_a_tokenizer_file_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json is no tokenizer\.json of the tokenizers library"):
        load_tokenizer(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_asks_for_code_of_its_own_is_refused_without_a_question(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked whether to run code"))
    (tmp_path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    settings = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"code of its own \(auto_map in tokenizer_config.json\), which is never run"):
        load_tokenizer(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    assert tokenizer_hash(load_tokenizer(tmp_path / "tokenizer.json")) == tokenizer_hash(tokenizer)
    assert not (tmp_path / "ran").exists()


def state_spaces_folder(folder: Path, n_tokens: int) -> Path:
    (folder / "config.json").write_text(json.dumps({"d_model": 8, "n_layer": 1, "vocab_size": n_tokens}))
    return folder


def test_a_state_spaces_model_gets_the_tokenizer_it_was_trained_with(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetched(name: str, **options: object) -> PreTrainedTokenizerBase:
        asked.append((name, options))
        return tokenizer

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fetched)
    assert load_tokenizer(state_spaces_folder(tmp_path, 50277)) is tokenizer
    assert asked == [("EleutherAI/gpt-neox-20b", {"trust_remote_code": False})]
    with pytest.raises(DataError, match="holds no tokenizer: give a folder"):
        load_tokenizer(state_spaces_folder(tmp_path, 32000))


def test_without_a_network_a_state_spaces_model_says_which_tokenizer_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"trained with EleutherAI/gpt-neox-20b, which could not be fetched .*\(hf download"
    ):
        load_tokenizer(state_spaces_folder(tmp_path, 50277))


def test_the_beginning_of_a_text_is_the_tokenizers_own_habit(
    tokenizer: PreTrainedTokenizerBase, bos_tokenizer: PreTrainedTokenizerBase
) -> None:
    assert bos_tokens(tokenizer) == ()
    assert bos_tokens(bos_tokenizer) == bos_tokens(bos_tokenizer.backend_tokenizer) == (1,)
    assert bos_tokens(bos_tokenizer, "never") == ()
    assert bos_tokens(bos_tokenizer, "always") == (1,)
    assert bos_tokens(tokenizer, "always") == (tokenizer.bos_token_id,)
    with pytest.raises(DataError, match="no beginning-of-text token"):
        bos_tokens(tokenizer.backend_tokenizer, "always")


def test_a_template_that_ends_texts_or_pads_them_puts_nothing_before_them(texts: list[str]) -> None:
    backend = train_tokenizer(texts, 400).backend_tokenizer
    backend.enable_padding(direction="left", pad_id=1, pad_token="<|pad|>", length=8)
    assert bos_tokens(backend) == ()
    backend.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A <|endoftext|>", special_tokens=[("<|pad|>", 1), ("<|endoftext|>", 0)]
    )
    assert bos_tokens(backend) == (1,)


def test_a_token_that_ends_inside_a_character_is_told_by_its_bytes() -> None:
    tokenizer = train_tokenizer(["the keys"], vocab_size=MIN_VOCAB_SIZE + 1).backend_tokenizer
    texts = [text_of_token(token, tokenizer) for token in tokenizer.encode("é‰ k", add_special_tokens=False).ids]
    assert texts[:5] == ["\\xc3", "\\xa9", "\\xe2", "\\x80", "\\xb0"]
    assert "".join(texts[5:]) == " k"
