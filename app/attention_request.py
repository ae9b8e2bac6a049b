"""What is asked of `extract_attention`: made from the widgets, run, and written as Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from app import loading
from app.loading import ModelKey
from app.prompts import Prompt
from diffmamba_interp import HookedMamba
from diffmamba_interp.implicit_attention.extract import extract_attention
from diffmamba_interp.implicit_attention.record import AttentionRecord, Kind
from diffmamba_interp.implicit_attention.spans import Spans

KINDS = {
    "hidden": "hidden attention",
    "contribution": "contribution to a logit",
    "contribution_norm": "contribution norm",
}
REDUCTIONS = {"mean": "mean over heads", "abs_mean": "mean magnitude over heads", "max_abs": "largest magnitude"}
MAX_NORM_POSITIONS = 256
"""Longer prompts show the norms of so many last rows only."""

MAX_CELLS = 192
"""Rows and columns of a panel, which is about so many pixels wide; longer prompts are pooled."""

MAX_BYTES = 2**29

VIEWS = {"positions": "by position", "spans": "collapsed by span", "heads": "every head"}


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
        one = self.kind == "hidden" and self.heads.isdigit() and self.view != "heads"
        return int(self.heads) if one else None

    def pooled(self) -> int:
        """Rows and columns that one cell of the picture stands for."""
        return -(-(self.window[1] - self.window[0] + 1) // MAX_CELLS)

    def figure_arguments(self, prompt: Prompt) -> dict[str, Any]:
        """Keyword arguments of `AttentionRecord.figure`."""
        found: dict[str, Any] = {"max_cells": -(-len(prompt.tokens) // self.pooled())}
        if self.head is not None:
            found["head"] = self.head
        return found if prompt.spans == Spans() else found | {"spans": framed(prompt.spans)}

    def arguments(self, n_pos: int) -> dict[str, Any]:
        """Keyword arguments of `extract_attention`."""
        found: dict[str, Any] = {"block": self.block, "kind": self.kind}
        if self.kind == "hidden" and self.view != "heads":
            found |= {"reduce": self.heads} if self.head is None else {"heads": [self.head]}
        elif self.kind == "contribution":
            found["direction"] = self.token
            if self.view == "heads":
                found["per_head"] = True
        first, last = self.window
        if self.kind == "contribution_norm":
            first = max(first, last + 1 - MAX_NORM_POSITIONS)
        if (first, last) != (0, n_pos - 1):
            found["rows"] = list(range(first, last + 1))
        return found


def framed(spans: Spans) -> Spans:
    """The spans that are framed in a picture: not the filler, which is nearly all of it."""
    return replace(spans, filler=())


def attention_record(key: ModelKey, prompt: Prompt, request: AttentionRequest) -> AttentionRecord:
    """The record, from the cache if it was made before."""

    def make(model: HookedMamba) -> AttentionRecord:
        tokens = torch.tensor([prompt.tokens], device=key.device)
        arguments = request.arguments(len(prompt.tokens))
        record = extract_attention(model, tokens, token_strings=prompt.strings, max_bytes=MAX_BYTES, **arguments)
        return cast(AttentionRecord, record)

    return loading.result(key, ("attention", prompt, request), make, _record_bytes)


def _record_bytes(record: AttentionRecord) -> int:
    return sum(array.nbytes for array in record.to_numpy().values())
