"""Figures of a needle run: the measure and the SNR by stage, model minus baseline, and what the last position reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

import plotly.graph_objects as go

from app.shell import viewport
from app.shell.figures import LEGEND_ABOVE, LEGEND_BELOW, legend_by_panel
from app.shell.needle_runs import NeedleRun
from app.shell.steps import Ref, Step, run_steps
from diffmamba_interp.figures.allocation import AllocationCurve, allocation_curves, allocation_figure
from diffmamba_interp.figures.needle import figures_by_measure, probes_by_stage
from diffmamba_interp.needle import (
    Criterion,
    NeedleTrajectory,
    ProbeRecord,
    compare,
    compare_formation,
    compare_probes,
    formation_table,
    summarise,
    summarise_formation,
    summarise_probes,
)
from diffmamba_interp.needle.curves import Curve, GroupKey

TRAJECTORIES = ("trajectory", "second_trajectory")
PROBES = ("probes", "second_probes")
ALLOCATIONS = ("allocation", "second_allocation")
FORMED: tuple[Criterion, ...] = ("7 dB", "on top")
"""What the page asks of when an answer forms."""

FIGURE_HEIGHT, ALLOCATION_HEIGHT = 380, 440
TITLE_SIZE = 14
MAX_TICKS, NARROW_TICKS = 16, 7
N_GROUP = 5
"""Columns of the table that say of which prompts, lens and criterion a line is; the model's follows."""

_HYPHEN = re.compile(r"(?<=[ \[])-(?=\d)")


def curve_steps(run: NeedleRun) -> list[Step]:
    """Curves and figures of `TRAJECTORIES`; of two that a lens reads at the same stages, their differences too."""
    read = [reading.trajectory for reading in run.readings]
    trajectories = [Ref(name) for name in TRAJECTORIES[: len(read)]]
    how = {"measures": (run.drawing.measure, "snr_db"), "statistics": (run.drawing.statistic,), "by": ()}
    steps = [
        Step("curves", summarise, trajectories, **how),
        Step("figures", figures_by_measure, Ref("curves"), log=run.drawing.log),
    ]
    if are_comparable(read):
        steps += [
            Step("differences", compare, *trajectories[::-1], **how),
            Step("difference_figures", figures_by_measure, Ref("differences")),
        ]
    return steps


def formation_steps(run: NeedleRun, by: Sequence[GroupKey] = ()) -> list[Step]:
    """When the answers of `TRAJECTORIES` form, as lines of a table; of two with as many stages, the difference too.

    by: what the table says of the prompts.
    """
    read = [reading.trajectory for reading in run.readings]
    trajectories = [Ref(name) for name in TRAJECTORIES[: len(read)]]
    how = {"criteria": FORMED, "by": tuple(by)}
    if not are_comparable(read):
        return [
            Step("formations", summarise_formation, trajectories, **how),
            Step("table", formation_table, Ref("formations"), named=True),
        ]
    return [
        Step("formations", summarise_formation, trajectories, **how),
        Step("formation_differences", compare_formation, *trajectories[::-1], **how),
        Step("table", formation_table, Ref("formations"), Ref("formation_differences"), named=True),
    ]


def formation_lines(run: NeedleRun, by: Sequence[GroupKey] = ()) -> list[str]:
    """The table in Markdown, with the minus of the figures' axes."""
    read = [reading.trajectory for reading in run.readings]
    table = run_steps(formation_steps(run, by), dict(zip(TRAJECTORIES, read, strict=False)))["table"]
    return [_HYPHEN.sub("−", line) for line in table]


def as_list(table: Sequence[str]) -> list[str]:
    """A table in Markdown whose first five columns say of which prompts it is, as a list for a narrow page."""
    heads, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in table)
    lines: list[str] = []
    for row in rows:
        of = ", ".join(f"{head} {value}" for head, value in zip(heads[:N_GROUP], row, strict=False))
        if of not in lines:
            lines += ["", of, ""]
        values = (f"{head} {value}" for head, value in zip(heads[N_GROUP + 1 :], row[N_GROUP + 1 :], strict=False))
        lines.append(f"- **{row[N_GROUP]}**: {'; '.join(values)}")
    return lines


def are_comparable(read: Sequence[NeedleTrajectory]) -> bool:
    """Two models with as many stages and a lens in common?"""
    return len(read) == 2 and read[0].stages == read[1].stages and bool(set(read[0].lenses) & set(read[1].lenses))


def curve_figures(run: NeedleRun) -> tuple[dict[str, go.Figure], list[Curve]]:
    """The figures by the name of their file, and all curves in them."""
    read = [reading.trajectory for reading in run.readings]
    results = run_steps(curve_steps(run), dict(zip(TRAJECTORIES, read, strict=False)))
    names = {run.drawing.measure: "", "snr_db": "snr"}
    figures = {names[measure] or measure: figure for measure, figure in results["figures"].items()}
    for measure, figure in results.get("difference_figures", {}).items():
        figures[f"{names[measure]}_difference".strip("_")] = figure
    for figure in figures.values():
        figure.update_layout(legend=LEGEND_ABOVE, height=FIGURE_HEIGHT, margin={"t": 70, "b": 10})
        name_stages_shortly(figure, read[0].stages)
    return figures, [*results["curves"], *results.get("differences", [])]


def allocation_steps(models: Sequence[str]) -> list[Step]:
    """Curves of `ALLOCATIONS`, which are those of the models, and their figure."""
    allocations = {model: Ref(name) for model, name in zip(models, ALLOCATIONS, strict=False)}
    return [
        Step("curves", allocation_curves, allocations),
        Step("figure", allocation_figure, Ref("curves")),
    ]


def probe_steps(models: Sequence[str], stages: Sequence[int]) -> list[Step]:
    """Curves and figure of `PROBES`, which are those of the models; of two with as many stages, the difference too."""
    probes = [Ref(name) for name, _ in zip(PROBES, models, strict=False)]
    steps = [
        Step("probe_curves", summarise_probes, probes),
        Step("probe_figure", probes_by_stage, Ref("probe_curves"), title="Linear probes of the answer"),
    ]
    if len(models) == 2 and len(set(stages)) == 1:
        steps += [
            Step("probe_differences", compare_probes, *probes[::-1]),
            Step("probe_difference_figure", probes_by_stage, Ref("probe_differences"), title="Paired difference"),
        ]
    return steps


def probe_pictures(records: Sequence[ProbeRecord]) -> tuple[list[go.Figure], list[Curve]]:
    """The figures, and all curves in them and beside them."""
    steps = probe_steps([record.model for record in records], [len(record.stages) for record in records])
    results = run_steps(steps, dict(zip(PROBES, records, strict=False)))
    figures = [results[name] for name in ("probe_figure", "probe_difference_figure") if name in results]
    for figure in figures:
        figure.update_layout(legend=LEGEND_BELOW, height=FIGURE_HEIGHT, margin={"t": 90, "b": 10})
        name_stages_shortly(figure, records[0].stages)
        figure.update_xaxes(title_text="the probe reads after block")
    return figures, [*results["probe_curves"], *results.get("probe_differences", [])]


def attention_picture(run: NeedleRun) -> tuple[go.Figure, list[AllocationCurve]] | None:
    """What the last position reads, and the curves in the figure; None if it was not asked for."""
    read = {reading.trajectory.model: reading.allocation for reading in run.readings if reading.allocation is not None}
    if not read:
        return None
    results = run_steps(allocation_steps(list(read)), dict(zip(ALLOCATIONS, read.values(), strict=False)))
    results["figure"].update_layout(height=ALLOCATION_HEIGHT, margin={"t": 40, "b": 10})
    results["figure"].update_annotations(font_size=TITLE_SIZE)
    legend_by_panel(results["figure"])
    return results["figure"], results["curves"]


def name_stages_shortly(figure: go.Figure, stages: Sequence[str]) -> None:
    """The block's number alone under the axis, and not more of them than have room side by side."""
    room = NARROW_TICKS if viewport.is_narrow() else MAX_TICKS
    named = [*stages[:-1][:: -(-len(stages) // room)], stages[-1]]
    short = [stage.removeprefix("after block ").replace("embedding", "embed") for stage in named]
    figure.update_xaxes(tickvals=named, ticktext=short, tickangle=0, title_text="the lens reads after block")
