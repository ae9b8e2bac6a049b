"""What each model would say next: the first thing to know about a prompt."""

from __future__ import annotations

import streamlit as st
import torch

from app import loading
from app.panels.chosen_model import ChosenModel
from app.panels.long_runs import agreed
from app.prompts import Prompt, token_text
from diffmamba_interp import HookedMamba

N_SHOWN = 5


def draw_next_tokens(models: list[ChosenModel], prompt: Prompt) -> None:
    """The likeliest next tokens of every model after the prompt."""
    st.subheader("What comes next")
    for column, chosen in zip(st.columns(len(models)), models, strict=True):
        with column:
            if max(prompt.tokens) >= chosen.cfg.d_vocab:
                st.caption("This model has a smaller vocabulary.")
            elif agreed(chosen.key, len(prompt.tokens), what=("next", prompt), reduce="Shorten the prompt"):
                config = {"probability": st.column_config.ProgressColumn(min_value=0, max_value=1, format="%.4f")}
                st.dataframe(next_tokens(chosen, prompt), hide_index=True, width="stretch", column_config=config)


def next_tokens(chosen: ChosenModel, prompt: Prompt) -> list[dict[str, object]]:
    """The likeliest tokens after the prompt, best first."""

    def make(model: HookedMamba) -> list[tuple[int, float]]:
        with torch.no_grad():
            logits, _ = model.forward_with_state(
                torch.tensor([prompt.tokens], device=chosen.key.device), last_only=True
            )
        best = torch.softmax(logits[0, 0].float(), dim=-1).topk(min(N_SHOWN, chosen.cfg.d_vocab))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    found = loading.result(chosen.key, ("next", prompt), make, lambda _: 1000)
    return [
        {"next token": repr(token_text(token, chosen.tokenizer)), "probability": probability}
        for token, probability in found
    ]
