"""What a token of a training row is: it decides the token's weight in the loss and where its loss is counted."""

from __future__ import annotations

from enum import IntEnum


class Role(IntEnum):
    """PAD: not trained on. TEXT: running text. CONTEXT: a retrieval sample's token. ANSWER: one of an answer."""

    PAD = 0
    TEXT = 1
    CONTEXT = 2
    ANSWER = 3
