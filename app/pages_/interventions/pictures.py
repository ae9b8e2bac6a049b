"""The interventions page's figures: the answer by stage before and after, and by dose; as files and as Python."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import numpy as np
import plotly.graph_objects as go

from app.pages_.interventions.request import Answer, Changes, DoseRequest, changed_steps, reading_steps
from app.shell import loading
from app.shell.downloads import Download, csv_file, html_file, npz_file
from app.shell.folders import ModelKey
from app.shell.lens_reading import LensRequest, read_step
from app.shell.prompts import Prompt
from app.shell.steps import Ref, Step, Steps, model_steps, run_steps, token_text_lines
from diffmamba_interp.figures.interventions import BY_STAGE, answer_by_stage_figure, dose_response_figure
from diffmamba_interp.figures.lens import lens_difference_heat_map, lens_heat_map
from diffmamba_interp.files.archives import arrays_to_bytes
from diffmamba_interp.files.table_text import csv_text
from diffmamba_interp.interventions import InterventionRecord, SweepRecord
from diffmamba_interp.interventions.records import PROBABILITY
from diffmamba_interp.lens import LensTrajectory

BEFORE, AFTER = "before", "after"
DOSE_READINGS = {PROBABILITY: "probability of the answer", "snr_db": "signal-to-noise ratio, dB"}
PRESENT = {"color": "#666666", "width": 1, "dash": "dot"}
HEIGHT, MORE_THAN_FEW, LINE_HEIGHT = 320, 4, 23
LEGEND = {"title": {"text": "blocks"}, "orientation": "v", "y": 1.0, "yanchor": "top", "tracegroupgap": 0}
AROUND = 0.05
"""Of a probability's axis, beyond its curves: a share of their range."""


def stage_steps(record: InterventionRecord, lens: LensRequest, *, log: bool) -> list[Step]:
    """Figures of the probability, and where there are labels of the signal-to-noise ratio, by stage."""
    steps = []
    for measure in [measure for measure, reading in BY_STAGE.items() if reading in record.clean]:
        axis = {"log": True} if log and measure == "probability" else {}
        steps.append(Step(f"{measure}_figure", answer_by_stage_figure, Ref("record"), measure, lens=lens.name, **axis))
    return steps


def map_steps(maps: str, statistic: str) -> list[Step]:
    """Heat maps of what the lens reads: after minus before, "beside" one another, or "before" alone."""
    before, after, text = Ref("before"), Ref("after"), Ref("token_text")
    if maps == BEFORE:
        return [Step("map", lens_heat_map, before, text, statistic=statistic)]
    if maps == "beside":
        return [
            Step("map_before", lens_heat_map, before, text, statistic=statistic),
            Step("map_after", lens_heat_map, after, text, statistic=statistic),
        ]
    names = (AFTER, BEFORE)
    return [Step("map", lens_difference_heat_map, after, before, text, statistic=statistic, names=names)]


def dose_figures(
    record: SweepRecord, request: DoseRequest, present: InterventionRecord, *, log: bool
) -> dict[str, go.Figure]:
    """Probability and, where there are labels, SNR by the name of their file.

    present: what is read with the page's changes. log: a logarithmic axis of the probability.
    """
    figures = run_steps(dose_steps(record.clean, log=log), {"record": record})
    return {
        name: marked(figures[f"{name}_figure"], record, request, name, float(present.intervened[name][0]))
        for name in DOSE_READINGS
        if name in record.clean
    }


def marked(figure: go.Figure, record: SweepRecord, request: DoseRequest, reading: str, present: float) -> go.Figure:
    """The figure with a dotted line, and a ring on every curve, where the other widgets stand."""
    figure.add_hline(y=present, line=PRESENT)
    values = record.intervened[reading][:, :, 0]
    for row, factor in enumerate(request.present if request.swept == "lambda" else ()):
        if factor is not None:
            figure.add_scatter(
                x=[factor], y=[values[row, record.doses.index(factor)]], mode="markers", name="as set above",
                showlegend=False, hovertemplate="as set above: %{x:.3g}, %{y:.4g}<extra></extra>",
                marker={"symbol": "circle-open", "size": 16, "color": "#666666", "line": {"width": 2}},
            )  # fmt: skip
    if reading == PROBABILITY and figure.layout.yaxis.type != "log":
        low, high = min(float(values.min()), present), max(float(values.max()), present)
        room = max(AROUND * (high - low), 1e-3)
        figure.update_yaxes(range=[low - room, high + room])
    n_curves = len(record.groups)
    height = max(HEIGHT, 110 + LINE_HEIGHT * n_curves)
    if n_curves > MORE_THAN_FEW:
        # The last curve's markers would hide the others.
        figure.update_traces(mode="lines", line={"width": 1.5}, selector={"mode": "lines+markers"})
    figure.update_layout(
        title=None, yaxis_title=DOSE_READINGS[reading], height=height, margin={"t": 40, "b": 10}, legend=LEGEND,
        showlegend=n_curves > 1,
    )  # fmt: skip
    return figure


def zoomed(figure: go.Figure) -> str:
    """Where the axis of a probability begins and ends, unless it shows nearly all from 0 to 1."""
    low, high = figure.layout.yaxis.range or (0.0, 1.0)
    if figure.layout.yaxis.type == "log" or (low < AROUND and high > 1 - AROUND):
        return ""
    return (
        f" The axis of the probability is not from 0 to 1: it shows {max(low, 0.0):.3g} to {min(high, 1.0):.3g} alone."
    )


def dose_files(figures: Mapping[str, go.Figure], record: SweepRecord) -> list[Download]:
    pages = [html_file(figure, f"doses.{name}.html") for name, figure in figures.items()]
    return [
        *pages,
        csv_file(lambda: doses_csv(record), "doses.csv"),
        npz_file(lambda: doses_npz(record), "doses.npz"),
    ]


def doses_csv(record: SweepRecord) -> str:
    """One line per group of blocks, dose and reading."""
    lines = [
        [" ".join(map(str, group or ())), dose, reading, record.units.get(reading, ""), float(values[row, column, 0])]
        for reading, values in record.intervened.items()
        for row, group in enumerate(record.groups)
        for column, dose in enumerate(record.doses)
    ]
    return csv_text(["blocks", record.dose, "reading", "unit", "value"], lines)


def doses_npz(record: SweepRecord) -> bytes:
    """Readings [group, dose] by name, and "unchanged." before it for the model as it is; doses and groups."""
    arrays = {name: values[:, :, 0] for name, values in record.intervened.items()}
    arrays |= {f"unchanged.{name}": values[0] for name, values in record.clean.items()}
    groups = np.array([" ".join(map(str, group or ())) for group in record.groups])
    return arrays_to_bytes({"doses": np.array(record.doses), "groups": groups, **arrays})


def intervention_files(
    figures: Mapping[str, go.Figure], record: InterventionRecord, trajectories: Mapping[str, LensTrajectory]
) -> list[Download]:
    """Every figure; the readings as CSV; readings and lens trajectories as NPZ."""
    pages = [html_file(figure, f"{name}.html") for name, figure in figures.items()]
    stages = next(iter(trajectories.values())).stages
    return [
        *pages,
        csv_file(lambda: readings_csv(record, stages)),
        npz_file(lambda: readings_npz(record, trajectories)),
    ]


def readings_csv(record: InterventionRecord, stages: tuple[str, ...]) -> str:
    """One line per reading and stage; what the model itself gives stands at the stage "output"."""
    lines = []
    for name, clean in record.clean.items():
        values = zip(np.atleast_1d(clean[0]), np.atleast_1d(record.intervened[name][0]), strict=True)
        where = stages if clean.ndim > 1 else stages[-1:]
        unit = record.units.get(name, "")
        lines += [[name, unit, stage, *map(float, pair)] for stage, pair in zip(where, values, strict=False)]
    return csv_text(["reading", "unit", "stage", "before", "after"], lines)


def readings_npz(record: InterventionRecord, trajectories: Mapping[str, LensTrajectory]) -> bytes:
    """Arrays "before.snr_db" and so on; those of the trajectories as "before.trajectory.top_tokens"; the changes."""
    readings = {"before": record.clean, "after": record.intervened}
    arrays = {f"{when}.{name}": value for when, values in readings.items() for name, value in values.items()}
    for when, trajectory in trajectories.items():
        for name, value in vars(trajectory).items():
            if value is not None:
                arrays[f"{when}.trajectory.{name}"] = np.asarray(value)
    return arrays_to_bytes({"changes": np.array(json.dumps(record.interventions)), **arrays})


def printed_steps(
    key: ModelKey, prompt: Prompt, answer: Answer, lens: LensRequest, changes: Changes, figures: Steps
) -> Steps:
    """What reads the answer and the lens again, clean and changed, and draws the figures."""
    interventions = changes.interventions(loading.config(key))
    return [
        *model_steps(key),
        *reading_steps(key, prompt, answer, lens, interventions),
        read_step(prompt, lens, "before"),
        changed_steps(prompt, lens, interventions),
        token_text_lines(key),
        *figures,
    ]


def dose_steps(readings: Collection[str], *, log: bool) -> list[Step]:
    """Figures of those of the readings that are drawn against the dose."""
    names = [name for name in DOSE_READINGS if name in readings]
    steps = [Step(f"{name}_figure", dose_response_figure, Ref("record"), name, quantity="value") for name in names]
    axis = Step("", f"{PROBABILITY}_figure.update_yaxes", type="log", exponentformat="power")
    return [*steps, axis] if log else steps
