"""The needle page's figures and numbers as files and as Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from app.pages_.needle.request import NeedleRead, SampleRequest
from app.shell.downloads import Download, csv_file, html_file, npz_file
from app.shell.folders import ModelKey
from app.shell.needle_pictures import (
    ALLOCATIONS,
    PROBES,
    TRAJECTORIES,
    allocation_steps,
    curve_steps,
    formation_steps,
    probe_steps,
)
from app.shell.needle_runs import NeedleReading, NeedleRun
from app.shell.steps import Lines, Steps, model_steps, tokenizer_step
from diffmamba_interp.figures.allocation import AllocationCurve, allocation_by_block
from diffmamba_interp.files.archives import arrays_to_bytes
from diffmamba_interp.files.table_text import csv_text
from diffmamba_interp.needle import Curve, PairedCurve, ProbeRecord
from diffmamba_interp.needle.trajectory_records import ARRAYS


def curve_files(
    figures: Mapping[str, go.Figure], curves: Sequence[Curve], readings: Sequence[NeedleReading]
) -> list[Download]:
    """Every figure, the curves as CSV, and what was read of each prompt as NPZ."""
    pages = [html_file(figure, f"{name}.html") for name, figure in figures.items()]
    return [
        *pages,
        csv_file(lambda: curves_csv(curves)),
        npz_file(lambda: trajectories_npz(readings)),
    ]


def attention_files(
    figure: go.Figure, curves: Sequence[AllocationCurve], readings: Sequence[NeedleReading]
) -> list[Download]:
    return [
        html_file(figure, "attention.html"),
        csv_file(lambda: allocation_curves_csv(curves), "attention.csv"),
        npz_file(lambda: attention_npz(readings), "attention.npz"),
    ]


def probe_files(
    figures: Sequence[go.Figure], curves: Sequence[Curve], records: Sequence[ProbeRecord]
) -> list[Download]:
    names = ("probes.html", "probes_difference.html")
    return [
        *(html_file(figure, name) for figure, name in zip(figures, names, strict=False)),
        csv_file(lambda: curves_csv(curves), "probes.csv"),
        npz_file(lambda: probes_npz(records), "probes.npz"),
    ]


def curves_csv(curves: Sequence[Curve]) -> str:
    """One line per curve and stage; a difference names both models and has p-values, corrected too, as its markers."""
    lines = []
    for curve in curves:
        baseline = curve.baseline if isinstance(curve, PairedCurve) else ""
        head = [curve.model, baseline, curve.lens, curve.measure, curve.statistic, curve.n]
        for place, stage in enumerate(curve.stages):
            p = [curve.p_value[place], curve.p_holm[place]] if isinstance(curve, PairedCurve) else ["", ""]
            lines.append([*head, stage, curve.value[place], curve.low[place], curve.high[place], *p])
    names = ["model", "minus", "lens", "measure", "statistic", "n", "stage", "value", "low", "high"]
    return csv_text([*names, "p_value", "p_corrected"], lines)


def allocation_curves_csv(curves: Sequence[AllocationCurve]) -> str:
    """One line per curve and block."""
    lines = [
        [curve.model, curve.measure, curve.name, curve.n, block, *numbers]
        for curve in curves
        for block, *numbers in zip(curve.blocks, curve.value, curve.low, curve.high, strict=True)
    ]
    return csv_text(["model", "measure", "of", "n", "block", "value", "low", "high"], lines)


def trajectories_npz(readings: Sequence[NeedleReading]) -> bytes:
    """Arrays of every model, "0.log_probs" and so on, [lens, sample, stage, ...]; `about` says which is which."""
    trajectories = [reading.trajectory for reading in readings]
    arrays = {f"{k}.{name}": getattr(read, name) for k, read in enumerate(trajectories) for name in ARRAYS}
    about = {
        "models": [read.model for read in trajectories],
        "lenses": [list(read.lenses) for read in trajectories],
        "stages": [list(read.stages) for read in trajectories],
        "samples": [[sample.id, list(sample.labels), sample.answer] for sample in trajectories[0].samples],
    }
    return arrays_to_bytes({**arrays, "about": np.array(json.dumps(about))})


def attention_npz(readings: Sequence[NeedleReading]) -> bytes:
    """[prompt, block] of every model, measure and picture or class, as "0.snr_db.net"."""
    arrays = {
        f"{k}.{measure}.{name}": values
        for k, reading in enumerate(readings)
        if reading.allocation is not None
        for measure, by_name in allocation_by_block(reading.allocation).items()
        for name, values in by_name.items()
    }
    return arrays_to_bytes({**arrays, "models": np.array([reading.trajectory.model for reading in readings])})


def probes_npz(records: Sequence[ProbeRecord]) -> bytes:
    """[prompt, stage] of every model, as "0.bits"; `models` says which is which."""
    names = ("is_right", "bits", "shuffled_right", "shuffled_bits", "l2")
    arrays = {f"{k}.{name}": getattr(record, name) for k, record in enumerate(records) for name in names}
    return arrays_to_bytes({**arrays, "models": np.array([record.model for record in records])})


def printed_curves(reads: Sequence[NeedleRead], request: SampleRequest, run: NeedleRun) -> Steps:
    """Trajectories, curves, figures and when answers form, of the prompts that were read; of two models the
    difference."""
    steps = _samples(reads[0].key, request, run.n_prompts)
    for read, name in zip(reads, TRAJECTORIES, strict=False):
        steps += [*model_steps(read.key), read.lenses_step, read.trajectory_step(name)]
    return [*steps, *curve_steps(run), *formation_steps(run, request.said)]


def printed_attention(reads: Sequence[NeedleRead], request: SampleRequest, run: NeedleRun) -> Steps:
    """What the last position of those prompts reads, its curves and their figure."""
    steps = _samples(reads[0].key, request, run.n_prompts)
    for read, name in zip(reads, ALLOCATIONS, strict=False):
        steps += [*model_steps(read.key), read.allocation_step(name)]
    return [*steps, *allocation_steps([read.name for read in reads])]


def printed_probes(reads: Sequence[NeedleRead], request: SampleRequest, records: Sequence[ProbeRecord]) -> Steps:
    """The probes of all prompts, their curves and figures."""
    steps = [tokenizer_step(reads[0].key), request.step]
    for read, name in zip(reads, PROBES, strict=False):
        steps += [*model_steps(read.key), read.probes_step(name)]
    return [*steps, *probe_steps([read.name for read in reads], [len(record.stages) for record in records])]


def _samples(key: ModelKey, request: SampleRequest, n: int) -> list:
    """As many prompts as were read, of as many as were made."""
    cut = [Lines("samples", f"samples = samples[:{n}]")] if n < request.n_prompts else []
    return [tokenizer_step(key), request.step, *cut]
