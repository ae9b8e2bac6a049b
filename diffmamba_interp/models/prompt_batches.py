"""Prompts that share a forward pass: of similar length, padded on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def batches(
    lengths: Sequence[int],
    batch_tokens: int,
    *,
    kinds: Sequence[Any] | None = None,
    max_samples: int | None = None,
) -> Iterator[list[int]]:
    """Indices of prompts of similar length, the longest first, so that too little memory shows at once.

    lengths: tokens of each prompt. batch_tokens: tokens per batch, padding included; one longer prompt makes a batch
    of its own. kinds: what the prompts of a batch have in common, kinds in ascending order. max_samples: prompts per
    batch at most, since the recurrent state grows with their number.
    """
    kinds = [0] * len(lengths) if kinds is None else kinds
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (kinds[i], -lengths[i])):
        if batch and (
            kinds[batch[0]] != kinds[i]
            or (len(batch) + 1) * lengths[batch[0]] > batch_tokens
            or len(batch) == max_samples
        ):
            yield batch
            batch = []
        batch.append(i)
    yield batch


def padded(rows: Sequence[Any]) -> Int[Tensor, "row pos"]:
    """Rows of token ids, each a list, an array or a tensor, padded on the right with token 0."""
    return pad_sequence([torch.as_tensor(row).long() for row in rows], batch_first=True)


def is_real(rows: Sequence[Sequence[int]], width: int) -> Bool[Tensor, "row pos"]:
    """Where the padded rows hold a token of their own."""
    return torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]


def unless_equal(lengths: Sequence[int], device: torch.device) -> Int[Tensor, " row"] | None:
    """The rows' lengths for a model; None if all are equal, which needs no mask and so runs the faster path."""
    return None if len(set(lengths)) == 1 else torch.tensor(lengths, device=device)
