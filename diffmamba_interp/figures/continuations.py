"""`Continuations` drawn: how likely every variant of the model finds each token of the first one's text; and as CSV."""

from __future__ import annotations

from collections.abc import Callable

from diffmamba_interp.drawing.colours import series_styles
from diffmamba_interp.drawing.labels import probability_text, token_label
from diffmamba_interp.drawing.panels import Axis, Drawing, Line, Panel, Place
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.files.table_text import csv_text, quoted
from diffmamba_interp.interventions.continuations import Continuations

TokenText = Callable[[int], str]


def continuations_drawing(record: Continuations, token_text: TokenText, *, title: str = "") -> Drawing:
    """Probability of each token of the first variant's continuation, by step: a curve for every variant.

    token_text: the text of a token id. Pointing at a step tells what the variant itself found likeliest there.
    """
    styles = series_styles(record.names)
    n_steps = record.tokens.shape[1]
    steps = [float(step) for step in range(n_steps)]
    ticks: dict[Place, str] = {
        step: token_label(token_text(int(token)), at_most=12)
        for step, token in zip(steps, record.tokens[0], strict=True)
    }
    lines = [
        Line(
            name=name, x=steps, y=[float(value) for value in record.probability[variant]], style=styles[name],
            notes=[
                f"likeliest: {token_label(token_text(int(record.followed_tokens[variant, step, 0])))} "
                f"({probability_text(float(record.followed_probabilities[variant, step, 0]))})"
                for step in range(n_steps)
            ],
        )
        for variant, name in enumerate(record.names)
    ]  # fmt: skip
    return Drawing(
        title=title or f"The text that “{record.names[0]}” writes, read by every variant",
        x=Axis(title=f"token that “{record.names[0]}” writes", ticks=ticks, upright=True),
        y=Axis(title="its probability", limits=(-0.03, 1.03)),
        panels=[Panel(marks=lines)],
        panel_size=(max(420.0, 30.0 * n_steps), 220.0),
    )


continuations_figure = as_plotly(continuations_drawing)


def continuations_csv(record: Continuations, token_text: TokenText) -> str:
    """A line for each variant, step and rank: of its own continuation, and of the first variant's as it reads that."""
    lines = [
        [name, step, quoted(token_text(int(record.tokens[variant, step]))), rank + 1]
        + [quoted(token_text(int(record.top_tokens[variant, step, rank])))]
        + [float(record.top_probabilities[variant, step, rank])]
        + [quoted(token_text(int(record.followed_tokens[variant, step, rank])))]
        + [float(record.followed_probabilities[variant, step, rank])]
        for variant, name in enumerate(record.names)
        for step in range(record.tokens.shape[1])
        for rank in range(record.top_tokens.shape[2])
    ]
    header = ["variant", "step", "token", "rank", "likely", "probability", "likely_following", "probability_following"]
    return csv_text(header, lines)
