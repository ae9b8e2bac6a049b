"""The side bar: on which prompt, typed or generated, and what is marked in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import loading, view_state
from app.loading import ModelKey
from app.panels.chosen_model import ChosenModel
from app.panels.errors import shown_errors
from app.prompts import (
    DEFAULT_NEEDLE,
    DEFAULT_OTHER_FACTS,
    DEFAULT_TEXT,
    Prompt,
    default_ids,
    parse_prompt,
    prompt_of_sample,
)

if TYPE_CHECKING:
    from diffmamba_interp.needle import NeedleSample

SOURCES = {"text": "typed text", "needle": "generated needle prompt"}
TASKS = {
    "qa1": "qa1: where is a person",
    "qa2": "qa2: where is an object",
    "qa3": "qa3: where was an object before",
    "qa4": "qa4: what lies north of a place",
    "qa5": "qa5: who gave what to whom",
}
LENGTHS = ("0", "256", "512", "1024", "2048", "4096")
MAX_SEED = 99


def choose_prompt(chosen: ChosenModel) -> Prompt | None:
    """The prompt in the side bar; None, with an error box on the page, if it is none for this model."""
    with shown_errors("Reading the prompt"):
        with st.sidebar:
            prompt = _typed_ids(chosen) if chosen.tokenizer is None else _text_or_sample(chosen)
            st.caption(f"{len(prompt.tokens):,} tokens" + (f"; answer:{prompt.answer}" if prompt.answer else ""))
        return prompt
    return None


def _typed_ids(chosen: ChosenModel) -> Prompt:
    label = "Prompt: token ids, since this model has no tokenizer"
    typed = view_state.text_area(label, "ids", default_ids(chosen.cfg.d_vocab), height=160)
    return parse_prompt(typed, None, chosen.cfg.d_vocab)


def _text_or_sample(chosen: ChosenModel) -> Prompt:
    source = view_state.selectbox("Prompt", "source", list(SOURCES), "text", format_func=SOURCES.__getitem__)
    if source == "needle":
        return _sample(chosen)
    typed = view_state.text_area("Text", "prompt", DEFAULT_TEXT, height=160, label_visibility="collapsed")
    ready = typed == DEFAULT_TEXT
    with st.expander("Mark in it"):
        hint = "Texts of the prompt, between semicolons"
        needle = view_state.text_input("Needle", "needle", DEFAULT_NEEDLE if ready else "", help=hint)
        distractors = view_state.text_input("Distractors", "distractors", DEFAULT_OTHER_FACTS if ready else "")
    return parse_prompt(typed, chosen.tokenizer, chosen.cfg.d_vocab, needle, distractors)


def _sample(chosen: ChosenModel) -> Prompt:
    """A prompt of the generated retrieval tasks, which the address can name however long it is."""
    assert chosen.tokenizer is not None
    task = view_state.selectbox("Task", "task", list(TASKS), "qa1", format_func=TASKS.__getitem__)
    left, right = st.columns(2)
    with left:
        length = view_state.selectbox("Tokens", "length", LENGTHS, "512", help="0: the facts without filler")
    with right:
        seed = view_state.number_input("Seed", "seed", 0, MAX_SEED, 0)
    sample = needle_sample(chosen.key, task, int(length), seed)
    with st.expander("Its text"):
        st.code(sample.prompt, language=None, wrap_lines=True, height=200)
    return prompt_of_sample(sample, chosen.tokenizer, chosen.cfg.d_vocab)


def needle_sample(key: ModelKey, task: str, length: int, seed: int) -> NeedleSample:
    """A generated retrieval prompt in the model's tokens. Raises ValueError where nothing fits the length."""

    def make() -> NeedleSample:
        from transformers import PreTrainedTokenizerFast

        from diffmamba_interp.needle import make_needle_samples

        wrapped = PreTrainedTokenizerFast(tokenizer_object=loading.tokenizer(key))
        return make_needle_samples(wrapped, task=task, n=1, length=length, seed=seed)[0]

    return loading.cache().get(
        ("sample", key.folder, key.revision, task, length, seed), make, lambda made: 100 * made.n_tokens
    )
