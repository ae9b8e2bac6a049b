"""Text in figures: labels of tokens, lengths and stages, and a row of weights drawn over the tokens that it reads."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float

from diffmamba_interp.drawing.colours import SIGNED, Scale, colour_at, signed_root, text_on

MAX_LABEL_LENGTH = 24

NOTHING = "∅"
"""Stands for a token of empty text, which would leave nothing to point at."""

_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def token_label(text: str, *, at_most: int = MAX_LABEL_LENGTH) -> str:
    """A token's text with its white space and control characters made visible.

    Text of more than `at_most` characters is cut and ends in an ellipsis.
    """
    if len(text) > at_most:
        text = text[: at_most - 1] + "…"
    return "".join(_visible(character) for character in text)


def probability_text(probability: float) -> str:
    """Three decimals; what they cannot tell from 0 or 1, in words: `1 in 43,000`, `> 0.999`."""
    if 0.0005 <= probability < 0.9995 or probability in (0.0, 1.0):
        return f"{probability:.3f}"
    if probability > 0.5:
        return "> 0.999"
    if probability < 1e-9:
        return "< 1 in a billion"
    return f"1 in {float(f'{1 / probability:.2g}'):,.0f}"


def probability_change_text(before: float, after: float) -> str:
    """`+0.123 from 0.400`; a change that three decimals do not tell, in words."""
    change, was = after - before, probability_text(before).replace("> ", "over ").replace("< ", "under ")
    if abs(change) >= 0.0005:
        return f"{change:+.3f} from {was}".replace("-", "−")
    how = f"a little {'higher' if change > 0 else 'lower'}"
    return how if was == probability_text(after).replace("> ", "over ") else f"{how}, from {was}"


def length_name(length: int) -> str:
    """As in the paper: 0k, 1k, 2k; other lengths as they are."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def short_stage(stage: str) -> str:
    """Of a place where a lens reads: `emb.`, `0`, `1`, ..., `out`."""
    return {"embedding": "emb.", "output": "out"}.get(stage, stage.removeprefix("after block "))


def coloured_text(
    strings: Sequence[str],
    values: Float[np.ndarray, " pos"],
    *,
    limit: float,
    first: int = 0,
    scale: Scale = SIGNED,
    outlined: Collection[int] = (),
    rooted: bool = False,
) -> str:
    """One HTML element per token, coloured by its value on a signed scale from -limit to limit.

    Pointing at a token shows its position, counted from `first`, and its value. scale: the colours; those of
    `SIGNED_ON_DARK` where the page is dark. outlined: positions with a frame. rooted: as of a `ColourScale`. Token text
    is escaped and its white space made visible. Raises ValueError if there are not as many values as tokens, or for a
    limit that is not positive.
    """
    if len(strings) != len(values):
        raise ValueError(f"there are {len(strings)} tokens and {len(values)} values: give one value per token.")
    if not limit > 0:
        raise ValueError(f"limit is {limit}: the end of the scale must be positive.")
    shares = [float(value) / limit for value in values]
    grounds = [colour_at(scale, 0.5 + 0.5 * (signed_root(share) if rooted else share)) for share in shares]
    tokens = [
        f'<span title="{position}: {value:.4g}" style="background:{ground};'
        f"color:{text_on(ground)};padding:1px 3px;border-radius:3px;"
        f"{'outline:2px solid #E69F00;' if position in outlined else ''}"
        f'display:inline-block;margin:1px">{html.escape(token_label(text)) or NOTHING}</span>'
        for position, (text, value, ground) in enumerate(zip(strings, values, grounds, strict=True), first)
    ]
    return f'<div style="font-family:monospace;line-height:1.7">{"".join(tokens)}</div>'


def _visible(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    # Cc: control; Cf: invisible formatting, which can turn the direction of the text that follows.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs"):
        return f"\\u{ord(character):04x}"
    return character
