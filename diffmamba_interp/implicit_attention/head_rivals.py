"""What else than the cancelling of noise differencing may do: negative weights, and heads that differ from one another.

After arXiv 2505.16333, which explains the differential Transformer by these. For every head h of a scan, its matrix H_h
(hidden attention, all rows and sources), and the cosine of two matrices as vectors:

    negative_mass[h]  = sum_{t,s} max(-H_h, 0) / sum_{t,s} |H_h|
    redundancy[h]     = mean over g != h of  <H_h, H_g> / (|H_h| |H_g|)
    branch_cosine     = mean over t of  <M1(u)[t], M2(u)[t]> / (|M1(u)[t]| |M2(u)[t]|)

for either branch of a differential block and for what is left of them by head, H1_h - lambda H2_h. Which head of one
branch stands beside which of the other is their numbering's doing alone, and a scan's weights are signed with no
subtraction: in a plain block, too, negative mass need not be 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.hook_names import BRANCHES
from diffmamba_interp.implicit_attention.activations import BlockActivations, run_block
from diffmamba_interp.implicit_attention.branch_parts import along_rows
from diffmamba_interp.implicit_attention.head_scores import HeadScores, head_scores
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES, require_memory, select_heads
from diffmamba_interp.implicit_attention.span_measures import branch_cosine
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.token_checks import Lengths, counted, prepared_tokens

DIFFERENCE = "difference"


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadRivals(HeadScores):
    """negative_mass and redundancy of each head; rows of a differential block: minuend, subtrahend, difference.

    redundancy is NaN for a single head. branch_cosine: of the branches' outputs; NaN in plain blocks.
    """

    branch_cosine: Float[np.ndarray, "sample block"]


@checked
@torch.no_grad()
def head_rivals(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    *,
    lengths: Lengths | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> HeadRivals:
    """The measures of every block in one forward pass and one block's matrices.

    Args:
        lengths: tokens per sample, if padded on the right. max_bytes: limit on the estimate of what a block takes.

    Raises:
        ValueError: tokens that do not fit. MemoryLimitError: too much at once.
    """
    tokens, valid = prepared_tokens(tokens, model.cfg.d_vocab, lengths=lengths)
    n_batch, n_pos = tokens.shape
    n_heads = max(model.cfg.mixer_sizes(model.cfg.block_kind(block)).n_heads for block in range(model.cfg.n_layers))
    require_memory(
        f"the matrices of {n_heads} heads of {n_batch} x {n_pos} positions",
        5 * n_batch * n_heads * n_pos * n_pos * 4,
        max_bytes,
        "Give fewer or shorter texts at once",
    )
    resid = model(tokens, lengths=None if valid is None else counted(tokens, valid), stop_at_block=0)
    rows: list[tuple[int, str | None]] = []
    measured, cosines = [], np.full((n_batch, model.cfg.n_layers), np.nan)
    for index in range(model.cfg.n_layers):
        resid, activations = run_block(model, resid, index, valid)
        for name, H in _matrices(activations).items():
            rows.append((index, name))
            measured.append({key: value.cpu().double().numpy() for key, value in matrix_measures(H).items()})
        if activations.kind == "differential":
            cosines[:, index] = _cosine(activations).cpu().double().numpy()
    scores = head_scores(rows, measured, {})
    return HeadRivals(**vars(scores), branch_cosine=cosines)


def matrix_measures(H: Float[Tensor, "batch head row src"]) -> dict[str, Float[Tensor, "batch head"]]:
    """negative_mass and redundancy of each head's matrix; NaN where a matrix is zero, or has no other beside it."""
    negative = (-H).clamp(min=0).sum(dim=(2, 3)) / H.abs().sum(dim=(2, 3))
    vectors = H.flatten(2)
    unit = vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    cosine = unit @ unit.mT
    n_heads = H.shape[1]
    others = ~torch.eye(n_heads, dtype=torch.bool, device=H.device)
    return {
        "negative_mass": negative,
        "redundancy": cosine.masked_fill(~others, 0.0).sum(dim=-1) / (n_heads - 1),
    }


def _matrices(activations: BlockActivations) -> dict[str | None, Float[Tensor, "batch head row src"]]:
    """H of each branch, and of what is left of them; rows behind a sample's last token are 0."""
    tokens = torch.arange(activations.n_pos, device=activations.lengths.device) < activations.lengths[:, None]
    parts = [
        branch.scan.matrix(None, select_heads(None, branch.n_heads)) * tokens[:, None, :, None]
        for branch in activations.branches
    ]
    lambda_ = activations.lambda_at(None)
    if lambda_ is None:
        return {None: parts[0]}
    return {**dict(zip(BRANCHES, parts, strict=True)), DIFFERENCE: parts[0] - along_rows(lambda_, 4, 2) * parts[1]}


def _cosine(activations: BlockActivations) -> Float[Tensor, " batch"]:
    first, second = (branch.out for branch in activations.branches)
    assert first is not None
    assert second is not None
    tokens = torch.arange(first.shape[1], device=first.device) < activations.lengths[:, None]
    return branch_cosine(first, second).masked_fill(~tokens, 0.0).sum(dim=1) / activations.lengths
