"""A session as one HTML page that needs no server, no network and no script: figures as SVG, all text escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from app.pages_.session.kinds import KINDS, kind_of
from app.shell.downloads import KeptRecord
from app.shell.headlines import headline_html
from app.shell.wording import of_prompt, quoted
from diffmamba_interp.drawing.svg import to_svg

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}"
    "svg{max-width:100%;height:auto}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f4f4f4;padding:.6rem}"
    ".headline{border-left:4px solid #0072B2;padding-left:.9rem}.says{font-size:1.1rem;font-weight:600}"
    "abbr{text-decoration:underline dotted;cursor:help}h2{margin-top:2.5rem}"
)
WIDER = 1.5

# Nothing is loaded and nothing runs, whatever a record holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(state: Mapping[str, str], records: Sequence[KeptRecord]) -> bytes:
    """The page. state: what the widgets say, as an address would."""
    said = "\n".join(f"{key} = {value}" for key, value in state.items())
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Diff-Mamba explorer: report</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>',
        "<h1>What was looked at</h1>",
        f"<p>{len(records)} record{'' if len(records) == 1 else 's'}. A difference is model minus baseline.</p>",
        *map(section, range(1, len(records) + 1), records, told_apart(records)),
        f"<h2>State of the pages</h2><pre>{html.escape(said or 'nothing but defaults')}</pre>",
        "</body></html>",
    ]
    return "\n".join(parts).encode()


def told_apart(records: Sequence[KeptRecord]) -> list[str]:
    """Title and prompt of each; of prompts that are shortened alike also where they differ first."""
    told = [f"{kept.title}{of_prompt(kept.strings)}" for kept in records]
    names = [(name, kept.model) for name, kept in zip(told, records, strict=True)]
    for shared in {name for name in names if names.count(name) > 1}:
        alike = [at for at, name in enumerate(names) if name == shared]
        columns = enumerate(zip_longest(*(records[at].strings for at in alike), fillvalue="nothing"))
        place, texts = next(((place, texts) for place, texts in columns if len({*texts}) > 1), (0, ()))
        for at, text in zip(alike, texts, strict=False):
            told[at] += f", with {quoted(text)} at position {place}"
    return told


def framed(svg: str) -> str:
    """A figure not much wider than it was drawn: an SVG alone would fill the page."""
    width = float(svg.partition('viewBox="0 0 ')[2].partition(" ")[0])
    return f'<figure style="max-width:{WIDER * width:.0f}px">{svg}</figure>'


def section(number: int, kept: KeptRecord, name: str) -> str:
    """One record, called so: what it is, what it says, its figures, its prompt."""
    kind = KINDS[kind_of(kept.record)]
    escaped = {part: html.escape(getattr(kept, part)) for part in ("model", "dtype", "device")}
    lines = html.escape("\n".join(kind.lines(kept.record)))
    prompt = html.escape("".join(kept.strings))
    return "\n".join(
        [
            f"<section><h2>{number}. {html.escape(name)}</h2>",
            f"<p>{escaped['model']}, {escaped['dtype']} on {escaped['device']}.</p>",
            headline_html(kind.tell(kept)),
            f"<pre>{lines}</pre>" if lines else "",
            *(framed(to_svg(drawing)) for drawing in kind.drawings(kept)),
            f"<details><summary>Its prompt, {len(kept.strings)} tokens</summary><pre>{prompt}</pre></details>"
            if prompt
            else "",
            "</section>",
        ]
    )
