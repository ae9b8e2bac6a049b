"""Which head of which branch carries the needle in the bundled pair, and does the subtrahend carry any of it?

    python analyses/circuit/run.py --recipe builtin      generated stories, on a CPU
    python analyses/circuit/run.py --recipe paper        held-out bAbI stories, from --data

Values of a prompt are put into the run of the same prompt with two labels exchanged in its facts, block by block,
branch by branch, head by head, and the other way round; beside it what one backward pass estimates, and what each head
contributes to the answer. Writes records.parquet, results.json and figures into a folder named after the recipe, then
README.md.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from analyses.circuit import report
from analyses.circuit.report import CARRIERS, EVERYWHERE, PLACES
from diffmamba_interp.analysis.prompts import TaskRecipe, keep_lines, prompt_question, prompts_of
from diffmamba_interp.analysis.question import Asked, Parts
from diffmamba_interp.implicit_attention import contribution_along
from diffmamba_interp.implicit_attention.activations import run_block
from diffmamba_interp.interventions import PatchGrid, attribution_patching, patch_grid
from diffmamba_interp.models.demo import DemoName, load_demo_tokenizer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import final_scale, logit_direction
from diffmamba_interp.needle import SwappedNeedle, swapped_needles

ROWS = {"cpu": 32, "cuda": 512}


class Line(NamedTuple):
    """One number of one pair. exact, estimate: logits; NaN where only one of them was made."""

    kind: str
    where: str
    exact: float
    estimate: float = float("nan")


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, dict[str, Any]]:
    """The lines of one model and cell, and how long the sweep and the backward pass took."""
    model = asked.load(name).requires_grad_(False)
    pairs = swapped_needles(load_demo_tokenizer(), prompts_of(asked, task, length), seed=asked.recipe.seed)
    columns: dict[str, list[Any]] = defaultdict(list)
    times: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        if pair.clean.answer_tokens[0] == pair.corrupted.answer_tokens[0]:
            continue
        reading = Reading(model, pair, asked.by_device(ROWS))
        lines = reading.lines(name)
        for line in lines:
            for key, value in line._asdict().items():
                columns[key].append(value)
        for key, seconds in reading.times.items():
            times[key].append(seconds)
        same = {"model": name, "task": task, "length": length, "story": pair.clean.story_key}
        for key, value in (same | {"clean": reading.clean, "corrupted": reading.corrupted}).items():
            columns[key] += [value] * len(lines)
    return {"records": columns, "times": times}


class Reading:
    """What patching a pair of prompts does to the answer's logit, less the other label's.

    clean, corrupted: that difference of the unpatched runs. times: seconds of the sweep over branches (or blocks) and
    of the backward pass that estimates the same cells.
    """

    def __init__(self, model: HookedMamba, pair: SwappedNeedle, rows: int) -> None:
        device = model.embed.weight.device
        self.model, self.pair, self.rows = model, pair, rows
        self.prompts = [
            torch.tensor(sample.tokens, dtype=torch.long, device=device)[None]
            for sample in (pair.clean, pair.corrupted)
        ]
        self.asked = {
            "answers": [pair.clean.answer_tokens[0]],
            "against": [pair.corrupted.answer_tokens[0]],
        }
        self.times: dict[str, float] = {}
        self.clean = self.corrupted = float("nan")

    def lines(self, name: DemoName) -> list[Line]:
        """Everything that the page speaks of."""
        columns, whole = columns_of(self.pair), {EVERYWHERE: tuple(range(self.pair.clean.n_tokens))}
        parts, points = "block" if name == "mamba2" else "branch", {"block": "mixer_out", "branch": "branch_out"}
        lines = self.patched(parts, columns, point=points[parts], estimated=True)
        for kind in dict.fromkeys(("block", parts)):
            given = {"point": points[kind], "blocks": CARRIERS[name]}
            lines += self.patched(f"{kind} whole", whole, **given)
            lines += self.patched(f"{kind} lost", whole, **given, reverse=True)
        lines += self.patched("head", whole, point="gated", blocks=CARRIERS[name][1], estimated=True)
        return [*lines, *self.contributions(CARRIERS[name][1])]

    def patched(
        self,
        kind: str,
        columns: Mapping[str, Sequence[int]],
        *,
        reverse: bool = False,
        estimated: bool = False,
        **which: Any,
    ) -> list[Line]:
        """A line for each cell: the change towards the prompt that the values come from, and its estimate.

        reverse: the corrupted prompt's values go into the clean one's run, and the change is what is lost by it.
        estimated: by one backward pass, too; of blocks and branches the time of both is kept.
        """
        given = {**self.asked, **which, "positions": [tuple(column) for column in columns.values()]}
        prompts = self.prompts[::-1] if reverse else self.prompts
        start = time.perf_counter()
        exact = patch_grid(self.model, *prompts, **given, rows=self.rows)
        middle = time.perf_counter()
        estimate = attribution_patching(self.model, *prompts, **given) if estimated else None
        if estimated and kind in ("block", "branch"):
            self.times = {"sweep_s": middle - start, "backward_s": time.perf_counter() - middle}
            self.clean, self.corrupted = float(exact.clean[0]), float(exact.corrupted[0])
        sign = -1 if reverse else 1
        return [
            Line(
                kind,
                where,
                sign * exact.change[0, row, at],
                float("nan") if estimate is None else sign * estimate.change[0, row, at],
            )
            for row, at, where in cells_of(exact, columns)
        ]

    @torch.no_grad()
    def contributions(self, head_block: int) -> list[Line]:
        """What the last position reads from the label's tokens of the needle, straight to the logits: in logits.

        A subtrahend's contribution holds its factor -lambda.
        """
        tokens, label = self.prompts[0], list(self.pair.places["needle label"])
        device = tokens.device
        answer, other = (torch.tensor(self.asked[key], device=device) for key in ("answers", "against"))
        direction, at = logit_direction(self.model, answer, other), [-1]
        resid = self.model(tokens, stop_at_block=0)
        read: dict[str, np.ndarray] = {}
        for block in range(self.model.cfg.n_layers):
            resid, activations = run_block(self.model, resid, block, None)
            made = contribution_along(activations, direction, at, sources="input", per_head=True)
            if made.is_differential:
                of_branch = {f"{block} minuend": made.minuend, f"{block} subtrahend": -made.lambda_ * made.subtrahend}
            else:
                of_branch = {f"{block}": made.weights}
            read |= {name: part[0, :, 0, label].sum(dim=-1).double().cpu().numpy() for name, part in of_branch.items()}
        scale = float(final_scale(self.model, resid)[0, -1, 0])
        lines = [Line("contribution", name, float(by_head.sum()) / scale) for name, by_head in read.items()]
        return lines + [
            Line("head contribution", f"{name}, head {head}", float(value) / scale)
            for name, by_head in read.items()
            if int(name.split()[0]) == head_block
            for head, value in enumerate(by_head)
        ]


def columns_of(pair: SwappedNeedle) -> dict[str, tuple[int, ...]]:
    """Positions by `PLACES`, which together are all of the prompt."""
    places = pair.places
    facts = (*places["rest of the needle"], *places["other facts"])
    outside = (*places["filler"], *places["question"], *places["end"])
    return dict(zip(PLACES, (places["needle label"], facts, outside), strict=True))


def cells_of(grid: PatchGrid, columns: Mapping[str, Sequence[int]]) -> list[tuple[int, int, str]]:
    """Row, column and name of every cell."""
    return [
        (row, at, f"{name} | {place}") for row, name in enumerate(grid.row_names) for at, place in enumerate(columns)
    ]


def medians_of_times(parts: Parts) -> dict[str, Any]:
    """Seconds a pair, by model: the middle one over all pairs."""
    models = dict.fromkeys(unit[0] for unit in parts)
    return {
        "seconds": {
            model: {
                key: float(
                    np.median(np.concatenate([part["times"][key] for unit, part in parts.items() if unit[0] == model]))
                )
                for key in ("sweep_s", "backward_s")
            }
            for model in models
        }
    }


QUESTION = prompt_question(
    recipe=TaskRecipe,
    measure=measure,
    aside=medians_of_times,
    keep=partial(keep_lines, order=("model", "kind", "where", "task", "length", "story"), decimals=(3, 2)),
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
