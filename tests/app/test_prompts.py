"""Prompts with a tokenizer: text to tokens and back."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from app.shell.prompts import parse_prompt, parse_token, read_tokenizer, spans_of_text
from tests.app.conftest import MODEL, OpenApp, complaint, drawn, texts


def test_text_becomes_tokens_with_their_text(tokenizer: Tokenizer) -> None:
    prompt = parse_prompt("the keys are red <b>", tokenizer, 97)
    assert prompt.tokens == (1, 2, 3, 5, 6)
    assert prompt.strings == ("the", "keys", "are", "red", "<b>")


def test_half_a_surrogate_pair_is_no_crash(tokenizer: Tokenizer) -> None:
    assert parse_prompt("the \ud800", tokenizer, 97).tokens == (1, 0)


def test_a_tokenizer_of_another_model_is_noticed(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="vocabulary is 0 to 3"):
        parse_prompt("the red", tokenizer, 4)


def test_one_token_is_one_token(tokenizer: Tokenizer) -> None:
    assert parse_token("red", tokenizer, 97) == 5
    with pytest.raises(ValueError, match="2 tokens \\('the' 'red'\\)"):
        parse_token("the red", tokenizer, 97)


def test_text_begins_as_the_tokenizers_template_has_it_and_spans_count_that(tokenizer: Tokenizer) -> None:
    plain = parse_prompt("the keys are red", tokenizer, 97, needle="keys", distractors="red")
    beginning = Tokenizer.from_str(tokenizer.to_str())
    beginning.post_processor = processors.TemplateProcessing(single="<b> $A", special_tokens=[("<b>", 6)])
    prompt = parse_prompt("the keys are red", beginning, 97, needle="keys", distractors="red")
    assert prompt.tokens == (6, *plain.tokens)
    assert prompt.spans.needle == tuple((start + 1, end + 1) for start, end in plain.spans.needle)
    assert parse_prompt("the keys are red", beginning, 97, bos="never").tokens == plain.tokens
    assert parse_token("red", beginning, 97) == 5
    with pytest.raises(ValueError, match="the prompt is empty"):
        parse_prompt("", beginning, 97)


def test_the_beginning_of_text_can_be_left_out_where_the_tokenizer_puts_one(
    open_app: OpenApp, root: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    beginning = Tokenizer.from_str(tokenizer.to_str())
    beginning.post_processor = processors.TemplateProcessing(single="<b> $A", special_tokens=[("<b>", 6)])
    shutil.copytree(root / MODEL, tmp_path / "begins")
    beginning.save(str(tmp_path / "begins" / "tokenizer.json"))
    app = open_app("attention", at_root=tmp_path, model="begins", prompt="the keys")
    assert drawn(app)["layout"]["xaxis"]["ticktext"] == ["0 &lt;b&gt;", "1 the", "2 keys"]
    app.toggle(key="bos").set_value(False).run()
    assert drawn(app)["layout"]["xaxis"]["ticktext"] == ["0 the", "1 keys"]
    assert app.query_params["bos"] in ("False", ["False"])


def test_a_model_with_a_tokenizer_takes_text(open_app: OpenApp, worded: str) -> None:
    app = open_app("attention", model=worded, prompt="the keys <b>")
    assert not [toggle for toggle in app.toggle if toggle.key == "bos"]
    assert drawn(app)["layout"]["xaxis"]["ticktext"] == ["0 the", "1 keys", "2 &lt;b&gt;"]


def test_a_corrupt_tokenizer_is_an_error_box(open_app: OpenApp, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / MODEL, tmp_path / MODEL)
    (tmp_path / MODEL / "tokenizer.json").write_text("[]", encoding="utf-8")
    assert "is no tokenizer" in complaint(open_app(at_root=tmp_path))


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path) is None


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ("5 6 tree", "token 2 is 'tree'"),
        ("<script>alert(1)</script>", "no token id"),
        ("5 97", "vocabulary is 0 to 96"),
        ("-3", "no token id"),
        ("  ", "empty"),
        ("\x00\x01", "no token id"),
        ("٣", "no token id"),
        ("5 " * 20_000, "at most 16,384"),
        ("7" * 1_000_000, "at most 200,000"),
    ],
)
def test_what_is_no_prompt_is_refused_and_says_why(ids: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_prompt(ids, None, 97)


def test_an_answer_that_does_not_stand_in_the_prompt_is_told_and_so_is_a_comma_between_two(open_app: OpenApp) -> None:
    def warned(**marks: str) -> list[str]:
        return texts(open_app("attention", model="bundled:diff-mamba2", **marks).sidebar.warning)

    assert not warned()
    assert not warned(answer="garden", wrong="hallway; kitchen")
    (told,) = warned(wrong="garden, kitchen")
    assert told.startswith("'garden, kitchen' is read as one answer, by its first token alone")
    assert "separated by semicolons" in told
    wrong, right = warned(wrong="garden; cellar", answer="hallway, office")[::-1]
    assert wrong.startswith("'cellar' does not stand in the prompt")
    assert right.startswith("'hallway, office' is read as one answer")
    # A generated prompt's own labels need not stand in it.
    assert not warned(source="needle", length="0")


def test_token_ids_stand_between_blanks_or_commas() -> None:
    assert parse_prompt("5, 6;7\n8", None, 97).tokens == (5, 6, 7, 8)


def test_a_marked_text_takes_every_token_that_it_touches() -> None:
    text = "the keys are in red boxes"
    offsets = [(0, 3), (3, 8), (8, 12), (12, 15), (15, 19), (19, 25)]
    spans = spans_of_text(text, offsets, needle="keys are in", distractors="red; boxes")
    assert spans.needle == ((1, 4),)
    assert spans.distractors in (((4, 5), (5, 6)), ((4, 6),))
    with pytest.raises(ValueError, match="'blue' does not occur"):
        spans_of_text(text, offsets, needle="blue", distractors="")
