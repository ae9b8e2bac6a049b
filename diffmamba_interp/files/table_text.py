"""Tables as text: CSV for a spreadsheet or another program, Markdown for people.

In CSV, token text stands as a JSON string, so that a line break keeps to its cell and no cell starts as a formula.
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


def aligned_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table with columns of equal width; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
