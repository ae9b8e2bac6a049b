"""The interventions page's figures: the answer by stage before and after, and by dose; as files and as Python."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import plotly.graph_objects as go

from app.pages_.interventions.request import (
    LENS,
    PROBABILITY,
    Answer,
    Changes,
    DoseRequest,
    changed_steps,
    reading_steps,
    sweep_steps,
)
from app.shell import loading
from app.shell.downloads import Download, html_file
from app.shell.folders import ModelKey
from app.shell.lens_reading import LensRequest, read_step
from app.shell.needle_pictures import name_stages_shortly
from app.shell.prompts import Prompt
from app.shell.steps import Lines, Ref, Step, Steps, model_steps, token_text_lines
from diffmamba_interp.figures.interventions import dose_response_figure
from diffmamba_interp.figures.lens import lens_difference_heat_map, lens_heat_map
from diffmamba_interp.figures.needle import curves_by_stage
from diffmamba_interp.files.csv_text import csv_text
from diffmamba_interp.interventions import InterventionRecord, SweepRecord
from diffmamba_interp.lens import LensTrajectory
from diffmamba_interp.needle import Curve, Measure

BEFORE, AFTER = "before", "after"
READINGS: Mapping[Measure, str] = {
    "probability": "answer_log_probability", "label_share": "label_probability", "snr_db": "snr_db",
}  # fmt: skip
"""What is drawn, and the reading that it is made of."""

DOSE_READINGS = {PROBABILITY: "probability of the answer", "snr_db": "signal-to-noise ratio, dB"}
PRESENT = {"color": "#666666", "width": 1, "dash": "dot"}
HEIGHT = 320
LEGEND = {"title": {"text": "blocks"}, "orientation": "v"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """name: of its file. measure: of `READINGS`. values: before and after, [stage]."""

    name: str
    measure: Measure
    values: dict[str, np.ndarray]
    figure: go.Figure


def by_stage(record: InterventionRecord, measure: Measure) -> dict[str, np.ndarray]:
    """The only sample's values before and after, at every stage that the lens reads and at the output."""
    name = READINGS[measure]
    found = {}
    for when, values in ((BEFORE, record.clean), (AFTER, record.intervened)):
        stages = np.append(values[f"{LENS}.{name}"][0], values[name][0])
        found[when] = np.exp(stages) if measure == "probability" else stages
    return found


def stage_figures(record: InterventionRecord, stages: tuple[str, ...], lens: str, *, log: bool) -> list[Figure]:
    """Probability, and where there are labels the signal-to-noise ratio, by stage."""
    made = []
    for measure in [measure for measure in ("probability", "snr_db") if READINGS[measure] in record.clean]:
        values = by_stage(record, measure)
        curves = [
            Curve(
                model=when, lens=lens, measure=measure, statistic="mean", group=(), n=1, stages=stages,
                value=tuple(v), low=tuple(v), high=tuple(v),
            )
            for when, v in ((when, value.tolist()) for when, value in values.items())
        ]  # fmt: skip
        figure = curves_by_stage(curves, log=log and measure == "probability")
        name_stages_shortly(figure, stages)
        made.append(Figure(name=measure, measure=measure, values=values, figure=figure))
    return made


def at_output(record: InterventionRecord) -> list[tuple[str, float, float, str]]:
    """Name, before, after and unit of every number that is read at the output."""
    found = [("Probability of the answer", *(float(np.exp(v["answer_log_probability"][0])) for v in both(record)), "")]
    names = {"answer_logit": ("Its logit", ""), "label_probability": ("Among the labels", ""), "snr_db": ("SNR", " dB")}
    for name, (words, unit) in names.items():
        if name in record.clean:
            found.append((words, *(float(v[name][0]) for v in both(record)), unit))
    return found


def present_readings(record: InterventionRecord) -> dict[str, float]:
    """Probability and SNR at the output with the changes, by the names of a sweep's readings."""
    found = {PROBABILITY: float(np.exp(record.intervened["answer_log_probability"][0]))}
    return found | {name: float(record.intervened[name][0]) for name in ("snr_db",) if name in record.intervened}


def both(record: InterventionRecord) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    return record.clean, record.intervened


def in_words(change: Mapping[str, object]) -> str:
    """One intervention, as `describe` gives it, on one line."""
    given = (f"{name} {said(value)}" for name, value in change.items() if name != "kind" and value is not None)
    return f"{change['kind']}: {', '.join(given)}"


def said(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) if len(value) <= 16 else f"{value[0]} … {value[-1]} ({len(value)} of them)"
    return f"{value:g}" if isinstance(value, float) else str(value)


def dose_figures(
    record: SweepRecord, request: DoseRequest, present: Mapping[str, float], *, log: bool
) -> dict[str, go.Figure]:
    """Probability and, where there are labels, SNR by the name of their file.

    present: readings with the page's changes. log: a logarithmic axis of the probability.
    """
    return {
        name: dose_figure(record, request, name, present[name], log=log and name == PROBABILITY)
        for name in DOSE_READINGS
        if name in record.clean
    }


def dose_figure(record: SweepRecord, request: DoseRequest, reading: str, present: float, *, log: bool) -> go.Figure:
    """One reading against the dose; a dotted line and a ring on every curve where the other widgets stand."""
    figure = dose_response_figure(record, reading, quantity="value")
    figure.add_hline(y=present, line=PRESENT)
    values = record.intervened[reading][:, :, 0]
    for row, factor in enumerate(request.present if request.swept == "lambda" else ()):
        if factor is not None:
            figure.add_scatter(
                x=[factor], y=[values[row, record.doses.index(factor)]], mode="markers", name="as set above",
                showlegend=False, hovertemplate="as set above: %{x:.3g}, %{y:.4g}<extra></extra>",
                marker={"symbol": "circle-open", "size": 16, "color": "#666666", "line": {"width": 2}},
            )  # fmt: skip
    figure.update_layout(
        title=None, yaxis_title=DOSE_READINGS[reading], height=HEIGHT, margin={"t": 40, "b": 10}, legend=LEGEND,
        showlegend=len(record.groups) > 1,
    )  # fmt: skip
    if log:
        figure.update_yaxes(type="log", exponentformat="power")
    return figure


def dose_files(figures: Mapping[str, go.Figure], record: SweepRecord) -> list[Download]:
    pages = [replace(html_file(figure), ending=f"doses.{name}.html") for name, figure in figures.items()]
    return [
        *pages,
        Download(ending="doses.csv", mime="text/csv", make=lambda: doses_csv(record).encode()),
        Download(ending="doses.npz", mime="application/octet-stream", make=lambda: doses_npz(record)),
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
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, doses=np.array(record.doses), groups=groups, **arrays)
    return file.getvalue()


def intervention_files(
    figures: Mapping[str, go.Figure], record: InterventionRecord, trajectories: Mapping[str, LensTrajectory]
) -> list[Download]:
    """Every figure; the readings as CSV; readings and lens trajectories as NPZ."""
    pages = [replace(html_file(figure), ending=f"{name}.html") for name, figure in figures.items()]
    stages = next(iter(trajectories.values())).stages
    return [
        *pages,
        Download(ending="csv", mime="text/csv", make=lambda: readings_csv(record, stages).encode()),
        Download(ending="npz", mime="application/octet-stream", make=lambda: readings_npz(record, trajectories)),
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
    file = io.BytesIO()
    changed = np.array(json.dumps(record.interventions))
    np.savez_compressed(file, allow_pickle=False, changes=changed, **arrays)
    return file.getvalue()


def printed_steps(
    key: ModelKey, prompt: Prompt, answer: Answer, lens: LensRequest, changes: Changes, statistic: str
) -> Steps:
    """What reads the answer and the lens again, clean and changed, and draws the heat maps."""
    made, text = changes.interventions(loading.config(key)), Ref("token_text")
    before, after = Ref("before"), Ref("after")
    probabilities = Lines(
        "probabilities",
        "probabilities = {  # by stage: every block's input, and the output",
        f'    when: np.exp([*values["{LENS}.answer_log_probability"][0], values["answer_log_probability"][0]])',
        "    for when, values in (('before', record.clean), ('after', record.intervened))",
        "}",
        imports=["import numpy as np"],
    )
    return [
        *model_steps(key),
        *reading_steps(key, prompt, answer, lens, made),
        probabilities,
        read_step(prompt, lens, "before"),
        changed_steps(prompt, lens, made),
        token_text_lines(key),
        Step("figure", lens_heat_map, before, text, statistic=statistic),
        Step("second_figure", lens_heat_map, after, text, statistic=statistic),
        Step(
            "difference_figure", lens_difference_heat_map, after, before, text,
            statistic=statistic, names=(AFTER, BEFORE),
        ),
    ]  # fmt: skip


def printed_sweep(
    key: ModelKey, prompt: Prompt, answer: Answer, changes: Changes, request: DoseRequest, *, log: bool
) -> Steps:
    """What reads the answer at every dose again, and draws the curves."""
    steps: list = [*model_steps(key), *sweep_steps(key, prompt, answer, changes, request)]
    probability = (
        "for values in (record.clean, record.intervened):",
        f'    values[{PROBABILITY!r}] = np.exp(values["answer_log_probability"])',
    )
    steps.append(Lines("", *probability, imports=["import numpy as np"]))
    for name in DOSE_READINGS:
        if name == PROBABILITY or answer.labels:
            steps.append(Step(f"{name}_figure", dose_response_figure, Ref("record"), name, quantity="value"))
    return [*steps, Step("", f"{PROBABILITY}_figure.update_yaxes", type="log")] if log else steps
