"""What is asked of every head: made from the widgets, as steps, and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.shell import loading
from app.shell.downloads import Download, csv_file, html_file, npz_file
from app.shell.folders import ModelKey
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt
from app.shell.steps import Ref, Step, as_python, run_steps, tokens_step
from diffmamba_interp.figures.heads import (
    NAMES,
    PLAIN,
    RankedHead,
    head_scores_csv,
    head_scores_figure,
    ranked_heads,
)
from diffmamba_interp.files.archives import arrays_to_bytes
from diffmamba_interp.implicit_attention import (
    HeadScores,
    gather_and_aggregate,
    head_rivals,
    needle_share,
    state_sink,
)
from diffmamba_interp.text import boundary_tokens

MAKERS: Mapping[str, Any] = {
    "sink_share": state_sink,
    "dt_ratio": state_sink,
    "gather": gather_and_aggregate,
    "aggregate": gather_and_aggregate,
    "needle_share": needle_share,
    "negative_mass": head_rivals,
    "redundancy": head_rivals,
    "output_norm": gather_and_aggregate,
}
"""What makes a measure, in the order in which they are offered."""

MATRIX_PASSES = 8.0
"""Per thousand tokens of a prompt: so many forward passes take as long as the matrices of all heads."""

MAX_BYTES = 2**30
N_RANKED = 12


@dataclass(frozen=True, kw_only=True)
class HeadsRequest:
    """measure: of `MAKERS`. boundary: the boundary tokens that the prompt has, for those of the state sink."""

    measure: str
    boundary: tuple[int, ...] = ()

    @property
    def takes_matrices(self) -> bool:
        return MAKERS[self.measure] not in (gather_and_aggregate, needle_share)

    def passes(self, n_pos: int) -> float:
        """So many forward passes take as long as the scores."""
        return 1.0 + (MATRIX_PASSES * n_pos / 1000 if self.takes_matrices else 1.0)

    def missing(self, prompt: Prompt) -> str | None:
        """What the prompt lacks for this measure, and what to do; None if nothing."""
        maker = MAKERS[self.measure]
        if maker is state_sink and not self.boundary:
            return "The prompt has no token that is a full stop or a line break, so no state sink: add one."
        if self.measure == "gather" and not (prompt.spans.needle or prompt.spans.distractors):
            return "No facts are marked in the prompt: mark needle or distractors in the side bar, or take a sample."
        if self.measure in ("aggregate", "needle_share") and not prompt.spans.needle:
            return "No needle is marked in the prompt: mark it in the side bar, or take a sample."
        return None


def boundary_of(chosen: ChosenModel, prompt: Prompt) -> tuple[int, ...]:
    """The prompt's boundary tokens, by their texts; none where the model has no tokenizer."""
    tokenizer = chosen.tokenizer
    if tokenizer is None:
        return ()
    every = loading.cache().get(("boundary", chosen.key), lambda: boundary_tokens(tokenizer), lambda _: 1000)
    return tuple(sorted(set(prompt.tokens) & set(every)))


def score_steps(key: ModelKey, prompt: Prompt, request: HeadsRequest) -> list[Step]:
    maker = MAKERS[request.measure]
    given: dict[str, Any] = {"max_bytes": MAX_BYTES} if request.takes_matrices else {"spans": prompt.spans}
    if maker is state_sink:
        given = {"boundary": list(request.boundary), **given}
    return [tokens_step(key, prompt), Step("scores", maker, Ref("model"), Ref("tokens"), **given)]


def figure_steps(request: HeadsRequest) -> list[Step]:
    """The map of all heads, and the heads of the largest numbers."""
    return [
        Step("figure", head_scores_figure, Ref("scores"), request.measure),
        Step("largest", ranked_heads, Ref("scores"), request.measure, N_RANKED),
    ]


def head_scores(key: ModelKey, prompt: Prompt, request: HeadsRequest) -> HeadScores:
    """The scores, from the cache if they were made before."""
    steps = score_steps(key, prompt, request)
    return loading.result(
        key, as_python(steps), lambda model: run_steps(steps, {"model": model})["scores"], lambda scores: scores.nbytes
    )


def ranked_row(head: RankedHead, measure: str) -> dict[str, int | str | float]:
    return {
        "block": head.block,
        "branch": head.branch or PLAIN.removesuffix(" blocks"),
        "head": head.head,
        NAMES[measure]: head.value,
    }


def head_files(scores: HeadScores, figure: go.Figure) -> list[Download]:
    return [
        html_file(figure),
        csv_file(lambda: head_scores_csv(scores)),
        npz_file(lambda: heads_npz(scores)),
    ]


def heads_npz(scores: HeadScores) -> bytes:
    """Every measure as [row, head], with block and branch of each row."""
    arrays = {measure: scores.mean(measure) for measure in scores.values}
    arrays["block"] = np.array([block for block, _ in scores.rows])
    arrays["branch"] = np.array([branch or "" for _, branch in scores.rows])
    return arrays_to_bytes(arrays)
