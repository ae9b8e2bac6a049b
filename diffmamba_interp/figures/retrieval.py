"""Retrieval accuracy by task and context length: curves with Wilson intervals, and the ratio of two models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffmamba_interp.drawing.colours import GREY, Style, model_styles, short_name
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Axis, ColourScale, Drawing, HeatMap, Line, Panel
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.needle.accuracy_grid import Cell

FAINT = 0.45
"""Opacity of the curves of other training seeds."""


def accuracy_drawing(cells: Sequence[Cell], *, title: str = "", others: Sequence[Sequence[Cell]] = ()) -> Drawing:
    """One panel per task: accuracy of each model against length, 95 % Wilson intervals, chance as a grey line.

    Lengths stand at equal distances, in tokens. `others`: the same cells for the same models from other training seeds,
    drawn as faint curves. Raises ValueError if there are no cells.
    """
    tasks = _tasks_of(cells)
    styles = model_styles(model.model for model in cells[0].models)
    return Drawing(
        title=title,
        x=Axis(title="context length, tokens", kind="category"),
        y=Axis(title="accuracy", limits=(0.0, 1.02), ticks={at / 4: f"{at / 4:g}" for at in range(5)}),
        columns=len(tasks),
        panel_size=(180.0, 190.0),
        panels=[
            Panel(
                title=task,
                marks=[
                    *_accuracy_lines(_by_length(cells, task), styles),
                    *(line for seed in others for line in _faint_lines(_by_length(seed, task), styles)),
                    _chance_line(_by_length(cells, task)),
                ],
            )
            for task in tasks
        ],
    )


accuracy_by_length = as_plotly(accuracy_drawing)


def ratio_drawing(cells: Sequence[Cell], *, title: str = "") -> Drawing:
    """Accuracy of the second model over that of the first, by task and length, on a logarithmic colour scale.

    Red where the second model, which is measured against the first as its baseline, is right more often; full at a
    factor of 2. A cell is marked * where the paired interval of their difference excludes zero; a cell in which the
    first model has no right answer is left empty. Raises ValueError unless every cell compares two models.
    """
    tasks, lengths = _tasks_of(cells), sorted({cell.length for cell in cells})
    ratios, labels = np.full((len(tasks), len(lengths)), np.nan), np.full((len(tasks), len(lengths)), "–", dtype=object)
    for cell in cells:
        at = tasks.index(cell.task), lengths.index(cell.length)
        ratio = ratio_of(cell)
        assert cell.difference is not None
        if ratio is not None:
            ratios[at] = ratio
            labels[at] = f"{ratio:.2f}{'*' if cell.difference.excludes_zero else ''}"
    names = [length_name(length) for length in lengths]
    baseline, model = (short_name(answers.model) for answers in cells[0].models)
    heat = HeatMap(
        # A ratio of 0 has no logarithm: it takes the end of the scale.
        values=np.log2(np.clip(ratios, 0.25, 4.0)),
        x=names,
        y=tasks,
        text=labels.tolist(),
        notes=[[f"{task} at {name}: {labels[i, j]}" for j, name in enumerate(names)] for i, task in enumerate(tasks)],
    )
    return Drawing(
        title=title,
        note="* paired 95 % interval of the difference excludes 0",
        x=Axis(title="context length, tokens", kind="category"),
        y=Axis(kind="category", backwards=True),
        scale=ColourScale(title=f"{model} /\n{baseline}", low=-1.0, high=1.0, ticks={-1.0: "½", 0.0: "1", 1.0: "2"}),
        panels=[Panel(marks=[heat])],
        panel_size=(84.0 * len(lengths), 36.0 * len(tasks)),
    )


ratio_heat_map = as_plotly(ratio_drawing)


def ratio_of(cell: Cell) -> float | None:
    """Second model's accuracy over the first one's; None if that is 0. Raises ValueError unless there are two."""
    if len(cell.models) != 2:
        raise ValueError(f"a ratio needs two models, the cell {cell.task} at {cell.length} has {len(cell.models)}.")
    first, second = (model.accuracy for model in cell.models)
    return second / first if first else None


def _accuracy_lines(cells: Sequence[Cell], styles: dict[str, Style]) -> list[Line]:
    lengths = [length_name(cell.length) for cell in cells]
    by_model = {name: [cell.models[number] for cell in cells] for number, name in enumerate(styles)}
    return [
        Line.of_points(
            short_name(name),
            lengths,
            [(point.accuracy, point.low, point.high) for point in accuracies],
            styles[name],
            notes=[f"n = {cell.n}" for cell in cells],
        )
        for name, accuracies in by_model.items()
    ]


def _faint_lines(cells: Sequence[Cell], styles: dict[str, Style]) -> list[Line]:
    lengths = [length_name(cell.length) for cell in cells]
    return [
        Line(
            name=short_name(name),
            x=lengths,
            y=[cell.models[number].accuracy for cell in cells],
            style=styles[name],
            markers=False,
            width=1.0,
            opacity=FAINT,
        )
        for number, name in enumerate(styles)
        if cells
    ]


def _chance_line(cells: Sequence[Cell]) -> Line:
    lengths = [length_name(cell.length) for cell in cells]
    chance = [cell.chance for cell in cells]
    return Line(name="chance", x=lengths, y=chance, style=Style(colour=GREY), markers=False, width=1.0)


def _by_length(cells: Sequence[Cell], task: str) -> list[Cell]:
    return sorted((cell for cell in cells if cell.task == task), key=lambda cell: cell.length)


def _tasks_of(cells: Sequence[Cell]) -> list[str]:
    """The tasks, sorted. Raises ValueError if there are no cells."""
    if not cells:
        raise ValueError("there are no cells to draw: summarise at least one row per model first.")
    return sorted({cell.task for cell in cells})
