"""What should follow a prompt: the answer that is known, otherwise what the model finds most likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from app.shell import loading
from app.shell.estimates import LONG_S, forward_seconds
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt, parse_token, token_text
from app.shell.tables import Cell, draw_table
from diffmamba_interp import HookedMamba
from diffmamba_interp.drawing.labels import probability_text, token_label

N_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ReadyAnswer:
    """What a page asks for unless told otherwise.

    text: as a widget shows it. token: its first token. wrong: the labels that compete with it, if known. source: where
    it comes from, in words.
    """

    text: str
    token: int
    wrong: tuple[str, ...]
    source: str


def ready_answer(chosen: ChosenModel, prompt: Prompt) -> ReadyAnswer:
    """The answer that is marked in the side bar or known, otherwise the model's most likely token.

    Where a forward pass would be long, which no page makes unasked, it is the prompt's last token.
    """
    if prompt.answer:
        token = label_token(prompt.answer, chosen)
        source = "the answer marked in the side bar" if prompt.is_marked else "the known answer"
        return ReadyAnswer(text=prompt.answer.strip(), token=token, wrong=prompt.wrong, source=source)
    if forward_seconds(chosen.key, len(prompt.tokens)) > LONG_S:
        token, source = prompt.tokens[-1], "the prompt's last token"
    else:
        token, source = next_tokens(chosen, prompt)[0][0], "the most likely next token"
    shown = token_label(token_text(token, chosen.tokenizer).removeprefix(" ")) or str(token)
    return ReadyAnswer(text=shown, token=token, wrong=prompt.wrong, source=source)


def one_token(typed: str, ready: ReadyAnswer, chosen: ChosenModel) -> int:
    """The token that was typed, a word with the space before it where that is one token, a sign as it stands; or the
    ready one. Raises ValueError for a text of several tokens."""
    if typed == ready.text:
        return ready.token
    if chosen.tokenizer is not None and typed.strip()[:1].isalnum():
        as_word = label_tokens(typed, chosen)
        if len(as_word) == 1 and as_word[0] < chosen.cfg.d_vocab:
            return as_word[0]
    return parse_token(typed, chosen.tokenizer, chosen.cfg.d_vocab)


def label_token(text: str, chosen: ChosenModel) -> int:
    """The first token of a label after a prompt, to which the space before it belongs; an id without a tokenizer.

    Raises ValueError for an empty text, or a token outside of the vocabulary.
    """
    if chosen.tokenizer is None:
        return parse_token(text, None, chosen.cfg.d_vocab)
    ids = label_tokens(text, chosen)
    if not text.strip() or not ids:
        raise ValueError("the answer is empty: give the text that should follow the prompt.")
    if ids[0] >= chosen.cfg.d_vocab:
        raise ValueError(
            f"{text[:40]!r} is token {ids[0]}, but the model's vocabulary is 0 to {chosen.cfg.d_vocab - 1}."
        )
    return ids[0]


def compared_tokens(ready: ReadyAnswer, chosen: ChosenModel) -> tuple[int, ...]:
    """First tokens of the answer and the wrong ones; empty where it is compared with none. Raises as `label_token`."""
    tokens = dict.fromkeys([ready.token, *(label_token(text, chosen) for text in ready.wrong)])
    return tuple(tokens) if len(tokens) > 1 else ()


def label_tokens(text: str, chosen: ChosenModel) -> list[int]:
    """All tokens of a label, with the space before it."""
    assert chosen.tokenizer is not None
    plain = text.strip().encode("utf-8", "replace").decode("utf-8")
    return chosen.tokenizer.encode(f" {plain}", add_special_tokens=False).ids


def draw_likely(rows: Sequence[Mapping[str, Cell]]) -> None:
    """Lines with a `probability`, drawn as a bar, and its number in words: rows of zeros would say nothing."""
    lines = [
        {**{name: value for name, value in row.items() if name != "probability"},
         "is": probability_text(cast(float, row["probability"])), "probability": row["probability"]}
        for row in rows
    ]  # fmt: skip
    draw_table(lines, bar="probability")


def next_tokens(chosen: ChosenModel, prompt: Prompt) -> list[tuple[int, float]]:
    """The likeliest tokens after the prompt and their probabilities, best first."""

    def make(model: HookedMamba) -> list[tuple[int, float]]:
        with torch.no_grad():
            logits, _ = model.forward_with_state(
                torch.tensor([prompt.tokens], device=chosen.key.device), last_only=True
            )
        best = torch.softmax(logits[0, 0].float(), dim=-1).topk(min(N_SHOWN, chosen.cfg.d_vocab))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    return loading.result(chosen.key, ("next", prompt), make, lambda _: 1000)
