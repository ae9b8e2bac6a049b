"""Tables as HTML: what is read in a cell, and that nothing in it is markup."""

import html
import math

from app.shell.tables import MOST_ROWS, table_html
from tests.app.conftest import columns


def test_numbers_are_said_and_texts_stay_texts() -> None:
    rows = [
        {"kind": "<b onclick=alert(1)>&", "parameters": 341024, "λ": 0.98765, "open": True},
        {"kind": "plain", "parameters": None, "λ": -math.inf, "open": False},
        {"kind": "", "parameters": 0, "λ": math.nan, "open": True},
    ]
    found = columns(table_html(rows))
    assert found == {
        "kind": ["<b onclick=alert(1)>&", "plain", ""],
        "parameters": ["341,024", "", "0"],
        "λ": ["0.9877", "−∞", ""],
        "open": ["True", "False", "True"],
    }
    assert columns(table_html(rows[:1], decimals=1))["λ"] == ["1.0"]
    assert "<b" not in table_html(rows).replace("<body", "")
    assert html.escape("<b onclick=alert(1)>&") in table_html(rows)


def test_numbers_stand_on_the_right_and_a_bar_is_as_long_as_its_share() -> None:
    drawn = table_html(
        [{"token": "7", "n": 3, "probability": 0.25}, {"token": "8", "n": None, "probability": 7.0}], bar="probability"
    )
    assert drawn.count(' class="number"') == 3
    assert [part.partition('"')[0] for part in drawn.split('style="')[1:]] == ["width: 25.0%", "width: 100.0%"]


def test_words_explain_themselves_and_many_lines_are_scrolled_by_the_keyboard() -> None:
    drawn = table_html([{"λ_init": 0.2}] * MOST_ROWS)
    assert '<abbr title="a number for each depth' in drawn
    assert '<div class="lines">' in drawn
    assert '<div class="lines" tabindex="0">' in table_html([{"λ_init": 0.2}] * (MOST_ROWS + 1))
    assert columns(table_html([])) == {}
