"""What the ablations' figures and README.md say of results.json, which `summary` makes of the records.

python analyses/ablations/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyses.ablations.cells import BASELINE, CELLS, REFERENCE
from analyses.ablations.summary import ACCURACY, RIVALS, summarise, verdict
from diffmamba_interp.analysis.page import Page, Results, table
from diffmamba_interp.analysis.results import estimate_from
from diffmamba_interp.drawing.colours import GREY, series_styles
from diffmamba_interp.drawing.panels import Axis, Drawing, Level, Line, Panel
from diffmamba_interp.lm_training.stage_readings import RIVAL_PROMPTS

TITLES = {
    "paper": "Table 2, placement and gates at demo size",
    "depth": "Table 1 in small: bytes of novels, 6 and 12 blocks",
    "builtin": "All kinds of model, far too small",
}
SOURCES = {"pile_test": "The Pile"}
"""What pages call a folder of text."""


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """Differences from the baseline of the same seed, a dot for each seed: bits per byte by source, accuracy."""
    compared = [one for one in results["cells"] if one["cell"] != BASELINE]
    baselines = {one["n_layers"]: one for one in results["cells"] if one["cell"] == BASELINE}
    names = [_name(one, results) for one in compared]
    seeds = sorted({seed for one in compared for seed in one["seeds"]})
    styles = series_styles([f"seed {seed}" for seed in seeds])

    def difference(one: Mapping[str, Any], seed: int, measure: str) -> float:
        base = baselines.get(one["n_layers"])
        if base is None or seed not in one["seeds"] or seed not in base["seeds"]:
            return np.nan
        values = [cell["measures"][measure]["values"][cell["seeds"].index(seed)] for cell in (one, base)]
        return np.nan if None in values else values[0] - values[1]

    def panel(measure: str) -> Panel:
        dots = [
            Line(
                name=name,
                x=names,
                y=[difference(one, seed, measure) for one in compared],
                style=styles[name],
                joined=False,
            )
            for seed, name in zip(seeds, styles, strict=True)
        ]
        return Panel(title=SOURCES.get(measure, measure), marks=[Level(at=0.0, colour=GREY), *dots])

    drawn = {}
    for name, unit in (("bits", "bits per byte"), (ACCURACY, ACCURACY)):
        measures = [measure for measure in results["measures"] if (measure == ACCURACY) == (name == ACCURACY)]
        if compared and measures:
            drawn[name] = Drawing(
                title=title,
                x=Axis(kind="category", upright=True),
                y=Axis(title=f"{unit}, less {CELLS[BASELINE].label}"),
                panels=[panel(measure) for measure in measures],
            )
    return drawn


def finding(results: Results, title: str) -> list[str]:
    recipe = results["provenance"]["recipe"]
    if recipe["name"] == "builtin":
        return []
    lines = [_finding_of(claim) for claim in results["claims"]]
    if results["depth"]:
        depth = results["depth"]
        gains = ", ".join(f"{_said(gain)} at {n} blocks" for n, gain in depth["gains"].items())
        growth = f"{_said(depth['growth'])} ({verdict(depth['growth'])})"
        lines.append(f"- the gain grows with depth: by {growth}; {gains}; seeds {', '.join(map(str, depth['seeds']))}.")
    return [f"{title}, {recipe['steps']:,} steps:", "", *lines, "", *_not_made(results)]


def _finding_of(claim: Mapping[str, Any]) -> str:
    """An ordering with its verdict over seeds; of one seed no verdict."""
    seeds = claim["seeds"]
    if len(seeds) == 1:
        gains = ", ".join(f"{_measured(measure)} {_said(gain)}" for measure, gain in claim["gains"].items())
        return f"- {claim['says']}: seed {seeds[0]} alone, so no verdict; {gains}."
    gains = ", ".join(
        f"{_measured(measure)} {_said(gain)} ({verdict(gain)})" for measure, gain in claim["gains"].items()
    )
    return f"- {claim['says']}: {gains}; seeds {', '.join(map(str, seeds))}."


def section(results: Results) -> list[str]:
    recipe, about = results["provenance"]["recipe"], results["provenance"]
    rows = [_row(one, results) for one in results["cells"]]
    heads = ["model", "parameters", "seeds"]
    for measure in results["measures"]:
        heads += [_measured(measure), "less Mamba, over seeds", "over samples"]
    tokens = recipe["steps"] * recipe["batch_size"] * recipe["length"]
    n_samples = ", ".join(
        f"{SOURCES.get(m, m)} {results['cells'][0]['measures'][m]['n_samples']}" for m in results["measures"]
    )
    # Where no stories are learnt there is no such step.
    has_answers = ACCURACY in results["measures"]
    learnt = [
        [
            _name(one, results),
            *([", ".join("–" if v is None else f"{v:,.0f}" for v in one["learnt_at"])] if has_answers else []),
            *_lambda_cells(one),
        ]
        for one in results["cells"]
    ]
    said_of_steps = "The step at which half of the answers in training rows are right, seed by seed; lambda"
    heads_of_learnt = ["model", *(["step"] if has_answers else []), "lambda, first block", "last block"]
    return [
        f"Values of each seed; n of documents and prompts: {n_samples}.",
        "",
        *table(heads, rows),
        "",
        f"{said_of_steps if has_answers else 'Lambda'} after the last step, mean over seeds (of gates, over tokens and "
        "heads, with its standard deviation in a block).",
        "",
        *table([*heads_of_learnt, "smallest", "largest", "spread"], learnt),
        "",
        *_rivals_table(results),
        *([] if recipe["name"] != "builtin" else _not_made(results)),
        f"{recipe['steps']:,} steps of {recipe['batch_size']} rows of {recipe['length']:,} tokens ({tokens:,} tokens), "
        f"{recipe['precision']}, on {about['device']}, torch {about['versions']['torch']}.",
        "",
    ]


def _rivals_table(results: Results) -> list[str]:
    """Negative mass, redundancy and the branches' cosine along the runs; nothing where they were not read."""
    rivals = results["rivals"]
    if not rivals:
        return []
    n_prompts = results["cells"][0]["measures"][ACCURACY]["n_samples"]
    read = {(one["cell"], one["part"]): one for one in rivals}
    heads = ["step", *(f"{name.replace('_', ' ')}: {cell}, {part}" for name in RIVALS[:2] for cell, part in read)]
    cosines = read.get((REFERENCE, "net"))
    steps = next(iter(read.values()))["steps"]
    rows = [
        [
            f"{step:.0f}",
            *(f"{one[name][place]:.2f}" for name in RIVALS[:2] for one in read.values()),
            "" if cosines is None else f"{cosines['branch_cosine'][place]:+.2f}",
        ]
        for place, step in enumerate(steps)
    ]
    return [
        f"Along the runs, on the {min(RIVAL_PROMPTS, n_prompts)} shortest prompts, means over blocks, heads and seeds: "
        "negative mass (the share of a head's hidden attention below 0) and redundancy (its mean cosine with other "
        "heads'); of the plain model's scan and of the difference `net`, and of the branches; cosine of the branches' "
        f"outputs at the last token of all {n_prompts:,} prompts.",
        "",
        *table([*heads, f"branch cosine: {REFERENCE}"], rows),
        "",
    ]


def _row(one: Mapping[str, Any], results: Results) -> list[Any]:
    cells: list[Any] = [_name(one, results), f"{one['n_parameters'] / 1e6:.2f}M", len(one["seeds"])]
    for measure in results["measures"]:
        measured = one["measures"][measure]
        cells.append(", ".join("–" if value is None else f"{value:.3f}" for value in measured["values"]))
        cells += [_said(measured[key]) if key in measured else "" for key in ("difference", "over_samples")]
    return cells


def _lambda_cells(one: Mapping[str, Any]) -> list[str]:
    values = one["lambda"]
    if not values:
        return ["", "", "", "", ""]
    spread = max(one["lambda_sd"])
    return [f"{v:.2f}" for v in (values[0], values[-1], min(values), max(values))] + [f"{spread:.2f}" if spread else ""]


def _said(values: Sequence[float | None]) -> str:
    """An estimate with its sign; of one seed the value alone."""
    estimate = estimate_from(values)
    return (
        f"{estimate.value:+.3f}"
        if np.isnan(estimate.low) and np.isfinite(estimate.value)
        else estimate.text(signed=True)
    )


def _name(one: Mapping[str, Any], results: Results) -> str:
    several = len(results["provenance"]["recipe"]["n_layers"]) > 1
    return f"{one['cell']}, {one['n_layers']} blocks" if several else one["cell"]


def _measured(measure: str) -> str:
    return "accuracy at 0k" if measure == ACCURACY else f"bits per byte, {SOURCES.get(measure, measure)}"


def _not_made(results: Results) -> list[str]:
    """Which runs of the recipe are missing, and which broke down."""
    seeds: dict[tuple[str, int], list[str]] = {}
    for cell, n_layers, seed in results["missing"]:
        seeds.setdefault((cell, n_layers), []).append(str(seed))
    missing = [
        f"{cell} ({n} blocks, seed{'s' if len(of_cell) > 1 else ''} {', '.join(of_cell)})"
        for (cell, n), of_cell in seeds.items()
    ]
    broken = [f"{one['cell']} (seed {seed})" for one in results["cells"] for seed in one["diverged"]]
    lines = [f"Not made: {', '.join(missing)}.", ""] if missing else []
    return lines + ([f"The loss became no number: {', '.join(broken)}.", ""] if broken else [])


PAGE = Page(
    folder=Path(__file__).parent,
    summarise=summarise,
    figures=figures,
    finding=finding,
    section=section,
    titles=TITLES,
)


if __name__ == "__main__":
    PAGE.write()
