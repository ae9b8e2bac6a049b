"""Which answer is read at a prompt's last position, and which wrong labels it is compared with."""

from __future__ import annotations

import streamlit as st
from tokenizers import Tokenizer

from app import view_state
from app.intervention_request import Answer
from app.panels.chosen_model import ChosenModel
from app.panels.chosen_prompt import needle_sample
from app.panels.plain_text import markdown
from app.prompt_spans import SEPARATOR
from app.prompts import DEFAULT_DISTRACTORS, DEFAULT_NEEDLE, Prompt, parse_token, token_text

DEFAULT_ANSWER = "hallway"


def choose_answer(chosen: ChosenModel, prompt: Prompt) -> Answer:
    """The answer and the wrong labels, ready for a generated prompt. Raises ValueError for an answer that is none."""
    ready, others = ready_labels(chosen, prompt)
    left, right = st.columns(2)
    with left:
        typed = view_state.text_input("Answer", "answer", ready, help="What should follow the prompt")
    with right:
        hint = "Between semicolons; for the signal-to-noise ratio. May be empty."
        wrong = view_state.text_input("Wrong answers", "wrong", SEPARATOR.join(others), help=hint)
    token = first_token(typed, chosen)
    texts = [part.strip() for part in wrong.split(SEPARATOR) if part.strip()]
    labels = dict.fromkeys([token, *(first_token(text, chosen) for text in texts)])
    if chosen.tokenizer and len(encoded(typed, chosen.tokenizer)) > 1:
        st.caption(f"The answer is read by its first token, {markdown(repr(token_text(token, chosen.tokenizer)))}.")
    if len(labels) <= len(texts):
        st.caption("Wrong answers that begin with the first token of another label are left out.")
    return Answer(token=token, labels=tuple(labels) if len(labels) > 1 else ())


def ready_labels(chosen: ChosenModel, prompt: Prompt) -> tuple[str, list[str]]:
    """The answer and the wrong labels of a generated prompt or the ready one; otherwise the last token."""
    said = st.session_state
    if prompt.answer and said.get("source") == "needle":
        sample = needle_sample(chosen.key, said["task"], int(said["length"]), said["seed"])
        return sample.answer, list(sample.distractors)
    if chosen.tokenizer and DEFAULT_NEEDLE in "".join(prompt.strings):
        return DEFAULT_ANSWER, [part.strip() for part in DEFAULT_DISTRACTORS.split(SEPARATOR)]
    return prompt.strings[-1].strip() or prompt.strings[0].strip(), []


def first_token(text: str, chosen: ChosenModel) -> int:
    """The first token of a label after a prompt, to which the space before it belongs; an id without a tokenizer."""
    if chosen.tokenizer is None:
        return parse_token(text, None, chosen.cfg.d_vocab)
    ids = encoded(text, chosen.tokenizer)
    if not text.strip() or not ids:
        raise ValueError("the answer is empty: give the text that should follow the prompt.")
    if ids[0] >= chosen.cfg.d_vocab:
        raise ValueError(
            f"{text[:40]!r} is token {ids[0]}, but the model's vocabulary is 0 to {chosen.cfg.d_vocab - 1}."
        )
    return ids[0]


def encoded(text: str, tokenizer: Tokenizer) -> list[int]:
    plain = text.strip().encode("utf-8", "replace").decode("utf-8")
    return tokenizer.encode(f" {plain}", add_special_tokens=False).ids
