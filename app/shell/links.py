"""Links to another page in a state of its choice: the same models and prompt, and what the link says besides."""

from __future__ import annotations

from dataclasses import dataclass, field

import streamlit as st

from app.shell import state

PROMPT = ("source", "prompt", "ids", "bos", "task", "length", "seed", "number")
"""Keys of the side bar that say which prompt."""

ANSWER = ("answer", "wrong")
OF_PROMPT = (*PROMPT, "needle", "distractors", *ANSWER)
SHARED = ("model", "dtype", "device", "beside", *OF_PROMPT)
"""Keys of the side bar, which stay as they are on every page."""

RAN = "needle_ran"
"""What of the needle page was run: a mark, since what its widgets say need not have been."""

LENS_WINDOW = 8
"""Positions that the lens page shows at least."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """label: what it asks. page: its folder. changes: what the widgets there shall say, as an address would. why: in a
    line below."""

    label: str
    page: str
    changes: dict[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def query(self) -> dict[str, str]:
        """What the address says: the rest of that page's widgets start at their defaults."""
        values = state.values()
        kept = {key: values[key] for key in SHARED if key in values and len(values[key]) <= state.MAX_URL_TEXT}
        if any(self.changes[key] != values.get(key) for key in PROMPT if key in self.changes):
            # The answer that was marked is one to the prompt of before.
            kept = {key: value for key, value in kept.items() if key not in ANSWER}
        return kept | self.changes


def asked(page: str) -> dict[str, str]:
    """That a question of the start page opens this one, which then answers it before it asks for anything."""
    return {f"asked_{page}": "yes"}


SIXTEEN = {"needle_length": "0", "needle_n": "16"}
OF_MANY = (
    Link(label="Needle: 16 prompts", page="needle", changes=SIXTEEN | asked("needle")),
    Link(label="Retrieval: thousands of prompts", page="retrieval"),
)
"""Where more than one prompt is read."""


def is_asked(page: str) -> bool:
    return state.remembered(f"asked_{page}", "") == "yes"


def draw_links(*links: Link, lead: str = "", cards: bool = False) -> None:
    """In a row. lead: words before them. cards: each in a frame, with what it is for."""
    if lead:
        st.caption(lead)
    for column, link in zip(st.columns(len(links)), links, strict=True):
        with column, st.container(border=cards):
            st.page_link(
                f"pages_/{link.page}/{link.page}.py", label=link.label, query_params=link.query,
                icon=":material/arrow_forward:",
            )  # fmt: skip
            if link.why:
                st.caption(link.why)


def places_links(
    *, block: int | None, position: int | None, last: int, word: str = "", but: str = "", **shared: str
) -> list[Link]:
    """Where a block, a position of the prompt or both can be looked at.

    last: position of the prompt. word: a token's text that is asked about: its logit, where it is a word. but: the page
    that asks, to which there is no link. shared: of the side bar, where the link is to another prompt.
    """
    place = last if position is None else position
    attention: dict[str, str] = {} if block is None else {"block": str(block)}
    attention |= {} if position is None else {"row": str(position)}
    if word.strip().isalpha():
        attention |= {"kind": "contribution", "token": word.strip()}
    lens = {"cell": f"{0 if block is None else block + 1}-{place}"}
    if place <= last - LENS_WINDOW:
        lens["first"] = str(max(0, place - LENS_WINDOW // 2))
    changed = {} if position in (None, last) else {"knock_positions": str(position)}
    changed |= {} if block is None else {"knock_blocks": f"{block}-{block}"}
    links = [
        Link(label="Attention", page="attention", changes={**shared, **attention}),
        Link(label="Lens", page="lens", changes={**shared, **lens}),
        Link(label="Interventions", page="interventions", changes={**shared, **changed}),
    ]
    return [link for link in links if link.page != but]
