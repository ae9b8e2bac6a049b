"""Figures of the needle: probability and signal-to-noise ratio by stage, with 95 % bands, and paired differences.

Models differ in colour, lenses in dashes; every band is the interval of its own stage.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from diffmamba_interp.figures.styles import STYLES
from diffmamba_interp.needle.curves import Curve, PairedCurve
from diffmamba_interp.needle.trajectory_records import Measure

DASHES = ("solid", "dash", "dot", "dashdot")
NAMES: dict[Measure, str] = {
    "snr_db": "signal-to-noise ratio, dB",
    "snr": "signal-to-noise ratio",
    "probability": "probability of the answer",
    "log_probability": "log-probability of the answer, nats",
    "label_share": "probability of the answer among the labels",
    "per_token_probability": "probability of the answer per token",
    "label_rank": "rank of the answer among the labels",
    "vocabulary_rank": "rank of the answer's first token",
    "is_right": "share of prompts with the answer on top of the labels",
    "entropy_nats": "entropy, nats",
    "kl_to_final_nats": "KL to the output, nats",
}
_BAND_OPACITY = 0.18
# A difference is marked where its corrected p-value lies below this.
SIGNIFICANT = 0.05


def curves_by_stage(curves: Sequence[Curve], *, log: bool = False, title: str = "") -> go.Figure:
    """One line per curve over the stages, its interval as a band; `log` for a logarithmic axis.

    All curves must be of one measure. Models differ in colour, lenses in dashes. `title` and names are escaped.
    Raises ValueError if there are no curves, or of several measures, or for a logarithmic axis of decibels.
    """
    measure = _common_measure(curves)
    if log and measure in ("snr_db", "log_probability"):
        raise ValueError(f"{measure} is logarithmic already and may be negative: draw it with log=False.")
    figure = _figure(curves, NAMES[measure], title)
    if log:
        figure.update_yaxes(type="log", exponentformat="power")
    return figure


def difference_by_stage(curves: Sequence[PairedCurve], *, title: str = "") -> go.Figure:
    """Second model minus first, with bands and a line at 0; stages with a corrected p below 0.05 are filled markers.

    Raises ValueError if there are no curves, or of several measures.
    """
    measure = _common_measure(curves)
    figure = _figure(curves, f"difference in {NAMES[measure]}", title)
    figure.add_hline(y=0, line={"color": "#666666", "width": 1})
    return figure


def _figure(curves: Sequence[Curve], y_title: str, title: str) -> go.Figure:
    models, lenses = (list(dict.fromkeys(getattr(curve, name) for curve in curves)) for name in ("model", "lens"))
    groups = list(dict.fromkeys(curve.group for curve in curves))
    statistics = list(dict.fromkeys(curve.statistic for curve in curves))
    figure = go.Figure()
    for curve in curves:
        # What tells the curves apart decides the colour: models if there are several, else groups.
        colour_of = models.index(curve.model) if len(models) > 1 or len(groups) == 1 else groups.index(curve.group)
        colour, _, symbol = STYLES[colour_of % len(STYLES)]
        dash = DASHES[lenses.index(curve.lens) % len(DASHES)]
        name = _name(curve, with_statistic=len(statistics) > 1)
        figure.add_trace(_band(curve, colour, name))
        figure.add_trace(_line(curve, colour, dash, symbol, name))
    figure.update_layout(
        title={"text": html.escape(title)},
        xaxis={"title": {"text": "lens reads"}, "type": "category"},
        yaxis={"title": {"text": y_title}},
        legend={"orientation": "h", "y": -0.3},
    )
    return figure


def _band(curve: Curve, colour: str, name: str) -> go.Scatter:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return go.Scatter(
        x=[*curve.stages, *reversed(curve.stages)],
        y=[*curve.high, *reversed(curve.low)],
        fill="toself",
        fillcolor=f"rgba({red}, {green}, {blue}, {_BAND_OPACITY})",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
    )


def _line(curve: Curve, colour: str, dash: str, symbol: str, name: str) -> go.Scatter:
    hover = "%{x}: %{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}]"
    data = [list(bounds) for bounds in zip(curve.low, curve.high, strict=True)]
    symbols: str | list[str] = symbol
    if isinstance(curve, PairedCurve):
        hover += ", p = %{customdata[2]:.3g}, corrected %{customdata[3]:.3g}"
        data = [[*bounds, *p] for bounds, p in zip(data, zip(curve.p_value, curve.p_holm, strict=True), strict=True)]
        symbols = [symbol if p < SIGNIFICANT else f"{symbol}-open" for p in curve.p_holm]
    return go.Scatter(
        x=list(curve.stages),
        y=list(curve.value),
        customdata=data,
        hovertemplate=f"{hover}, n = {curve.n}<extra>%{{fullData.name}}</extra>",
        name=name,
        legendgroup=name,
        mode="lines+markers",
        line={"color": colour, "dash": dash},
        marker={"symbol": symbols, "size": 8},
    )


def _name(curve: Curve, *, with_statistic: bool) -> str:
    model = f"{curve.model} - {curve.baseline}" if isinstance(curve, PairedCurve) else curve.model
    parts = [model, f"{curve.lens} lens", *(f"{key} {value}" for key, value in curve.group)]
    return html.escape(", ".join([*parts, curve.statistic] if with_statistic else parts))


def _common_measure(curves: Sequence[Curve]) -> Measure:
    if not curves:
        raise ValueError("there are no curves to draw: summarise at least one trajectory first.")
    measures = sorted({curve.measure for curve in curves})
    if len(measures) > 1:
        raise ValueError(f"the curves are of several measures, {', '.join(measures)}: draw a figure for each.")
    return measures[0]
