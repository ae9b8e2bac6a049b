"""A row of weights drawn over the text that it reads: every token on a ground of its colour, as HTML."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from plotly.colors import sample_colorscale

from diffmamba_interp.figures.scales import SIGNED_SCALE, token_label

DARK_TEXT, LIGHT_TEXT = "#111111", "#ffffff"
DARK_GROUND = 0.62
"""Beyond this share of the scale's end, the ground is too dark for dark text."""


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
    shares = np.clip(np.asarray(values, dtype=np.float64) / limit, -1, 1)
    grounds = sample_colorscale(SIGNED_SCALE, (0.5 + 0.5 * shares).tolist())
    tokens = [
        f'<span title="{position}: {value:.4g}" style="background:{ground};'
        f"color:{LIGHT_TEXT if abs(share) > DARK_GROUND else DARK_TEXT};padding:1px 3px;border-radius:3px;"
        f'display:inline-block;margin:1px">{_escaped(text)}</span>'
        for position, (text, value, share, ground) in enumerate(
            zip(strings, values, shares, grounds, strict=True), first
        )
    ]
    return f'<div style="font-family:monospace;line-height:1.7">{"".join(tokens)}</div>'


def _escaped(text: str) -> str:
    # token_label escapes for Plotly, which draws nothing for an empty text; a page needs something to point at.
    return token_label(text).replace('"', "&quot;") or "∅"
