"""Numbers of single heads: a map of blocks and heads for each branch, the heads of the largest numbers, and a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffmamba_interp.drawing.colours import BRANCHES, GREY, MAGNITUDE, SIGNED, faded, short_name
from diffmamba_interp.drawing.panels import (
    Axis,
    Bars,
    ColourScale,
    Drawing,
    HeatMap,
    Level,
    Mark,
    Panel,
    scale_end,
)
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.files.table_text import csv_text
from diffmamba_interp.implicit_attention.head_scores import DEFINITIONS, HeadScores

NAMES = {
    "dt_ratio": "dt ratio",
    "sink_share": "sink share",
    "gather": "gather",
    "aggregate": "aggregate",
    "needle_share": "needle share",
    "negative_mass": "negative mass",
    "redundancy": "redundancy",
    "output_norm": "output norm",
}
"""Of the measures, on pages and in figures."""

PARTS: tuple[str | None, ...] = (None, "minuend", "subtrahend", "difference")
"""In the order in which they are drawn."""

PLAIN = "plain blocks"
FADED = 0.45
"""Opacity of bars that are not of what is shown."""


@dataclass(frozen=True, kw_only=True)
class RankedHead:
    """branch: None in a plain block; "difference" for what is left of two. value: mean over samples."""

    block: int
    branch: str | None
    head: int
    value: float


def head_scores_drawing(scores: HeadScores, measure: str, *, title: str = "") -> Drawing:
    """A panel for plain blocks and each branch: a row for each block, a column for each head.

    A cosine has the signed scale, all other measures one that begins at 0. Raises KeyError for an unknown measure.
    """
    mean = scores.mean(measure)
    panels = []
    for part in PARTS:
        rows = [row for row, (_, of) in enumerate(scores.rows) if of == part]
        if not rows:
            continue
        n_heads = max(scores.n_heads[row] for row in rows)
        blocks = [str(scores.rows[row][0]) for row in rows]
        name = PLAIN if part is None else short_name(part)
        notes = [
            [f"block {block}, {name}, head {head}: {mean[row, head]:.4g}" for head in range(n_heads)]
            for row, block in zip(rows, blocks, strict=True)
        ]
        heat = HeatMap(values=mean[rows, :n_heads], x=list(range(n_heads)), y=blocks, notes=notes)
        panels.append(Panel(title=name, marks=[heat]))
    end = scale_end([mean])
    signed = measure == "redundancy"
    return Drawing(
        title=title or f"{NAMES[measure]} of every head",
        note=DEFINITIONS[measure],
        x=Axis(title="head"),
        y=Axis(title="block", kind="category", backwards=True),
        scale=ColourScale(
            title=NAMES[measure], low=-end if signed else 0.0, high=end, colours=SIGNED if signed else MAGNITUDE
        ),
        panels=panels,
        columns=len(panels),
        shared_y=len({tuple(panel.marks[0].y) for panel in panels}) == 1,  # type: ignore[union-attr]
    )


head_scores_figure = as_plotly(head_scores_drawing)


def ranked_heads(scores: HeadScores, measure: str, n: int = 10) -> list[RankedHead]:
    """The heads of the largest numbers, the largest first; heads without one are none of them."""
    mean = scores.mean(measure)
    order = [place for place in np.argsort(-mean, axis=None, kind="stable") if np.isfinite(mean.flat[place])]
    ranked = []
    for place in order[:n]:
        row, head = divmod(int(place), mean.shape[1])
        block, branch = scores.rows[row]
        ranked.append(RankedHead(block=block, branch=branch, head=head, value=float(mean[row, head])))
    return ranked


def head_ranking_drawing(
    scores: HeadScores, measure: str, *, n: int = 24, shown: tuple[int, int] | None = None, title: str = ""
) -> Drawing:
    """The heads of all blocks in the order of a measure, the largest first: a bar for each, in its branch's colour.

    n: so many heads. shown: block and head whose bars are not faded; None for all. A dashed line: what reading all
    visible tokens alike would give. A bar's text is block and head. Raises KeyError for an unknown measure.
    """
    ranked = ranked_heads(scores, measure, n)
    marks: list[Mark] = []
    for part in PARTS:
        places = [place for place, head in enumerate(ranked) if head.branch == part]
        if not places:
            continue
        colour = BRANCHES[part or "weights"].colour
        is_shown = [shown is None or (ranked[place].block, ranked[place].head) == shown for place in places]
        marks.append(
            Bars(
                name=PLAIN if part is None else part,
                x=places,
                y=[ranked[place].value for place in places],
                colours=[colour if of_shown else faded(colour, FADED) for of_shown in is_shown],
                notes=[_head_name(ranked[place]) for place in places],
            )
        )
    if measure in scores.uniform:
        marks.append(Level(at=float(np.nanmean(scores.uniform[measure])), colour=GREY, dashed=True))
    return Drawing(
        title=title,
        note=DEFINITIONS[measure],
        x=Axis(
            title="block and head, in order",
            ticks={place: f"{head.block}·{head.head}" for place, head in enumerate(ranked)},
            limits=(-0.6, len(ranked) - 0.4),
        ),
        y=Axis(title=NAMES[measure]),
        panels=[Panel(marks=marks)],
        panel_size=(900.0, 150.0),
    )


head_ranking_figure = as_plotly(head_ranking_drawing)


def _head_name(head: RankedHead) -> str:
    branch = "" if head.branch is None else f", {head.branch}"
    return f"block {head.block}{branch}, head {head.head}"


def head_scores_csv(scores: HeadScores) -> str:
    """One line per head: block, branch (empty in plain blocks), head, and the mean of every measure."""
    means = {measure: scores.mean(measure) for measure in scores.values}
    lines = [
        [block, branch or "", head, *(float(mean[row, head]) for mean in means.values())]
        for row, (block, branch) in enumerate(scores.rows)
        for head in range(scores.n_heads[row])
    ]
    return csv_text(["block", "branch", "head", *means], lines)
