"""What is asked of `extract_attention`: made from the widgets, as steps, and files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import plotly.graph_objects as go
import torch

from app.pages_.attention.streams import keep_stream, kept_stream, noted, stream_bytes
from app.shell import loading
from app.shell.carriers import named, needle_reading
from app.shell.downloads import Download, csv_file, html_file, npz_file, record_bytes
from app.shell.estimates import block_seconds, forward_seconds, norm_seconds
from app.shell.folders import ModelKey
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt
from app.shell.steps import Ref, Step, as_python, run_steps
from diffmamba_interp.figures.attention import attention_figure, attention_heads_figure, attention_span_figure
from diffmamba_interp.figures.attention_panels import attention_csv, pooling_step
from diffmamba_interp.figures.heads import RankedHead, head_ranking_figure, ranked_heads
from diffmamba_interp.implicit_attention import HeadScores
from diffmamba_interp.implicit_attention.extract import extract_attention
from diffmamba_interp.implicit_attention.pictures import collapse_by_span
from diffmamba_interp.implicit_attention.record import AttentionRecord, Kind
from diffmamba_interp.spans import Spans

KINDS = {
    "hidden": "hidden attention",
    "contribution": "contribution to a logit",
    "contribution_norm": "contribution norm",
}
REDUCTIONS = {"mean": "mean over heads", "abs_mean": "mean magnitude over heads", "max_abs": "largest magnitude"}
MAX_NORM_POSITIONS = 256
"""Longer prompts show the norms of so many last rows only."""

MAX_CELLS = 128
"""Rows and columns of a panel, which is 230 pixels wide on a small screen; longer prompts are pooled.

More cells show little more, and a browser takes longer to draw them."""

MAX_BYTES = 2**29
MAX_RUN_BYTES, MAX_RUN_S = 2**27, 1.0
"""Of a whole run whose stream is kept for the next picture of the same prompt."""

VIEWS = {"positions": "by position", "spans": "collapsed by span", "heads": "every head"}
FIGURES: dict[str, Callable[..., Any]] = {
    "positions": attention_figure,
    "spans": attention_span_figure,
    "heads": attention_heads_figure,
}


@dataclass(frozen=True, kw_only=True)
class AttentionRequest:
    """heads: a reduction's name, or a head's number in digits, for kind "hidden". token: whose logit is the
    direction, for kind "contribution". view: of `VIEWS`. window: first and last position shown."""

    block: int
    kind: Kind
    window: tuple[int, int]
    heads: str = "mean"
    token: int | None = None
    view: str = "positions"

    @property
    def head(self) -> int | None:
        """The only head of the record; None where several were reduced or summed."""
        is_single = self.kind == "hidden" and self.heads.isdigit() and self.view != "heads"
        return int(self.heads) if is_single else None

    @property
    def pooled(self) -> int:
        """Rows and columns that one cell of the picture by position stands for."""
        return pooling_step(self.window[1] - self.window[0] + 1, MAX_CELLS)

    def figure_arguments(self, prompt: Prompt) -> dict[str, Any]:
        """Keyword arguments of the view's figure."""
        given: dict[str, Any] = {}
        if self.window != (0, len(prompt.tokens) - 1):
            given["window"] = (self.window[0], self.window[1] + 1)
        if self.view == "heads":
            return given
        if self.head is not None:
            given["head"] = self.head
        if self.view == "spans":
            return {"spans": prompt.spans, **given, "apart": [self.window[1]]}
        given["max_cells"] = MAX_CELLS
        return given if prompt.spans == Spans() else given | {"spans": framed(prompt.spans)}

    def arguments(self, n_pos: int) -> dict[str, Any]:
        """Keyword arguments of `extract_attention`."""
        given: dict[str, Any] = {"block": self.block, "kind": self.kind}
        if self.kind == "hidden" and self.view != "heads":
            given |= {"reduce": self.heads} if self.head is None else {"heads": [self.head]}
        elif self.kind == "contribution":
            given["direction"] = self.token
            if self.view == "heads":
                given["per_head"] = True
        first, last = self.window
        if self.kind == "contribution_norm":
            first = max(first, last + 1 - MAX_NORM_POSITIONS)
        if (first, last) != (0, n_pos - 1):
            given["rows"] = list(range(first, last + 1))
        return given

    def passes(self, key: ModelKey, n_pos: int) -> float:
        """So many forward passes take as long as the record."""
        if self.kind != "contribution_norm":
            return 1.0
        n_rows = len(self.arguments(n_pos).get("rows", range(n_pos)))
        return 1.0 + n_rows * norm_seconds(key, self.block) / block_seconds(key)


def framed(spans: Spans) -> Spans:
    """The spans that are framed in a picture: not the filler, which is nearly all of it."""
    return replace(spans, filler=())


def record_steps(
    key: ModelKey, prompt: Prompt, request: AttentionRequest, prefix: str = "", *, own_model: bool = False
) -> list[Step]:
    """prefix: of the results' names. own_model: whether the model's name has it, too."""
    arguments = request.arguments(len(prompt.tokens))
    given = {**arguments, "token_strings": list(prompt.strings), "max_bytes": MAX_BYTES}
    model, tokens = Ref(f"{prefix if own_model else ''}model"), f"{prefix}tokens"
    return [
        Step(tokens, torch.tensor, [list(prompt.tokens)], device=key.device),
        Step(f"{prefix}record", extract_attention, model, Ref(tokens), **given),
    ]


def figure_steps(prompt: Prompt, request: AttentionRequest, prefix: str = "") -> list[Step]:
    """The figure; by span, the numbers of each cell too."""
    given, record = request.figure_arguments(prompt), Ref(f"{prefix}record")
    cells = [Step(f"{prefix}collapsed", collapse_by_span, record, **given)] if request.view == "spans" else []
    return [*cells, Step(f"{prefix}figure", FIGURES[request.view], record, **given)]


def strip_steps(shown: tuple[int, int] | None) -> list[Step]:
    """The heads of all blocks in their order. shown: block and head that the page shows."""
    given = {} if shown is None else {"shown": shown}
    return [Step("strip", head_ranking_figure, Ref("needle_reading"), "needle_share", **given)]


def attention_record(key: ModelKey, prompt: Prompt, request: AttentionRequest) -> AttentionRecord:
    """The record, from the cache if it was made before."""
    cache = kept_stream(key, prompt) if is_short(key, prompt) else None
    steps, saving = record_steps(key, prompt, request), {"record": {"cache": cache}}
    return loading.result(
        key, as_python(steps), lambda model: run_steps(steps, {"model": model}, saving)["record"], _record_bytes
    )


def is_short(key: ModelKey, prompt: Prompt) -> bool:
    """Whether all blocks take so little time and room that the stream is kept for the next picture."""
    return stream_bytes(key, prompt) <= MAX_RUN_BYTES and forward_seconds(key, len(prompt.tokens)) <= MAX_RUN_S


def _record_bytes(record: AttentionRecord) -> int:
    return sum(array.nbytes for array in record.to_numpy().values())


def attention_files(record: AttentionRecord, figure: go.Figure, prefix: str = "") -> list[Download]:
    return [
        html_file(figure, f"{prefix}html"),
        csv_file(lambda: attention_csv(record), f"{prefix}csv"),
        npz_file(lambda: record_bytes(record), f"{prefix}npz"),
    ]


MEASURE = "needle_share"


@dataclass(frozen=True, kw_only=True)
class WayIn:
    """The heads of all blocks, the largest needle share first, and the scores; n: how many heads there are."""

    scores: HeadScores
    ranked: list[RankedHead]

    @property
    def first(self) -> RankedHead:
        return self.ranked[0]

    def best_head(self, block: int) -> str | None:
        """The head of a block with the largest share on the needle, in digits."""
        return next((str(head.head) for head in self.ranked if head.block == block), None)

    def in_words(self, block: int, head: str) -> str:
        """Why the page opens where it does, and what the head that is shown reads."""
        first, uniform = self.first, float(self.scores.uniform[MEASURE][0])
        said = (
            f"The head with the largest share on the needle is {named(first)}: {first.value:.0%} of the magnitudes "
            f"that it reads at the last position lie there, the most of {len(self.ranked)} heads (reading all tokens "
            f"alike: {uniform:.0%})."
        )
        if (block, head) == (first.block, str(first.head)):
            return f"{said} It is shown."
        here = [other for other in self.ranked if (other.block, str(other.head)) == (block, head)]
        shares = ", ".join(f"{other.branch or 'its scan'} {other.value:.0%}" for other in here)
        best = ", of this block's the one with the largest share" if head == self.best_head(block) else ""
        return f"{said} Shown: block {block}, head {head}{best} ({shares})." if here else said


def find_way_in(chosen: ChosenModel, prompt: Prompt) -> WayIn | None:
    """None for a prompt in which no needle is marked. The stream is kept, for all blocks are run: one is shown next."""
    if not prompt.spans.needle:
        return None
    passing: dict[str, torch.Tensor] = {}
    around = partial(noted, passing=passing) if is_short(chosen.key, prompt) else None
    scores = needle_reading(chosen.key, prompt, around)
    keep_stream(chosen.key, prompt, passing)
    return WayIn(scores=scores, ranked=ranked_heads(scores, MEASURE, sum(scores.n_heads)))
