"""A table as HTML: the browser draws it without a script, and a screen reader reads it cell by cell."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import streamlit as st

from app.shell.glossary import explained

Cell = str | int | float | bool | None
MOST_ROWS = 20
"""More may need scrolling (`style.css`), with the keyboard too."""


def draw_table(rows: Sequence[Mapping[str, Cell]], *, decimals: int | None = None, bar: str = "") -> None:
    """Lines of the same columns; see `table_html`."""
    st.html(table_html(rows, decimals=decimals, bar=bar))


def table_html(rows: Sequence[Mapping[str, Cell]], *, decimals: int | None = None, bar: str = "") -> str:
    """Everything is escaped; the columns' names explain themselves as words of the glossary do.

    decimals: of numbers with a fraction, which otherwise have four significant digits. bar: a column of shares of 1
    that are drawn as bars.
    """
    columns = list(rows[0]) if rows else []
    numeric = {name for name in columns if name != bar and all(_is_number(row[name]) for row in rows)}
    head = "".join(f'<th scope="col"{_class(name in numeric)}>{explained(name)}</th>' for name in columns)
    lines = (
        "".join(
            _bar(row[name]) if name == bar else f"<td{_class(name in numeric)}>{_said(row[name], decimals)}</td>"
            for name in columns
        )
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    scrolled = ' tabindex="0"' if len(rows) > MOST_ROWS else ""
    return f'<div class="lines"{scrolled}><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _is_number(value: Cell) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _bar(value: Cell) -> str:
    share = min(max(float(value or 0), 0.0), 1.0)
    return f'<td class="bar"><span style="width: {100 * share:.1f}%"></span></td>'


def _said(value: Cell, decimals: int | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        said = f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"
        return said.replace("-", "−").replace("inf", "∞")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else html.escape(str(value))
