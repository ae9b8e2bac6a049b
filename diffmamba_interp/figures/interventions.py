"""Figures of interventions: dose-response curves with bands, effects by block, and grids of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from diffmamba_interp.drawing.colours import (
    DASHES,
    GREY,
    NEGATIVE,
    POSITIVE,
    Style,
    model_styles,
    series_styles,
    short_name,
)
from diffmamba_interp.drawing.labels import token_label
from diffmamba_interp.drawing.panels import (
    LEAST_END,
    Axis,
    Bars,
    Drawing,
    HeatMap,
    Level,
    Line,
    Panel,
    Targets,
    symmetric,
)
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.figures.needle import needle_drawing
from diffmamba_interp.interventions.patching import PatchGrid, Place, positions_of
from diffmamba_interp.interventions.records import InterventionRecord, SweepRecord, mean_interval, require_reading
from diffmamba_interp.needle.curves import Curve
from diffmamba_interp.needle.trajectory_records import Measure
from diffmamba_interp.stages import stage_names

MAX_TICKS = 40
BY_STAGE: Mapping[Measure, str] = {"probability": "answer_log_probability", "snr_db": "snr_db"}
"""What is drawn by stage, and the reading that it is made of."""

_POINT_WORDS = {
    "blocks.{}.hook_resid_pre": "what enters each block",
    "blocks.{}.hook_resid_post": "what leaves each block",
    "blocks.{}.hook_mixer_out": "what each block writes",
    "branch_out": "what each branch writes",
    "gated": "what each head writes",
    "ssm_y": "what each head's scan gives",
}
_ZERO = Level(at=0.0, colour=GREY, dashed=True)

Quantity = Literal["change", "value"]
BlockGroup = tuple[int, ...] | None


def dose_response_drawing(
    sweeps: SweepRecord | Mapping[str, SweepRecord],
    reading: str,
    *,
    quantity: Quantity = "change",
    index: tuple[int, ...] = (),
    title: str = "",
) -> Drawing:
    """Mean of a reading against the dose, one line per model and group of blocks, with 95 % bootstrap bands.

    Args:
        sweeps: one, or several by the name of their model.
        reading: which of the record's.
        quantity: "change" from the clean reading, or the reading's own "value".
        index: which entry of a reading that has more axes than the samples: for a lens, the block.
        title: shown above.

    Models differ in colour and their groups in dashes; groups of one model differ in colour.

    Raises:
        KeyError: a reading that there is not. ValueError: no sweeps, an unknown quantity, or an index that does not
            choose one number per sample.
    """
    by_model = {"": sweeps} if isinstance(sweeps, SweepRecord) else dict(sweeps)
    if not by_model:
        raise ValueError("there are no sweeps to draw: give at least one.")
    lines = []
    for model, record in by_model.items():
        bands = _bands(record, reading, quantity, index)
        order = np.argsort(record.doses)
        for row, (group, style) in enumerate(zip(record.groups, _styles(by_model, model), strict=True)):
            points = list(zip(*(part[row, order] for part in bands), strict=True))
            doses = [record.doses[place] for place in order]
            lines.append(Line.of_points(_curve_name(model, group, record), doses, points, style))
    first = next(iter(by_model.values()))
    return Drawing(
        title=title,
        subtitle=_subtitle(sorted({len(record.clean[reading]) for record in by_model.values()})),
        x=Axis(title=first.dose),
        y=Axis(title=_axis_title(reading, first.units.get(reading, ""), quantity)),
        panels=[Panel(marks=[*lines, *([_ZERO] if quantity == "change" else [])])],
        has_legend=len(lines) > 1,
    )


dose_response_figure = as_plotly(dose_response_drawing)


def answer_by_stage_drawing(
    record: InterventionRecord, measure: Measure = "probability", *, lens: str, log: bool = False, title: str = ""
) -> Drawing:
    """The first sample's answer before and after, by stage: what a lens reads, and last what the model itself gives.

    measure: of `BY_STAGE`. lens: as the record calls it, "tuned" or the like. log: a logarithmic axis. Of a record
    without interventions there is one curve, before. Raises KeyError for a lens or a measure that was not read.
    """
    if measure not in BY_STAGE:
        raise KeyError(f"measure is {measure!r}: it must be one of {', '.join(BY_STAGE)}.")
    curves = []
    both = {"before": record.clean, "after": record.intervened}
    for when, readings in list(both.items())[: 2 if record.interventions else 1]:
        require_reading(f"{lens}.{BY_STAGE[measure]}", readings)
        values = [*readings[f"{lens}.{BY_STAGE[measure]}"][0], readings[BY_STAGE[measure]][0]]
        value = tuple(float(np.exp(v)) if measure == "probability" else float(v) for v in values)
        stages = stage_names(len(value) - 1)
        curves.append(
            Curve(
                model=when,
                lens=lens,
                measure=measure,
                statistic="mean",
                group=(),
                n=1,
                stages=stages,
                value=value,
                low=value,
                high=value,
            )
        )
    return needle_drawing(curves, log=log, title=title)


answer_by_stage_figure = as_plotly(answer_by_stage_drawing)


def block_effect_drawing(
    sweep: SweepRecord, reading: str, *, dose: float | None = None, index: tuple[int, ...] = (), title: str = ""
) -> Drawing:
    """Mean change of a reading by group of blocks at one dose, as bars with 95 % bootstrap intervals.

    dose: one of the sweep's; may be left out if it has only one. Bars below 0 are blue, those above it red.
    Other arguments as in `dose_response_drawing`.
    Raises ValueError for a dose that the sweep does not have, and as `dose_response_drawing` does.
    """
    column = _column_of(sweep, dose)
    middle, low, high = (part[:, column].tolist() for part in _bands(sweep, reading, "change", index))
    bars = Bars(
        name="",
        x=[_group_name(group) for group in sweep.groups],
        y=middle,
        low=low,
        high=high,
        colours=[NEGATIVE if value < 0 else POSITIVE for value in middle],
    )
    at = f"{sweep.dose} = {sweep.doses[column]:g}"
    return Drawing(
        title=f"{title}: {at}" if title else at,
        subtitle=_subtitle([len(sweep.clean[reading])]),
        x=Axis(title="blocks changed", kind="category"),
        y=Axis(title=_axis_title(reading, sweep.units.get(reading, ""), "change")),
        panels=[Panel(marks=[bars, _ZERO])],
    )


block_effect_figure = as_plotly(block_effect_drawing)


def patch_grid_drawing(
    grid: PatchGrid | Mapping[str, PatchGrid],
    *,
    show: Literal["change", "recovered"] = "change",
    sample: int | None = None,
    token_strings: Sequence[str] | None = None,
    place_names: Sequence[str] | None = None,
    title: str = "",
) -> Drawing:
    """Blocks, their branches or heads by positions: what patching there does to the answer's logit, on one symmetric
    scale; of an estimated grid, what attribution patching says that it does.

    Args:
        grid: what `patch_grid` or `attribution_patching` made; or several of the same cells by name, side by side.
        show: the "change" of the logit, or the share of the prompts' distance that is "recovered".
        sample: which pair of prompts; None for the mean over those that have a value.
        token_strings: the tokens of a whole prompt, to label the positions with.
        place_names: what each column is called, in place of its positions.
        title: shown above.

    Raises:
        ValueError: a sample that there is not, another `show`, fewer tokens than positions, as many names as there are
            not columns, no grid, or grids of other cells.
    """
    if show not in ("change", "recovered"):
        raise ValueError(f"show is {show!r}: it must be 'change' or 'recovered'.")
    grids = {"": grid} if isinstance(grid, PatchGrid) else dict(grid)
    if not grids:
        raise ValueError("grid is empty: give at least one.")
    first = next(iter(grids.values()))
    if any((one.row_names, one.positions) != (first.row_names, first.positions) for one in grids.values()):
        raise ValueError("grid holds grids of other rows or positions: give those of the same cells.")
    n = len(first.patched)
    if sample is not None and not 0 <= sample < n:
        raise ValueError(f"sample is {sample}: the grid has samples 0 to {n - 1}.")
    labels = list(place_names) if place_names is not None else _position_labels(first, token_strings)
    if len(labels) != len(first.positions):
        raise ValueError(
            f"place_names holds {len(labels)} names for {len(first.positions)} columns: give one for each."
        )
    values = {name: getattr(one, show) for name, one in grids.items()}
    shown = {name: _mean_of_finite(of) if sample is None else of[sample] for name, of in values.items()}
    places = [_place_name(place) for place in first.positions] if place_names is None else labels
    mean = f"mean of {n} pairs of prompts" if n > 1 else "one pair of prompts"
    which = mean if sample is None else f"pair of prompts {sample}"
    # Side by side two panels have half the room each.
    step = -(-len(labels) // (MAX_TICKS if len(grids) == 1 else MAX_TICKS // 2))
    row_height = 22.0 if first.heads is None else 12.0
    return Drawing(
        title=title or ("Attribution patching (estimate)" if first.estimated else "Activation patching"),
        subtitle=f"{_POINT_WORDS.get(first.point, first.point.replace('{}', '*'))}, {which}",
        x=Axis(
            title="patched position",
            upright=True,
            ticks={number: labels[number] for number in range(0, len(labels), step)},
        ),
        y=Axis(title="block", kind="category"),
        scale=symmetric(
            "change of logit" if show == "change" else "share recovered", list(shown.values()), least=LEAST_END
        ),
        panels=[Panel(title=name, marks=_cells(first, of, places)) for name, of in shown.items()],
        columns=2,
        panel_size=(max(300.0, 12.0 * len(places)), row_height * len(first.blocks)),
    )


patch_grid_figure = as_plotly(patch_grid_drawing)


def _bands(
    record: SweepRecord, reading: str, quantity: Quantity, index: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high, [group, dose] each."""
    if quantity not in ("change", "value"):
        raise ValueError(f"quantity is {quantity!r}: it must be 'change' or 'value'.")
    change = record.change(reading)
    n_axes = change.ndim - 3
    if len(index) != n_axes:
        raise ValueError(
            f"{reading!r} has {n_axes} axes beside the samples and index is {index}: give one number for each of them, "
            "for a lens the block."
        )
    values = change if quantity == "change" else record.intervened[reading]
    for entry in reversed(index):
        values = values[..., entry]
    by_sample = np.moveaxis(values, 2, 0)
    return by_sample.mean(axis=0), *mean_interval(by_sample)


def _column_of(sweep: SweepRecord, dose: float | None) -> int:
    if dose is None and len(sweep.doses) == 1:
        return 0
    if dose not in sweep.doses:
        raise ValueError(f"dose is {dose}: the sweep has {', '.join(f'{one:g}' for one in sweep.doses)}. Choose one.")
    return sweep.doses.index(dose)


def _styles(sweeps: Mapping[str, SweepRecord], model: str) -> list[Style]:
    """One for each group of blocks of a model."""
    groups = sweeps[model].groups
    if not model:
        by_group = series_styles(map(_group_name, groups))
        return [by_group[_group_name(group)] for group in groups]
    style = model_styles(sweeps)[model]
    return [replace(style, dash=DASHES[number % len(DASHES)]) if number else style for number in range(len(groups))]


def _curve_name(model: str, group: BlockGroup, record: SweepRecord) -> str:
    return ", ".join(
        [
            *([short_name(model)] if model else []),
            *([_group_name(group)] if len(record.groups) > 1 or not model else []),
        ]
    )


def _group_name(group: BlockGroup) -> str:
    if group is None:
        return "all"
    if len(group) > 2 and group == tuple(range(group[0], group[-1] + 1)):
        return f"{group[0]}–{group[-1]}"
    return ", ".join(map(str, group))


def _axis_title(reading: str, unit: str, quantity: Quantity) -> str:
    words = reading.replace("_", " ") + (f" ({unit})" if unit else "")
    return f"change of {words}" if quantity == "change" else words


def _subtitle(n_samples: list[int]) -> str:
    return f"n = {', '.join(map(str, n_samples))}, 95 % bootstrap intervals over samples"


def _cells(grid: PatchGrid, values: np.ndarray, places: Sequence[str]) -> list[HeatMap | Targets]:
    """The map, and a point on each of its cells that tells row and column when it is clicked."""
    notes = [
        [f"block {name}, position {place}: {value:.4g}" for place, value in zip(places, row, strict=True)]
        for name, row in zip(grid.row_names, values, strict=True)
    ]
    cells = [(row, column) for row in range(len(notes)) for column in range(len(places))]
    return [
        HeatMap(values=values, x=range(len(places)), y=list(grid.row_names), notes=notes),
        Targets(
            x=[column for _, column in cells],
            y=[grid.row_names[row] for row, _ in cells],
            data=cells,
            labels=[notes[row][column] for row, column in cells],
        ),
    ]


def _mean_of_finite(values: np.ndarray) -> np.ndarray:
    """Mean over samples without NaN; NaN where no sample has a value."""
    is_finite = np.isfinite(values)
    n = is_finite.sum(axis=0)
    return np.divide(np.where(is_finite, values, 0.0).sum(axis=0), n, out=np.full(n.shape, np.nan), where=n > 0)


def _position_labels(grid: PatchGrid, token_strings: Sequence[str] | None) -> list[str]:
    if token_strings is None:
        return [_place_name(place) for place in grid.positions]
    last = max(position for place in grid.positions for position in positions_of(place))
    if len(token_strings) <= last:
        raise ValueError(
            f"there are {len(token_strings)} token strings, but position {last} was patched: give those of the whole "
            "prompt."
        )
    return [
        f"{_place_name(place)} {token_label(''.join(token_strings[position] for position in positions_of(place)))}"
        for place in grid.positions
    ]


def _place_name(place: Place) -> str:
    """A position, or the first and last of several."""
    positions = positions_of(place)
    return str(positions[0]) if len(positions) == 1 else f"{positions[0]}–{positions[-1]}"
