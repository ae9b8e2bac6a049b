"""Two prompts of as many tokens: the page's, and one in which the answer and a wrong answer changed places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.shell import state
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt, parse_prompt, token_text


def exchanged(tokens: Sequence[int], answer: int, wrong: int | None) -> tuple[int, ...]:
    """The tokens with the two exchanged wherever they stand."""
    if wrong is None:
        return tuple(tokens)
    return tuple({answer: wrong, wrong: answer}.get(token, token) for token in tokens)


def exchanged_prompt(prompt: Prompt, answer: int, wrong: int | None) -> Prompt:
    """The prompt with the two exchanged."""
    return replace(prompt, tokens=exchanged(prompt.tokens, answer, wrong))


def choose_other(chosen: ChosenModel, prompt: Prompt, answer: int, wrong: int | None) -> Prompt:
    """The other prompt, with the spans of the first, ready with the answer and a wrong one exchanged.

    Raises ValueError for one of another length.
    """
    between = "" if chosen.tokenizer else " "
    text = between.join(token_text(token, chosen.tokenizer) for token in exchanged(prompt.tokens, answer, wrong))
    hint = "As many tokens as the prompt; ready: the answer and the first wrong answer exchanged"
    typed = state.text_area("The other prompt", "other_prompt", text, height=100, help=hint)
    other = parse_prompt(typed, chosen.tokenizer, chosen.cfg.d_vocab, bos="never")
    if len(other.tokens) != len(prompt.tokens):
        raise ValueError(
            f"the other prompt has {len(other.tokens)} tokens and the prompt {len(prompt.tokens)}: what is read at a "
            "position is compared with the same position, so exchange words for others of as many tokens."
        )
    return replace(other, spans=prompt.spans)
