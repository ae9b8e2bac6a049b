"""The side bar: which model, in which dtype, on which prompt."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st
from tokenizers import Tokenizer

from app import loading, view_state
from app.loading import ModelKey
from app.panels.errors import shown_errors
from app.prompts import DEFAULT_TEXT, Prompt, default_ids, parse_prompt
from diffmamba_interp import HookedMambaConfig

FIRST_CHOICES = (
    "bundled:diff-mamba2",
    "tests/fixtures/published_diffmamba2/alternate",
)
"""Taken as the first model to show, if they lie below the root."""


@dataclass(frozen=True, kw_only=True)
class ChosenModel:
    """name: bundled model or folder below the root. tokenizer: None where the folder has none."""

    name: str
    key: ModelKey
    cfg: HookedMambaConfig
    tokenizer: Tokenizer | None


def choose_model(key: str = "model", label: str = "Model") -> ChosenModel | None:
    """The model that the side bar names; None, with an error box on the page, if it cannot be read."""
    with shown_errors("Opening the model"):
        names, _ = loading.found_folders(loading.options().root)
        default = next((name for name in FIRST_CHOICES if name in names), names[0] if names else "")
        with st.sidebar:
            name = view_state.selectbox(
                label, key, names, default, accept_new_options=True,
                help=f"A checkpoint folder below {loading.options().root.resolve()}",
            )  # fmt: skip
            dtype = view_state.selectbox("Numbers", f"{key}_dtype", tuple(loading.DTYPES), "float32")
        if not name:
            raise FileNotFoundError(
                f"no checkpoint folder below the root {loading.options().root.resolve()}: start the explorer with "
                "`-- --root FOLDER`, or type a folder's name in the side bar."
            )
        found = loading.model_key(name, dtype)
        cfg, tokenizer = loading.config(found), loading.tokenizer(found)
        return ChosenModel(name=name, key=found, cfg=cfg, tokenizer=tokenizer)
    return None


def choose_prompt(chosen: ChosenModel) -> Prompt | None:
    """The prompt in the side bar; None, with an error box on the page, if it is none for this model."""
    with_text = chosen.tokenizer is not None
    with st.sidebar:
        typed = view_state.text_area(
            "Prompt" if with_text else "Prompt: token ids, since this model has no tokenizer",
            "prompt" if with_text else "ids",
            DEFAULT_TEXT if with_text else default_ids(chosen.cfg.d_vocab),
            height=160,
        )
    with shown_errors("Reading the prompt"):
        prompt = parse_prompt(typed, chosen.tokenizer, chosen.cfg.d_vocab)
        st.sidebar.caption(f"{len(prompt.tokens):,} tokens")
        return prompt
    return None
