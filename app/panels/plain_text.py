"""Text that Markdown shows as it is."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=])")


def markdown(text: str) -> str:
    """The text with Markdown's letters made harmless, for titles and captions that quote tokens."""
    return _SPECIAL.sub(r"\\\1", text)
