"""CSV for a spreadsheet or another program.

Token text stands as a JSON string, so that a line break keeps to its cell and no cell starts as a formula.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence


def csv_text(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A header and its lines, each ended by a line feed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def quoted(text: str) -> str:
    """Text of a token as a JSON string."""
    return json.dumps(text, ensure_ascii=False)
