"""Colours that stay apart for colour-blind readers, and text that stays text."""

from __future__ import annotations

import html
import unicodedata

SIGNED_SCALE = "RdBu_r"
"""Blue for negative, red for positive, white for 0; told apart with every common colour-vision deficiency."""

MAGNITUDE_SCALE = "Cividis"
"""For values that are never negative."""

SPAN_COLOURS = {"needle": "#E69F00", "question": "#009E73", "distractors": "#CC79A7", "filler": "#7F7F7F"}
"""Okabe and Ito's palette, and grey for the filler."""

MAX_LABEL_LENGTH = 24

_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def token_label(text: str) -> str:
    """A token's text for a Plotly label: white space and control characters visible, markup without effect.

    Plotly reads a few HTML tags, entities and $...$ in labels; a token is shown as the characters it has.
    Labels of more than 24 characters are cut and end in an ellipsis.
    """
    if len(text) > MAX_LABEL_LENGTH:
        text = text[: MAX_LABEL_LENGTH - 1] + "…"
    visible = "".join(_visible(character) for character in text)
    # Plotly decodes &lt; and &amp; but shows &quot; as it is; quotes are harmless in a label.
    return html.escape(visible, quote=False).replace("$", "&#36;")


def _visible(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    # Cc: control; Cf: invisible formatting, which can turn the direction of the text that follows.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs"):
        return f"\\u{ord(character):04x}"
    return character
