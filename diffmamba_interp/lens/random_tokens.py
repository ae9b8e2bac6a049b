"""Tokens drawn uniformly from a vocabulary: no text, for models that have no tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor


class RandomTokenBatches:
    """Batches [batch, pos] of uniform token ids, in the interface of `data.TokenBatches`.

    A batch is a function of seed and index alone. rank, world_size: this process's share of each batch's rows.
    """

    def __init__(
        self, d_vocab: int, *, length: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(f"batch_size {batch_size} cannot be shared by rank {rank} of {world_size}.")
        self.d_vocab, self.length, self.batch_size, self.seed = d_vocab, length, batch_size, seed
        share = batch_size // world_size
        self._rows = slice(rank * share, (rank + 1) * share)
        self._batch = 0

    def __iter__(self) -> Iterator[Int64[Tensor, "batch pos"]]:
        return self

    def __next__(self) -> Int64[Tensor, "batch pos"]:
        tokens = random_tokens(self.d_vocab, (self.batch_size, self.length), seed=self.seed * 1_000_003 + self._batch)
        self._batch += 1
        return tokens[self._rows]

    def state(self) -> dict[str, Any]:
        """Where the next batch comes from, as plain JSON values; the same on every rank."""
        return {"batch": self._batch, **self._identity()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state()` was taken. Raises ValueError if the state is of other settings."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(f"the saved position has {name} {state.get(name)!r}, these batches {value!r}.")
        self._batch = int(state["batch"])

    def _identity(self) -> dict[str, Any]:
        return {
            "d_vocab": self.d_vocab,
            "length": self.length,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }


def random_tokens(d_vocab: int, shape: tuple[int, ...], *, seed: int) -> Int64[Tensor, "*shape"]:
    """Uniform ids in [0, d_vocab), a function of the seed."""
    return torch.randint(d_vocab, shape, generator=torch.Generator().manual_seed(seed))
