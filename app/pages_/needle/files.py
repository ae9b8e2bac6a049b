"""The needle page's figures and numbers as files and as Python."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from app.pages_.needle.request import NeedleRead, SampleRequest
from app.shell.downloads import Download, html_file
from app.shell.folders import ModelKey
from app.shell.needle_pictures import BlockCurve, measures
from app.shell.needle_runs import Drawing, NeedleFound
from app.shell.steps import Lines, Ref, Step, Steps, model_steps, tokenizer_step
from diffmamba_interp.figures.needle import curves_by_stage
from diffmamba_interp.files.csv_text import csv_text
from diffmamba_interp.needle import Curve, PairedCurve, summarise
from diffmamba_interp.needle.trajectory_records import ARRAYS

NPZ = "application/octet-stream"


def curve_files(
    figures: Mapping[str, go.Figure], curves: Sequence[Curve], found: Sequence[NeedleFound]
) -> list[Download]:
    """Every figure, the curves as CSV, and what was read of each prompt as NPZ."""
    pages = [replace(html_file(figure), ending=f"{name}.html") for name, figure in figures.items()]
    return [
        *pages,
        Download(ending="csv", mime="text/csv", make=lambda: curves_csv(curves).encode()),
        Download(ending="npz", mime=NPZ, make=lambda: trajectories_npz(found)),
    ]


def attention_files(figure: go.Figure, curves: Sequence[BlockCurve], found: Sequence[NeedleFound]) -> list[Download]:
    return [
        replace(html_file(figure), ending="attention.html"),
        Download(ending="attention.csv", mime="text/csv", make=lambda: block_curves_csv(curves).encode()),
        Download(ending="attention.npz", mime=NPZ, make=lambda: attention_npz(found)),
    ]


def curves_csv(curves: Sequence[Curve]) -> str:
    """One line per curve and stage; a difference names both models and has p-values."""
    lines = []
    for curve in curves:
        baseline = curve.baseline if isinstance(curve, PairedCurve) else ""
        head = [curve.model, baseline, curve.lens, curve.measure, curve.statistic, curve.n]
        for place, stage in enumerate(curve.stages):
            p = curve.p_value[place] if isinstance(curve, PairedCurve) else ""
            lines.append([*head, stage, curve.value[place], curve.low[place], curve.high[place], p])
    names = ["model", "minus", "lens", "measure", "statistic", "n", "stage", "value", "low", "high", "p_value"]
    return csv_text(names, lines)


def block_curves_csv(curves: Sequence[BlockCurve]) -> str:
    """One line per curve and block."""
    lines = [
        [curve.model, curve.panel, curve.name, curve.n, block, *numbers]
        for curve in curves
        for block, *numbers in zip(curve.blocks, curve.value, curve.low, curve.high, strict=True)
    ]
    return csv_text(["model", "measure", "of", "n", "block", "value", "low", "high"], lines)


def trajectories_npz(found: Sequence[NeedleFound]) -> bytes:
    """Arrays of every model, "0.log_probs" and so on, [lens, sample, stage, ...]; `about` says which is which."""
    arrays = {f"{k}.{name}": getattr(one.trajectory, name) for k, one in enumerate(found) for name in ARRAYS}
    about = {
        "models": [one.trajectory.model for one in found],
        "lenses": [list(one.trajectory.lenses) for one in found],
        "stages": [list(one.trajectory.stages) for one in found],
        "samples": [[sample.id, list(sample.labels), sample.answer] for sample in found[0].trajectory.samples],
    }
    return _packed({**arrays, "about": np.array(json.dumps(about))})


def attention_npz(found: Sequence[NeedleFound]) -> bytes:
    """[prompt, block] of every model, measure and picture or class, as "0.snr_db.net"."""
    arrays = {
        f"{k}.{panel}.{name}": values
        for k, one in enumerate(found)
        if one.allocation is not None
        for panel, by_name in measures(one.allocation).items()
        for name, values in by_name.items()
    }
    return _packed({**arrays, "models": np.array([one.trajectory.model for one in found])})


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def curves_steps(reads: Sequence[NeedleRead], request: SampleRequest, drawing: Drawing, n: int) -> Steps:
    """Trajectories, curves and figures of the first `n` prompts; their difference, of two models."""
    steps, names = _samples(reads[0].key, request, n), ["trajectory", "second_trajectory"][: len(reads)]
    for read, name in zip(reads, names, strict=True):
        steps += [*model_steps(read.key), read.lenses_step, read.trajectory_step(name)]
    measures = (drawing.measure, "snr_db")
    steps += [
        Lines("trajectories", f"trajectories = [{', '.join(names)}]"),
        Step(
            "curves", summarise, Ref("trajectories"), measures=measures, statistics=(drawing.statistic,), by=(),
        ),
        Lines("values", f"values, snr = ([c for c in curves if c.measure == m] for m in {measures!r})"),
        Step("figure", curves_by_stage, Ref("values"), log=drawing.log),
        Step("snr_figure", curves_by_stage, Ref("snr")),
    ]  # fmt: skip
    if len(reads) == 2:
        differences = Lines(
            "difference_figures",
            "if trajectory.stages == second_trajectory.stages:",
            "    differences = compare(",
            f"        second_trajectory, trajectory, measures={measures!r}, statistics=({drawing.statistic!r},), by=()",
            "    )",
            "    difference_figures = [",
            f"        difference_by_stage([c for c in differences if c.measure == m]) for m in {measures!r}",
            "    ]",
            imports=[
                "from diffmamba_interp.figures.needle import difference_by_stage",
                "from diffmamba_interp.needle import compare",
            ],
        )
        steps.append(differences)
    return steps


def attention_steps(reads: Sequence[NeedleRead], request: SampleRequest, n: int) -> Steps:
    """The numbers of the attention's curves, [prompt, block]."""
    steps, names = _samples(reads[0].key, request, n), ["allocation", "second_allocation"][: len(reads)]
    for read, name in zip(reads, names, strict=True):
        steps += [*model_steps(read.key), read.allocation_step(name)]
    by_name = ", ".join(f"{read.name!r}: {name}" for read, name in zip(reads, names, strict=True))
    numbers = Lines(
        "over_allocation",
        "snr_db, cancelled, over_allocation = {}, {}, {}",
        "noise = [CLASSES.index(name) for name in ('distractors', 'filler')]",
        f"for name, allocation in {{{by_name}}}.items():",
        "    mass = allocation.mass[:, DIRECTIONS.index('answer')].double()",
        "    snr = allocation.snr_db[:, DIRECTIONS.index('answer')].double()",
        "    net, minuend, scaled = (mass[:, :, place] for place in range(3))  # in the order of PICTURES",
        "    snr_db[name] = dict(zip(PICTURES, snr.unbind(-1)))",
        "    cancelled[name] = dict(zip(CLASSES, (1 - net / (minuend + scaled)).unbind(-1)))",
        "    shares = mass[..., noise].sum(-1) / mass.sum(-1)",
        "    over_allocation[name] = dict(zip(PICTURES, shares.unbind(-1)))",
        f"interval = bootstrap(over_allocation[{reads[0].name!r}]['net'].numpy())  # value, low, high by block",
        imports=[
            "from diffmamba_interp.implicit_attention.allocation import CLASSES, PICTURES",
            "from diffmamba_interp.implicit_attention.prompt_allocation import DIRECTIONS",
            "from diffmamba_interp.statistics import bootstrap",
        ],
    )
    return [*steps, numbers]


def _samples(key: ModelKey, request: SampleRequest, n: int) -> list:
    """As many prompts as were read, of as many as were made."""
    cut = [Lines("samples", f"samples = samples[:{n}]")] if n < request.n_prompts else []
    return [tokenizer_step(key), request.step, *cut]
