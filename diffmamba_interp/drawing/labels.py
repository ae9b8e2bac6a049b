"""Labels that several figures share, as plain text: of tokens, lengths and stages."""

from __future__ import annotations

import unicodedata

MAX_LABEL_LENGTH = 24

_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def token_label(text: str, *, at_most: int = MAX_LABEL_LENGTH) -> str:
    """A token's text with its white space and control characters made visible.

    Text of more than `at_most` characters is cut and ends in an ellipsis.
    """
    if len(text) > at_most:
        text = text[: at_most - 1] + "…"
    return "".join(_visible(character) for character in text)


def length_name(length: int) -> str:
    """As in the paper: 0k, 1k, 2k; other lengths as they are."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def short_stage(stage: str) -> str:
    """Of a place where a lens reads: `emb.`, `0`, `1`, ..., `out`."""
    return {"embedding": "emb.", "output": "out"}.get(stage, stage.removeprefix("after block "))


def _visible(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    # Cc: control; Cf: invisible formatting, which can turn the direction of the text that follows.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs"):
        return f"\\u{ord(character):04x}"
    return character
