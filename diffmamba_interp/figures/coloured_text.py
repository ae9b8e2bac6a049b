"""A row of weights drawn over the text that it reads: every token on a ground of its colour, as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from diffmamba_interp.drawing.colours import SIGNED, colour_at, text_on
from diffmamba_interp.drawing.labels import token_label


def coloured_text(strings: Sequence[str], values: Float[np.ndarray, " pos"], *, limit: float, first: int = 0) -> str:
    """One HTML element per token, coloured by its value on the signed scale from -limit to limit.

    Pointing at a token shows its position, counted from `first`, and its value. Token text is escaped and its
    white space made visible. Raises ValueError if there are not as many values as tokens, or for a limit that is
    not positive.
    """
    if len(strings) != len(values):
        raise ValueError(f"there are {len(strings)} tokens and {len(values)} values: give one value per token.")
    if not limit > 0:
        raise ValueError(f"limit is {limit}: the end of the scale must be positive.")
    grounds = [colour_at(SIGNED, 0.5 + 0.5 * float(value) / limit) for value in values]
    tokens = [
        f'<span title="{position}: {value:.4g}" style="background:{ground};'
        f"color:{text_on(ground)};padding:1px 3px;border-radius:3px;"
        f'display:inline-block;margin:1px">{_escaped(text)}</span>'
        for position, (text, value, ground) in enumerate(zip(strings, values, grounds, strict=True), first)
    ]
    return f'<div style="font-family:monospace;line-height:1.7">{"".join(tokens)}</div>'


def _escaped(text: str) -> str:
    # An empty text would leave nothing to point at.
    return html.escape(token_label(text)) or "∅"
