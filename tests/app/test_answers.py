"""The answer that pages ask for unless told otherwise: the known one, else the model's own most likely token."""

from dataclasses import replace

import pytest
import torch

from app.shell import answers, loading
from app.shell.answers import ReadyAnswer, label_token, next_tokens, one_token, ready_answer
from app.shell.prompts import DEFAULT_NEEDLE, DEFAULT_OTHER_FACTS, DEFAULT_TEXT, parse_prompt, ready_marks
from diffmamba_interp import HookedMamba
from tests.app.conftest import IDS, MODEL, OpenApp, figures, texts

TOKENS = torch.tensor([[int(part) for part in IDS.split()]])
BUNDLED = "bundled:diff-mamba2"


@pytest.fixture
def bundled(open_app: OpenApp) -> loading.ChosenModel:
    return loading.open_model(BUNDLED, "float32", "cpu")


def test_without_a_known_answer_every_page_asks_for_the_most_likely_token(
    open_app: OpenApp, root, model_top: int
) -> None:
    wanted = str(model_top)
    assert wanted != IDS.split()[-1]
    app = open_app("interventions", ids=IDS)
    assert app.text_input(key="answer").value == ""
    assert any(f"Asked for: “{wanted}”, the most likely" in text for text in texts(app.caption))
    assert open_app("attention", ids=IDS, kind="contribution").text_input(key="token").value == wanted
    app = open_app("lens", ids=IDS, colour="target_probability")
    assert app.text_input(key="target").value == wanted
    assert figures(app)[0]["data"][0]["z"].shape[1] == TOKENS.shape[1]


@pytest.fixture(scope="module")
def model_top(root) -> int:
    with torch.no_grad():
        return int(HookedMamba.from_pretrained(root / MODEL).eval()(TOKENS)[0, -1].argmax())


def test_the_ready_prompt_and_its_labels_are_known_until_its_fact_is_changed(bundled: loading.ChosenModel) -> None:
    def prompt(text: str):
        return parse_prompt(text, bundled.tokenizer, bundled.cfg.d_vocab)

    known = ready_answer(bundled, prompt(DEFAULT_TEXT))
    assert (known.text, known.wrong) == ("hallway", ("garden", "kitchen", "office", "bathroom"))
    assert known.token == label_token("hallway", bundled)
    # Not what the model says: that is asked for only where nothing is known.
    other = ready_answer(bundled, replace(prompt(DEFAULT_TEXT), answer=" garden"))
    assert (other.text, other.source) == ("garden", "the known answer")
    changed = prompt(DEFAULT_TEXT.replace("hallway", "kitchen"))
    best = ready_answer(bundled, changed)
    assert (best.source, best.wrong) == ("the most likely next token", ())
    assert best.token == next_tokens(bundled, changed)[0][0] == label_token("kitchen", bundled)
    assert best.text == "kitchen"
    assert DEFAULT_NEEDLE in DEFAULT_TEXT
    assert DEFAULT_OTHER_FACTS.split("; ")[0] in DEFAULT_TEXT


def test_of_an_edited_ready_prompt_what_is_left_stays_marked_and_in_a_text_of_ones_own_nothing_is() -> None:
    assert ready_marks(DEFAULT_TEXT) == (DEFAULT_NEEDLE, DEFAULT_OTHER_FACTS)
    assert ready_marks(DEFAULT_TEXT.replace(DEFAULT_NEEDLE, "John went home.")) == ("", DEFAULT_OTHER_FACTS)
    assert ready_marks("Mary went to the kitchen. John moved to the garden. Where is Mary?") == ("", "")


def test_a_sentence_is_asked_for_what_the_model_says_and_not_for_its_last_word(bundled: loading.ChosenModel) -> None:
    prompt = parse_prompt("The capital of France is", bundled.tokenizer, bundled.cfg.d_vocab)
    ready = ready_answer(bundled, prompt)
    assert ready.token == next_tokens(bundled, prompt)[0][0] != prompt.tokens[-1]


def test_a_line_break_that_is_most_likely_stays_the_token_that_is_read(
    bundled: loading.ChosenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (newline,) = bundled.tokenizer.encode("\n", add_special_tokens=False).ids
    monkeypatch.setattr(answers, "next_tokens", lambda *_: [(newline, 0.5)])
    prompt = parse_prompt("one", bundled.tokenizer, bundled.cfg.d_vocab)
    ready = ready_answer(bundled, prompt)
    assert (ready.text, ready.token) == ("⏎", newline)
    assert one_token("⏎", ready, bundled) == newline


def test_a_long_pass_is_not_made_for_a_default(bundled: loading.ChosenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "forward_seconds", lambda *_: 60.0)
    prompt = parse_prompt("one two", bundled.tokenizer, bundled.cfg.d_vocab)
    assert ready_answer(bundled, prompt).token == prompt.tokens[-1]


def test_one_token_is_a_word_or_a_sign_as_it_stands(bundled: loading.ChosenModel) -> None:
    ready = ReadyAnswer(text="x", token=1, wrong=(), source="")
    assert one_token("garden", ready, bundled) == one_token(" garden", ready, bundled) == label_token("garden", bundled)
    assert bundled.tokenizer.decode([one_token(":", ready, bundled)]) == ":"
    assert one_token("x", ready, bundled) == 1
    with pytest.raises(ValueError, match="one token"):
        one_token("the garden", ready, bundled)
