"""Prompts that share a forward pass: of similar length, padded on the right, with equally many labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diffmamba_interp.needle.records import NeedleSample


def batches(
    samples: Sequence[NeedleSample],
    batch_tokens: int,
    *,
    max_samples: int | None = None,
    piece_tokens: int | None = None,
) -> Iterator[list[int]]:
    """Indices of prompts of similar length and equally many labels, longest first.

    batch_tokens: tokens per batch, padding included; one longer prompt makes a batch of its own.
    max_samples: prompts per batch at most, since the recurrent state grows with their number.
    piece_tokens: prompts that are read in pieces of so many tokens share a batch only if they have equally many
        pieces, so that each has a token in every piece.
    """

    def kind(i: int) -> tuple[int, int]:
        n_pieces = -(-samples[i].n_tokens // piece_tokens) if piece_tokens else 1
        return len(samples[i].labels), n_pieces

    order = sorted(range(len(samples)), key=lambda i: (len(samples[i].labels), -samples[i].n_tokens))
    batch: list[int] = []
    for i in order:
        if batch and (
            kind(batch[0]) != kind(i)
            or (len(batch) + 1) * samples[batch[0]].n_tokens > batch_tokens
            or len(batch) == max_samples
        ):
            yield batch
            batch = []
        batch.append(i)
    yield batch


def padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "row pos"]:
    """Rows of token ids, padded on the right with token 0."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def is_real(rows: Sequence[Sequence[int]], width: int) -> Bool[Tensor, "row pos"]:
    """Where the padded rows hold a token of their own."""
    return torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
