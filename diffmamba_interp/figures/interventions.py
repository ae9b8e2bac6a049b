"""Figures of interventions: dose-response curves with bands, effects by block, and grids of patches."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from diffmamba_interp.figures.scales import SIGNED_SCALE, token_label
from diffmamba_interp.figures.styles import STYLES
from diffmamba_interp.interventions.patching import PatchGrid, Place, positions_of
from diffmamba_interp.interventions.records import SweepRecord, mean_interval

NEGATIVE, POSITIVE = "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion: the sides of `SIGNED_SCALE`."""

DEPTH_SCALE = "Viridis"
"""Colours of the blocks, where there are more lines than styles."""

MAX_TICKS = 40

_ZERO_LINE = {"color": "#666666", "width": 1, "dash": "dot"}

Quantity = Literal["change", "value"]


def dose_response_figure(
    sweeps: SweepRecord | Mapping[str, SweepRecord],
    reading: str,
    *,
    quantity: Quantity = "change",
    index: tuple[int, ...] = (),
    title: str = "",
) -> go.Figure:
    """Mean of a reading against the dose, one line per model and group of blocks, with 95 % bootstrap bands.

    Args:
        sweeps: one, or several by the name of their model, which is escaped.
        reading: which of the record's.
        quantity: "change" from the clean reading, or the reading's own "value".
        index: which entry of a reading that has more axes than the samples: for a lens, the block.
        title: escaped.

    Raises:
        KeyError: a reading that there is not. ValueError: no sweeps, an unknown quantity, or an index that does not
            choose one number per sample.
    """
    by_model = {"": sweeps} if isinstance(sweeps, SweepRecord) else dict(sweeps)
    if not by_model:
        raise ValueError("there are no sweeps to draw: give at least one.")
    curves = [
        (_curve_name(model, group, record), record.doses, *(part[row] for part in bands))
        for model, record in by_model.items()
        for bands in [_bands(record, reading, quantity, index)]
        for row, group in enumerate(record.groups)
    ]
    figure = go.Figure()
    for number, (name, doses, middle, low, high) in enumerate(curves):
        colour, dash, symbol = _style(number, len(curves))
        order = np.argsort(doses)
        x = np.asarray(doses)[order]
        _add_band(figure, x, low[order], high[order], colour, name)
        figure.add_scatter(
            x=x,
            y=middle[order],
            customdata=np.stack([low[order], high[order]], axis=-1),
            hovertemplate="%{x:.4g}: %{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}]",
            name=name,
            legendgroup=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol},
        )
    if quantity == "change":
        figure.add_hline(y=0.0, line=_ZERO_LINE)
    first = next(iter(by_model.values()))
    n_samples = sorted({len(record.clean[reading]) for record in by_model.values()})
    figure.update_layout(
        title={"text": _title(title, n_samples)},
        xaxis={"title": {"text": html.escape(first.dose)}},
        yaxis={"title": {"text": _axis_title(reading, first.units.get(reading, ""), quantity)}},
        showlegend=len(curves) > 1,
    )
    return figure


def block_effect_figure(
    sweep: SweepRecord, reading: str, *, dose: float | None = None, index: tuple[int, ...] = (), title: str = ""
) -> go.Figure:
    """Mean change of a reading by group of blocks at one dose, as bars with 95 % bootstrap intervals.

    dose: one of the sweep's; may be left out if it has only one. Negative bars are blue, positive ones vermilion.
    Other arguments as in `dose_response_figure`.
    Raises ValueError for a dose that the sweep does not have, and as `dose_response_figure` does.
    """
    column = _column_of(sweep, dose)
    middle, low, high = (part[:, column] for part in _bands(sweep, reading, "change", index))
    names = [_group_name(group) for group in sweep.groups]
    figure = go.Figure(
        go.Bar(
            x=names,
            y=middle,
            error_y={"type": "data", "symmetric": False, "array": high - middle, "arrayminus": middle - low},
            marker={"color": [NEGATIVE if value < 0 else POSITIVE for value in middle]},
            customdata=np.stack([low, high], axis=-1),
            hovertemplate="%{x}: %{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}]<extra></extra>",
        )
    )
    figure.add_hline(y=0.0, line=_ZERO_LINE)
    at = f"{sweep.dose} = {sweep.doses[column]:g}"
    figure.update_layout(
        title={"text": _title(f"{title}: {at}" if title else at, [len(sweep.clean[reading])])},
        xaxis={"title": {"text": "blocks changed"}, "type": "category"},
        yaxis={"title": {"text": _axis_title(reading, sweep.units.get(reading, ""), "change")}},
    )
    return figure


def patch_grid_figure(
    grid: PatchGrid,
    *,
    show: Literal["change", "recovered"] = "change",
    sample: int | None = None,
    token_strings: Sequence[str] | None = None,
    title: str = "",
) -> go.Figure:
    """Blocks by positions: what patching there does to the answer's logit, on one symmetric scale.

    Args:
        grid: what `patch_grid` made.
        show: the "change" of the logit, or the share of the prompts' distance that is "recovered".
        sample: which pair of prompts; None for the mean over those that have a value.
        token_strings: the tokens of a whole prompt, to label the positions with.
        title: escaped.

    Raises:
        ValueError: a sample that there is not, another `show`, or fewer tokens than positions.
    """
    if show not in ("change", "recovered"):
        raise ValueError(f"show is {show!r}: it must be 'change' or 'recovered'.")
    values = getattr(grid, show)
    if sample is not None and not 0 <= sample < len(values):
        raise ValueError(f"sample is {sample}: the grid has samples 0 to {len(values) - 1}.")
    z = _mean_of_finite(values) if sample is None else values[sample]
    limit = float(np.nanmax(np.abs(z), initial=0.0)) or 1.0
    what = "change of logit" if show == "change" else "share recovered"
    figure = go.Figure(
        go.Heatmap(
            z=z,
            x=list(range(len(grid.positions))),
            y=[str(block) for block in grid.blocks],
            zmin=-limit,
            zmax=limit,
            colorscale=SIGNED_SCALE,
            colorbar={"title": {"text": what}},
            customdata=np.broadcast_to(np.array([_place_name(place) for place in grid.positions]), z.shape),
            hovertemplate="block %{y}, position %{customdata}: %{z:.4g}<extra></extra>",
        )
    )
    point = html.escape(grid.point)
    which = f"mean of {len(values)} pairs of prompts" if sample is None else f"pair of prompts {sample}"
    labels = _position_labels(grid, token_strings)
    step = -(-len(labels) // MAX_TICKS)
    figure.update_layout(
        title={"text": f"{html.escape(title) or 'Activation patching'}<br><sub>{point}, {which}</sub>"},
        xaxis={
            "title": {"text": "patched position"},
            "tickvals": list(range(0, len(labels), step)),
            "ticktext": labels[::step],
        },
        yaxis={"title": {"text": "block"}, "type": "category", "autorange": "reversed"},
    )
    return figure


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


def _add_band(figure: go.Figure, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, name: str) -> None:
    if np.isnan(low).any():
        return
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=colour,
        opacity=0.18,
        mode="none",
        hoverinfo="skip",
        legendgroup=name,
        name=name,
        showlegend=False,
    )


def _column_of(sweep: SweepRecord, dose: float | None) -> int:
    if dose is None and len(sweep.doses) == 1:
        return 0
    if dose not in sweep.doses:
        raise ValueError(f"dose is {dose}: the sweep has {', '.join(f'{one:g}' for one in sweep.doses)}. Choose one.")
    return sweep.doses.index(dose)


def _style(number: int, n_curves: int) -> tuple[str, str, str]:
    """Colour, dash and marker: those of the other figures while they last, then a scale by depth."""
    if n_curves <= len(STYLES):
        return STYLES[number]
    (colour,) = sample_colorscale(DEPTH_SCALE, [number / (n_curves - 1)])
    _, dash, symbol = STYLES[number % len(STYLES)]
    return colour, dash, symbol


def _curve_name(model: str, group: tuple[int, ...] | None, record: SweepRecord) -> str:
    parts = [html.escape(model)] if model else []
    if len(record.groups) > 1 or not model:
        parts.append(_group_name(group))
    return ", ".join(parts)


def _group_name(group: tuple[int, ...] | None) -> str:
    if group is None:
        return "all"
    if len(group) > 2 and group == tuple(range(group[0], group[-1] + 1)):
        return f"{group[0]}–{group[-1]}"
    return ", ".join(map(str, group))


def _axis_title(reading: str, unit: str, quantity: Quantity) -> str:
    words = html.escape(reading.replace("_", " "))
    unit = f" ({html.escape(unit)})" if unit else ""
    return f"change of {words}{unit}" if quantity == "change" else f"{words}{unit}"


def _title(title: str, n_samples: list[int]) -> str:
    n = f"n = {', '.join(map(str, n_samples))}, 95 % bootstrap intervals over samples"
    return f"{html.escape(title)}<br><sub>{n}</sub>" if title else f"<sub>{n}</sub>"


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
