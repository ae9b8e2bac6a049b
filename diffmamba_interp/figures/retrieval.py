"""Retrieval accuracy by task and context length: curves with Wilson intervals, and the ratio of two models."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from diffmamba_interp.figures.styles import STYLES, length_name
from diffmamba_interp.needle.accuracy_grid import Cell

_CHANCE = "#666666"
FAINT = 0.45
"""Opacity of the curves of other training seeds."""


def accuracy_by_length(cells: Sequence[Cell], *, title: str = "", others: Sequence[Sequence[Cell]] = ()) -> go.Figure:
    """One panel per task: accuracy of each model against length, 95 % Wilson intervals, chance as a grey line.

    Lengths stand at equal distances, in tokens. `others`: the same cells for the same models from other training seeds,
    drawn as faint curves. `title` is escaped. Raises ValueError if there are no cells.
    """
    tasks = tasks_of(cells)
    figure = make_subplots(
        rows=1, cols=len(tasks), shared_yaxes=True, subplot_titles=tasks, horizontal_spacing=0.02, y_title="accuracy"
    )
    for column, task in enumerate(tasks, start=1):
        own = sorted((cell for cell in cells if cell.task == task), key=lambda cell: cell.length)
        lengths = [length_name(cell.length) for cell in own]
        for number, model in enumerate(one.model for one in own[0].models):
            colour, dash, symbol = STYLES[number % len(STYLES)]
            found = [cell.models[number] for cell in own]
            figure.add_scatter(
                x=lengths,
                y=[one.accuracy for one in found],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [one.high - one.accuracy for one in found],
                    "arrayminus": [one.accuracy - one.low for one in found],
                },
                customdata=[[cell.n, one.low, one.high] for cell, one in zip(own, found, strict=True)],
                hovertemplate="%{y:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}], n = %{customdata[0]}",
                name=html.escape(model),
                legendgroup=model,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"symbol": symbol},
                row=1,
                col=column,
            )
        for number, curve in seed_curves(others, task):
            figure.add_scatter(
                x=lengths,
                y=curve,
                name=html.escape(own[0].models[number].model),
                legendgroup=own[0].models[number].model,
                showlegend=False,
                mode="lines",
                line={"color": STYLES[number % len(STYLES)][0], "width": 1},
                opacity=FAINT,
                row=1,
                col=column,
            )
        figure.add_scatter(
            x=lengths,
            y=[cell.chance for cell in own],
            name="chance",
            legendgroup="chance",
            showlegend=column == 1,
            mode="lines",
            line={"color": _CHANCE, "width": 1},
            row=1,
            col=column,
        )
    figure.update_xaxes(type="category")
    figure.update_yaxes(range=[0, 1.02])
    figure.update_layout(title={"text": html.escape(title)})
    return figure


def ratio_heat_map(cells: Sequence[Cell], *, title: str = "") -> go.Figure:
    """Accuracy of the second model over that of the first, by task and length, on a logarithmic colour scale.

    A cell is marked * where the paired interval of their difference excludes zero; a cell in which the first
    model has no right answer is left empty. Raises ValueError unless every cell compares two models.
    """
    tasks, lengths = tasks_of(cells), sorted({cell.length for cell in cells})
    ratios, labels = np.full((len(tasks), len(lengths)), np.nan), np.full((len(tasks), len(lengths)), "", dtype=object)
    for cell in cells:
        at = tasks.index(cell.task), lengths.index(cell.length)
        ratio = ratio_of(cell)
        assert cell.difference is not None
        if ratio is not None:
            ratios[at] = ratio
            labels[at] = f"{ratio:.2f}{'*' if cell.difference.excludes_zero else ''}"
    # A ratio of 0 has no logarithm: it takes the end of the scale.
    colours = np.log2(np.clip(ratios, 0.25, 4.0))
    first, second = (html.escape(model.model) for model in cells[0].models)
    figure = go.Figure(
        go.Heatmap(
            z=colours,
            x=[length_name(length) for length in lengths],
            y=tasks,
            text=labels,
            texttemplate="%{text}",
            hovertemplate="%{y} at %{x}: %{text}<extra></extra>",
            colorscale="RdBu",
            zmid=0.0,
            zmin=-1.0,
            zmax=1.0,
            colorbar={"title": {"text": f"{second} /<br>{first}"}, "tickvals": [-1, 0, 1], "ticktext": ["½", "1", "2"]},
        )
    )
    figure.update_layout(
        title={"text": html.escape(title)},
        xaxis={"title": {"text": "context length, tokens"}, "type": "category"},
        yaxis={"autorange": "reversed"},
    )
    return figure


def seed_curves(others: Sequence[Sequence[Cell]], task: str) -> list[tuple[int, list[float]]]:
    """Of every seed in `others` and each of its models: the model's number, its accuracies at rising lengths."""
    found = []
    for cells in others:
        own = sorted((cell for cell in cells if cell.task == task), key=lambda cell: cell.length)
        for number in range(len(own[0].models) if own else 0):
            found.append((number, [cell.models[number].accuracy for cell in own]))
    return found


def tasks_of(cells: Sequence[Cell]) -> list[str]:
    """The tasks, sorted. Raises ValueError if there are no cells."""
    if not cells:
        raise ValueError("there are no cells to draw: summarise at least one row per model first.")
    return sorted({cell.task for cell in cells})


def ratio_of(cell: Cell) -> float | None:
    """Second model's accuracy over the first one's; None if that is 0. Raises ValueError unless there are two."""
    if len(cell.models) != 2:
        raise ValueError(f"a ratio needs two models, the cell {cell.task} at {cell.length} has {len(cell.models)}.")
    first, second = (model.accuracy for model in cell.models)
    return second / first if first else None
