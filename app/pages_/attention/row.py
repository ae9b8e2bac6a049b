"""One destination's row of an attention record: drawn over the text that it reads, and counted by span."""

from __future__ import annotations

import numpy as np
import streamlit as st

from app.shell import state
from app.shell.figures import signed_scale
from app.shell.prompts import Prompt, markdown
from app.shell.tables import draw_table
from app.shell.wording import quoted, signed_text
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.drawing.labels import coloured_text
from diffmamba_interp.implicit_attention.pictures import pictures_of
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.implicit_attention.span_measures import summarise_spans
from diffmamba_interp.spans import Spans, TokenRange

MAX_ROW_TOKENS = 120
MAX_STRETCHES, AROUND, LAST_TOKENS = 12, 5, 30


def choose_row(prompt: Prompt, record: AttentionRecord) -> int:
    """The destination position; the last one shown unless told otherwise."""
    rows = record.rows[0].tolist()
    return state.slider("Row: what is read at this position", "row", rows[0], rows[-1], rows[-1])


def draw_row(prompt: Prompt, record: AttentionRecord, row: int, end: float | None = None) -> None:
    """Every picture's row on one scale. end: of the scale of the picture above; None where that shows other values."""
    first_row = int(record.rows[0, 0])
    whole = pictures_of(record).values
    pictures = {name: picture[row - first_row, : row + 1].cpu().numpy() for name, picture in whole.items()}
    largest = max(float(np.abs(picture).max()) for picture in pictures.values())
    limit = end or largest or 1.0
    source = source_of(row)
    if source is not None:
        values = ", ".join(
            f"{short_name(name)} {signed_text(picture[source], 4)}" for name, picture in pictures.items()
        )
        st.markdown(
            f"Position {row}, {markdown(quoted(prompt.strings[row]))}, reads {source}, "
            f"{markdown(quoted(prompt.strings[source]))}: {values}."
        )
    stretches = shown_stretches(prompt.spans, row)
    if prompt.spans.needle:
        draw_spans(prompt.spans, record, row - first_row)
    st.caption(
        f"What is read at position {row}, {markdown(quoted(prompt.strings[row]))}: blue is negative, red positive; "
        + (f"the scale is that of the picture above, ±{limit:.3g}" if end else f"the scale ends at ±{limit:.3g}")
        + f"; the largest here is {largest:.3g}."
    )
    outlined = () if source is None else (source,)
    for name, picture in pictures.items():
        st.caption(f"{short_name(name)}{left_out(picture, stretches)}")
        lines = (
            coloured_text(
                prompt.strings[start:end],
                picture[start:end],
                limit=limit,
                first=start,
                scale=signed_scale(),
                outlined=outlined,
                rooted=True,
            )
            for start, end in stretches
        )
        st.html("".join(lines))


def source_of(row: int) -> int | None:
    """The source whose cell was clicked, if the row can read it."""
    return readable(state.remembered("source_pos", ""), row)


def readable(said: str, row: int) -> int | None:
    """A position as an address says it, if the row can read it."""
    return int(said) if said.isdecimal() and len(said) < 7 and int(said) <= row else None


def draw_spans(spans: Spans, record: AttentionRecord, row: int) -> None:
    """Shares of the row's magnitude by span, and the needle against the rest."""
    summary = summarise_spans(record, spans, row)
    lines = []
    for name, share in summary.share.items():
        line: dict[str, str | float] = {"picture": short_name(name)}
        for which in ("needle", "question", "distractors", *(["filler"] if spans.filler else [])):
            line[f"{which}, %"] = 100 * mean(summary.of_class(share, which))
        lines.append(line | {"needle over rest, dB": mean(summary.snr_db[name])})
    draw_table(lines, decimals=1)
    st.caption(
        "Share of the row's magnitude by span (what belongs to none is left out), and mean magnitude on the needle "
        "over that on all other visible tokens."
    )


def mean(value: object) -> float:
    """Over samples and heads, of which a page shows one."""
    return float(np.mean(np.asarray(value)))


def shown_stretches(spans: Spans, row: int) -> list[TokenRange]:
    """The tokens that have room: all of a short row; of a long one its end, and what lies around its spans."""
    end = row + 1
    if end <= MAX_ROW_TOKENS:
        return [(0, end)]
    marked = [span for name in ("needle", "distractors") for span in getattr(spans, name)][:MAX_STRETCHES]
    if not marked:
        return [(end - MAX_ROW_TOKENS, end)]
    wanted = {place for a, b in marked for place in range(max(0, a - AROUND), min(b + AROUND, end))}
    wanted |= set(range(end - LAST_TOKENS, end))
    starts = sorted(place for place in wanted if place - 1 not in wanted)
    ends = sorted(place + 1 for place in wanted if place + 1 not in wanted)
    return list(zip(starts, ends, strict=True))


def left_out(picture: np.ndarray, stretches: list[TokenRange]) -> str:
    """How much of a row falls on tokens that have no room."""
    n_shown = sum(end - start for start, end in stretches)
    if n_shown == len(picture):
        return ""
    shown = sum(float(np.abs(picture[start:end]).sum()) for start, end in stretches)
    share = 1 - shown / max(float(np.abs(picture).sum()), 1e-30)
    return f": {n_shown} of {len(picture):,} tokens; {share:.1%} of the row's magnitude falls on the others"
