"""What the records of the heads analysis say, in results.json, figures and README.md: what the ablation of a score's
largest heads changes, what that of matched heads does, and the difference of the two, prompt by prompt.

    python analyses/heads/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.conditions import CLEAN, Key, Readings, changes, estimates
from diffmamba_interp.analysis.page import ALL, RECORDS, Page, Results, made_with, points, table, text
from diffmamba_interp.analysis.question import Parts
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.figures.heads import NAMES, head_scores_drawing
from diffmamba_interp.implicit_attention import DEFINITIONS, HeadScores

SETS = {"sink": "dt_ratio", "gather": "gather", "aggregate": "aggregate"}
"""What the heads are chosen for, and the score that chooses them."""

MEASURES = {"right": "accuracy", "snr_db": "SNR, dB", "log_prob": "loss, nats per token"}
DECIMALS = {"right": 3, "snr_db": 1, "log_prob": 3}
OF_PROMPTS, OF_TEXT = ("right", "snr_db"), ("log_prob",)
SCORES = ("dt_ratio", "sink_share", "gather", "aggregate")
RIVALS = ("negative_mass", "redundancy")
TEXT = "text"
DRAWN = ("aggregate",)
N_NAMED = 5


def of_heads(parts: Parts) -> dict[str, Any]:
    """What no record holds: scores of every head, which were chosen, and the rival explanations."""
    by_model = {unit[0]: part for unit, part in parts.items() if "scores" in part}
    return {
        "scores": {model: kept_scores(part["scores"]) for model, part in by_model.items()},
        "chosen": {model: kept_heads(part["scores"]) for model, part in by_model.items()},
        "rivals": {model: kept_rivals(part["rivals"]) for model, part in by_model.items()},
    }


def kept_scores(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """By measure, the mean of every head, and what uniform reading would give."""
    kept: dict[str, Any] = {"blocks": arrays["blocks"].tolist(), "parts": arrays["parts"].tolist()}
    for measure in SCORES:
        kept[measure] = np.round(arrays[measure], 3).tolist()
    kept["uniform"] = {m: float(arrays[f"uniform {m}"][0]) for m in SCORES if f"uniform {m}" in arrays}
    return kept


def kept_heads(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The chosen heads by kind: block, branch ("" in a plain block), head; the largest first."""
    blocks, parts = arrays["blocks"], arrays["parts"]
    return {
        kind: [[int(blocks[row]), str(parts[row]), int(head)] for row, head in arrays[f"chosen {kind}"].tolist()]
        for kind in SETS
    }


def kept_rivals(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """By measure and part: trained, mean over blocks with its interval over texts; untrained, each seed's; by block."""
    parts = arrays["parts"]
    kept: dict[str, Any] = {}
    for measure in RIVALS:
        kept[measure] = {
            part: _trained_and_not(arrays[measure][:, parts == part], arrays[f"initial {measure}"][:, parts == part])
            for part in dict.fromkeys(parts.tolist())
        }
    if np.isfinite(arrays["branch_cosine"]).any():
        cosines = arrays["branch_cosine"], arrays["initial branch_cosine"]
        kept["branch_cosine"] = {"branches": _trained_and_not(*cosines)}
    return kept


def _trained_and_not(trained: np.ndarray, untrained: np.ndarray) -> dict[str, Any]:
    """From [text, block] and [seed, block]."""
    (mean,) = estimates(trained.mean(axis=1, keepdims=True))
    return {"trained": mean, "by_block": estimates(trained), "untrained": untrained.mean(axis=1).tolist()}


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Of every model and length, and of its texts: each set of heads ablated, beside matched ones."""
    readings = Readings.read(folder / RECORDS)
    models = list(dict.fromkeys(readings.records["model"].tolist()))
    places = sorted(
        ((task, length) for task, length in readings.cells if task in (ALL, TEXT)),
        key=lambda place: (place[0] == TEXT, place[1]),
    )
    is_text = {length for task, length in places if task == TEXT}
    cells = [
        cell(readings, model, task, length)
        for model in models
        for task, length in places
        if task == TEXT or length not in is_text
    ]
    return {**{name: results[name] for name in ("scores", "chosen", "rivals")}, "cells": cells}


def cell(readings: Readings, model: str, task: str, length: int) -> dict[str, Any]:
    """All tasks together at one length, or the texts; a loss is minus a log-probability."""
    measures = OF_TEXT if task == TEXT else OF_PROMPTS
    sign = -1.0 if task == TEXT else 1.0

    def read(kind: str, dose: float = 0.0) -> np.ndarray:
        return sign * readings.of(Key(model, kind, ALL, dose), task, length, measures)

    clean = read(CLEAN)
    sets = {}
    for kind in SETS:
        draws = sorted(key.dose for key in readings.keys(length) if key.model == model and key.kind == kind)
        chosen, matched = read(kind), np.mean([read(kind, draw) for draw in draws if draw], axis=0)
        sets[kind] = {
            "n_matched": len(draws) - 1,
            **_named("chosen", measures, changes(clean, chosen)[0]),
            **_named("matched", measures, changes(clean, matched)[0]),
            **_named("excess", measures, changes(matched, chosen)[0]),
            **_named("p", measures, changes(matched, chosen)[1]),
        }
    return {
        "model": model,
        "task": task,
        "length": length,
        "n": len(clean),
        "clean": dict(zip(measures, estimates(clean), strict=True)),
        "sets": sets,
    }


def _named(name: str, measures: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return {name: dict(zip(measures, values, strict=True))}


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """What the chosen heads do beyond the matched ones; maps of two scores; negative mass by block."""
    drawings = {
        measure: curves_drawing(
            [excess_panel(results, length, measure) for length in lengths(results)],
            title=f"{title}: chosen heads ablated, less matched ones",
            x_axis="heads of the largest score",
            y_axis=f"change of {MEASURES[measure]}, chosen − matched",
        )
        for measure in OF_PROMPTS
    }
    for measure in DRAWN:
        for model, kept in results["scores"].items():
            drawings[f"{measure}_{model}"] = head_scores_drawing(
                scores_from(kept), measure, title=f"{title}, {model}: {NAMES[measure]}"
            )
    drawings["negative_mass"] = curves_drawing(
        [rival_panel(model, kept["negative_mass"]) for model, kept in results["rivals"].items()],
        title=f"{title}: {DEFINITIONS['negative_mass']}, mean over heads",
        x_axis="block",
        y_axis=NAMES["negative_mass"],
    )
    return drawings


def lengths(results: Results) -> list[int]:
    return sorted({cell["length"] for cell in results["cells"] if cell["task"] != TEXT})


def excess_panel(results: Results, length: int, measure: str) -> Curves:
    cells = [cell for cell in results["cells"] if cell["task"] == ALL and cell["length"] == length]
    return Curves(
        title=f"{length_name(length)}, n = {cells[0]['n']}",
        ticks=list(SETS),
        points={cell["model"]: points(cell["sets"][kind]["excess"][measure] for kind in SETS) for cell in cells},
    )


def rival_panel(model: str, by_part: Mapping[str, Any]) -> Curves:
    n_blocks = len(next(iter(by_part.values()))["by_block"])
    return Curves(
        title=model,
        ticks=[str(block) for block in range(n_blocks)],
        points={part or "weights": points(one["by_block"]) for part, one in by_part.items()},
    )


def scores_from(kept: Mapping[str, Any]) -> HeadScores:
    """The scores that results.json holds, as figures take them."""
    values = {measure: np.array(kept[measure], dtype=float)[None] for measure in SCORES}
    parts = [part or None for part in kept["parts"]]
    n_heads = tuple(int(np.isfinite(row).sum()) for row in values["gather"][0])
    return HeadScores(rows=tuple(zip(kept["blocks"], parts, strict=True)), n_heads=n_heads, values=values)


def finding(results: Results, title: str) -> list[str]:
    places = list(dict.fromkeys((cell["task"], cell["length"]) for cell in results["cells"]))
    columns = [(place, measure) for place in places for measure in (OF_TEXT if place[0] == TEXT else OF_PROMPTS)]
    by_place = {(cell["model"], cell["task"], cell["length"]): cell for cell in results["cells"]}
    rows = []
    for kind, score in SETS.items():
        for model in results["scores"]:
            cells = [(by_place[model, *place]["sets"][kind]["excess"][measure], measure) for place, measure in columns]
            rows.append([f"{kind} (largest {NAMES[score]})", model, *(marked(*one) for one in cells)])
    heads = [f"{where(task, length)}: {MEASURES[measure]}" for (task, length), measure in columns]
    n = ", ".join(f"{where(task, length)} {n_of(results, task, length)}" for task, length in places)
    n_intervals = len(rows) * len(columns)
    return [
        f"{title}, all tasks together (n: {n}). Bold where the interval leaves 0 out; of the {n_intervals} intervals "
        "about one in twenty would by luck.",
        "",
        *table(["ablated", "model", *heads], rows),
        "",
        *(overlap(model, chosen) for model, chosen in results["chosen"].items()),
        "",
        *rival_lines(results["rivals"]),
        "",
    ]


def overlap(model: str, chosen: Mapping[str, Any]) -> str:
    """How many of the sink's heads are chosen for the needle, too."""
    both = sum(head in chosen["aggregate"] for head in chosen["sink"])
    return f"- {model}: {both} of the {len(chosen['sink'])} heads of the sink are among those of aggregate."


def where(task: str, length: int) -> str:
    return "texts" if task == TEXT else length_name(length)


def n_of(results: Results, task: str, length: int) -> int:
    """The smallest number of prompts (texts) of the models."""
    return min(cell["n"] for cell in results["cells"] if (cell["task"], cell["length"]) == (task, length))


def marked(value: Sequence[float], measure: str) -> str:
    said = text(value, DECIMALS[measure], signed=True)
    return f"**{said}**" if leaves_zero_out(value) else said


def leaves_zero_out(value: Sequence[float]) -> bool:
    _, low, high = value
    return not low <= 0 <= high


def rival_lines(rivals: Mapping[str, Any]) -> list[str]:
    names = {**{measure: NAMES[measure] for measure in RIVALS}, "branch_cosine": "cosine of the branches' outputs"}
    rows = [
        [names[measure], model, part or "weights", text(one["trained"], signed=True), _range(one["untrained"])]
        for measure in names
        for model, kept in rivals.items()
        for part, one in kept.get(measure, {}).items()
    ]
    heads = ["measure", "model", "of", "trained, mean over heads and blocks", "untrained: mean (least to most)"]
    return table(heads, rows)


def _range(values: Sequence[float]) -> str:
    return f"{np.mean(values):+.3f} ({min(values):+.3f} to {max(values):+.3f}, {len(values)} seeds)"


def section(results: Results) -> list[str]:
    rows = []
    for cell in results["cells"]:
        of_what = where(cell["task"], cell["length"])
        for kind, of in cell["sets"].items():
            for measure in of["excess"]:
                decimals = DECIMALS[measure]
                values = [text(of[name][measure], decimals, signed=True) for name in ("chosen", "matched", "excess")]
                start = [kind, cell["model"], of_what, cell["n"], MEASURES[measure]]
                rows.append([*start, text(cell["clean"][measure], decimals), *values, f"{of['p'][measure]:.2g}"])
    heads = [
        "heads",
        "model",
        "of",
        "n",
        "measure",
        "as it is",
        "chosen ablated",
        "matched ablated",
        "chosen − matched",
    ]
    return [
        *table([*heads, "p"], rows),
        "",
        "The largest of each score; uniform is what reading all visible tokens alike would give:",
        "",
        *score_table(results["scores"]),
        "",
        made_with(results),
        "",
    ]


def score_table(scores: Mapping[str, Any]) -> list[str]:
    rows = []
    for measure in SCORES:
        for model, kept in scores.items():
            values = np.array(kept[measure], dtype=float)
            order = [place for place in np.argsort(-values, axis=None) if np.isfinite(values.flat[place])][:N_NAMED]
            heads = ", ".join(head_text(kept, int(place), values) for place in order)
            share = kept["uniform"].get(measure)
            rows.append(
                [NAMES[measure], model, heads, f"{np.nanmedian(values):.3f}", "" if share is None else f"{share:.3f}"]
            )
    return table(["score", "model", "block.head of the largest", "median head", "uniform"], rows)


def head_text(kept: Mapping[str, Any], place: int, values: np.ndarray) -> str:
    """`3.5 (minuend) 0.412`."""
    row, head = divmod(place, values.shape[1])
    part = f" ({kept['parts'][row]})" if kept["parts"][row] else ""
    return f"{kept['blocks'][row]}.{head}{part} {values[row, head]:.3f}"


PAGE = Page(
    folder=Path(__file__).parent,
    summarise=summarise,
    figures=figures,
    finding=finding,
    section=section,
)


if __name__ == "__main__":
    PAGE.write()
