"""Numbers and tokens as sentences have them: with the minus of the figures' axes, n, and quotes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffmamba_interp.drawing.labels import probability_text, token_label
from diffmamba_interp.statistics import MIN_SAMPLES, Estimate

NEAR_ONE = 0.995
"""From here on two decimals would say 1."""

MOST_LETTERS = 70
"""Of a prompt in a list."""


def prompts(n: int) -> str:
    return f"n = {counted(n)}"


def counted(n: int) -> str:
    return f"{n:,} prompt{'' if n == 1 else 's'}"


def too_few(n: int) -> str:
    """Why nothing can be decided, where it is for the number of prompts."""
    return f", of which {MIN_SAMPLES} are the fewest that decide" if n < MIN_SAMPLES else ""


def estimated(estimate: Estimate, decimals: int) -> str:
    """Signed, with its interval, and with the minus of the figures' axes."""
    return estimate.text(decimals, signed=True).replace("-", "−")


def signed_text(value: float, digits: int = 3) -> str:
    """With its sign, and without powers of ten."""
    text = np.format_float_positional(value, precision=digits, fractional=False, sign=True, trim="-")
    return text.replace("-", "−")


def said(value: float) -> str:
    """A share or a probability: two decimals, one digit of what is smaller, `1 in 43,000`, `0.998` or `> 0.999`."""
    if 0 < value < 0.0005 or NEAR_ONE <= value < 1:
        return probability_text(value)
    return (f"{value:.2f}" if value == 0 or abs(value) >= 0.095 else f"{value:.1g}").replace("-", "−")


def quoted(text: str) -> str:
    """A token in quotes: a colon or a full stop alone would be read as the sentence's own."""
    return f"“{word(text)}”"


def of_prompt(strings: Sequence[str]) -> str:
    """A prompt's beginning and end; nothing where a record is of many prompts, which its title names."""
    words = " ".join("".join(strings).split())
    short = (
        words
        if len(words) <= MOST_LETTERS
        else f"{words[: MOST_LETTERS // 2].strip()} … {words[-MOST_LETTERS // 2 :].strip()}"
    )
    return f", of “{short}”" if words else ""


def placed(name: str) -> str:
    """A column of a patching grid in a sentence: a span, or a position with its token."""
    position, _, token = name.partition(" ")
    if position.isdecimal():
        return f"position {position}, {quoted(token.removeprefix('␣') or token)}"
    return "the rest of the prompt" if name == "the rest" else f"the {name}"


def word(text: str) -> str:
    """A token for a sentence: without the space before it, white space alone made visible."""
    return token_label(text.strip() or text)
