"""What is asked of `extract_attention`: made from the widgets, run, and written as Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch

from app import loading
from app.loading import ModelKey
from app.prompts import Prompt
from diffmamba_interp import HookedMamba
from diffmamba_interp.implicit_attention.extract import extract_attention
from diffmamba_interp.implicit_attention.record import AttentionRecord, Kind

KINDS = {
    "hidden": "hidden attention (the scan's matrix)",
    "contribution": "contribution to a token's logit",
    "contribution_norm": "norm of the contribution",
}
REDUCTIONS = {"mean": "mean over heads", "abs_mean": "mean magnitude over heads", "max_abs": "largest magnitude"}
MAX_NORM_POSITIONS = 256
"""Longer prompts show the norms of so many last rows only."""

MAX_CELLS = 256
"""Rows and columns of a panel, which is about so many pixels wide; longer prompts are pooled."""

MAX_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class AttentionRequest:
    """heads: a reduction's name, or a head's number in digits, for kind "hidden". token: whose logit is the
    direction, for kind "contribution"."""

    block: int
    kind: Kind
    heads: str = "mean"
    token: int | None = None

    @property
    def head(self) -> int | None:
        """The only head of the record; None where several were reduced or summed."""
        return int(self.heads) if self.kind == "hidden" and self.heads.isdigit() else None

    def figure_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `AttentionRecord.figure`."""
        return {"max_cells": MAX_CELLS} | ({} if self.head is None else {"head": self.head})

    def arguments(self, n_pos: int) -> dict[str, Any]:
        """Keyword arguments of `extract_attention`."""
        found: dict[str, Any] = {"block": self.block, "kind": self.kind}
        if self.kind == "hidden":
            found |= {"reduce": self.heads} if self.head is None else {"heads": [self.head]}
        elif self.kind == "contribution":
            found["direction"] = self.token
        elif n_pos > MAX_NORM_POSITIONS:
            found["rows"] = list(range(n_pos - MAX_NORM_POSITIONS, n_pos))
        return found


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
