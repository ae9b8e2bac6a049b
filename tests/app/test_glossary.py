"""Words of the trade: each explains itself where it stands on a page."""

from __future__ import annotations

import html
import re

import pytest

from app.shell.glossary import WORDS, explained
from tests.app.conftest import OpenApp

NEEDLE = {"model": "bundled:diff-mamba2", "source": "needle", "length": "0"}


@pytest.mark.parametrize(
    ("page", "query", "words"),
    [
        ("overview", {}, ["λ_init", "saturated"]),
        ("attention", {"model": "bundled:diff-mamba2"}, ["Diff-S6"]),
        *(("heads", NEEDLE | {"measure": measure}, [word]) for measure, word in (
            ("dt_ratio", "dt ratio"), ("gather", "gather"), ("aggregate", "aggregate"), ("redundancy", "redundancy"),
        )),
        ("interventions", {"ids": "5 17 42 8", "faithful": "True"}, ["ranking"]),
    ],
)  # fmt: skip
def test_a_word_explains_itself_where_it_stands(
    open_app: OpenApp, page: str, query: dict[str, str], words: list[str]
) -> None:
    app = open_app(page, **query)
    drawn = " ".join(element.proto.body for element in app.get("html")).lower()
    for word in words:
        assert f'<abbr title="{html.escape(WORDS[word])}" tabindex="0">{word}</abbr>'.lower() in drawn
        # No second name for it is left: these said the same in other words.
    assert not any(old in drawn for old in ("behind its", "account of"))


def test_the_choice_of_a_heads_number_says_what_each_is(open_app: OpenApp) -> None:
    (box,) = [box for box in open_app("heads", **NEEDLE).selectbox if box.key == "measure"]
    assert [line.partition("**: ")[2] for line in box.help.splitlines()] == [WORDS[option] for option in box.options]


def test_a_word_explains_itself_once_and_text_is_escaped() -> None:
    drawn = explained("<b>λ</b> of a block: λ in every Block of overblocked minuends")
    assert drawn.startswith("&lt;b&gt;<abbr title=")
    assert drawn.count("<abbr") == 2
    assert re.sub(r"<[^>]*>", "", drawn) == "&lt;b&gt;λ&lt;/b&gt; of a block: λ in every Block of overblocked minuends"
    assert all("<" not in meaning for meaning in WORDS.values())
