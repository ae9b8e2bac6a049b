"""How much of the last row of every head falls on the needle: the way to where in a model something is to be seen.

    needle_share[h] = sum_{s in needle} |H[h,t,s]| / sum_{s <= t} |H[h,t,s]|          t: the last position

A share within a head, of hidden attention: neither lambda nor what is made of the token enters, so a large share says
where to look and not that it matters. One row per head is made, so all heads of a model cost about a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.hook_names import BRANCHES, Branch
from diffmamba_interp.implicit_attention.activations import BranchActivations, run_block
from diffmamba_interp.implicit_attention.head_scores import HeadScores, head_scores
from diffmamba_interp.implicit_attention.selection import select_heads
from diffmamba_interp.implicit_attention.span_measures import span_masks
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.token_checks import Lengths, counted, prepared_tokens
from diffmamba_interp.spans import SPAN_CLASSES, Spans


@checked
@torch.no_grad()
def needle_share(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    spans: Spans | Sequence[Spans],
    *,
    lengths: Lengths | None = None,
) -> HeadScores:
    """Share of every head's last row that falls on the needle, measure "needle_share"; NaN for prompts without one.

    Args:
        spans: one for all samples, or one per sample. lengths: tokens per sample, if padded on the right.

    Uniform reading would give the needle's part of the prompt. Raises ValueError for tokens or spans that do not fit.
    """
    tokens, valid = prepared_tokens(tokens, model.cfg.d_vocab, lengths=lengths)
    in_use = counted(tokens, valid)
    masks = span_masks(spans, *tokens.shape).to(tokens.device)
    needle = masks[:, SPAN_CLASSES.index("needle")]
    visible = torch.arange(tokens.shape[1], device=tokens.device) < in_use[:, None]
    if bool((masks.any(dim=1) & ~visible).any()):
        raise ValueError("spans reach beyond the end of their sample: give the intervals of its own tokens.")
    absent = ~needle.any(dim=-1, keepdim=True)

    def share(branch: BranchActivations) -> Tensor:
        row = branch.scan.matrix(in_use[:, None] - 1, select_heads(None, branch.n_heads))[:, :, 0].abs()
        of_needle = (row * needle[:, None]).sum(dim=-1) / (row * visible[:, None]).sum(dim=-1)
        return of_needle.masked_fill(absent, torch.nan)

    rows: list[tuple[int, str | None]] = []
    measured: list[dict[str, np.ndarray]] = []
    resid = model(tokens, lengths=lengths, stop_at_block=0)
    for index in range(model.cfg.n_layers):
        resid, activations = run_block(model, resid, index, valid)
        names: tuple[Branch | None, ...] = BRANCHES if activations.kind == "differential" else (None,)
        for name, branch in zip(names, activations.branches, strict=True):
            rows.append((index, name))
            measured.append({"needle_share": share(branch).cpu().double().numpy()})
    uniform = (needle.sum(dim=-1).double() / in_use).masked_fill(absent[:, 0], torch.nan)
    return head_scores(rows, measured, {"needle_share": uniform.cpu().double().numpy()})
