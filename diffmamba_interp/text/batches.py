"""Batches of sequences of equal length, from a run of tokens or from chance, in an order that can be resumed.

Packing: the run (documents joined by end-of-text) is cut into sequences of `length` tokens; a sequence may
hold the end of one document and the start of the next. The `n_tokens % length` tokens that are left at the
end fill no sequence and are not used; their number is reported, never padded.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt16, UInt32
from torch import Tensor

from diffmamba_interp.text.documents import DataError

logger = logging.getLogger(__name__)


def pack_tokens(
    tokens: UInt16[np.ndarray, " token"] | UInt32[np.ndarray, " token"], length: int
) -> tuple[UInt16[np.ndarray, "sequence pos"] | UInt32[np.ndarray, "sequence pos"], int]:
    """The run cut into sequences (a view, nothing is copied), and how many tokens are left over.

    Raises DataError if there is not one whole sequence.
    """
    if length < 1:
        raise ValueError(f"length is {length}: it must be a positive number of tokens.")
    n_sequences, n_left = divmod(len(tokens), length)
    if n_sequences == 0:
        raise DataError(
            f"the text has {len(tokens)} tokens, too few for one sequence of {length}: give more text or a "
            "smaller length."
        )
    return tokens[: n_sequences * length].reshape(n_sequences, length), n_left


class _ResumableBatches(ABC):
    """What batches share: a process's rows of each batch, and a position that is of the same data and settings."""

    def __init__(self, *, batch_size: int, rank: int, world_size: int) -> None:
        if batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size {batch_size} cannot be shared by rank {rank} of {world_size}: it must be a "
                "positive multiple of world_size, and rank in [0, world_size)."
            )
        share = batch_size // world_size
        self.batch_size = batch_size
        self._rows = slice(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[Int64[Tensor, "batch pos"]]:
        return self

    @abstractmethod
    def __next__(self) -> Int64[Tensor, "batch pos"]: ...

    def state(self) -> dict[str, Any]:
        """Where the next batch comes from, as plain JSON values; the same on every rank."""
        return {**self._position(), **self._identity()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state()` was taken, on any number of ranks.

        Raises ValueError, naming the field, if the state is of other data or settings.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"the saved position has {name} {state.get(name)!r}, these batches have {value!r}: "
                    "resume with the same data and settings, or start anew."
                )
        self._go_to(state)

    @abstractmethod
    def _position(self) -> dict[str, int]: ...

    @abstractmethod
    def _identity(self) -> dict[str, Any]: ...

    @abstractmethod
    def _go_to(self, state: Mapping[str, Any]) -> None: ...


class TokenBatches(_ResumableBatches):
    """Batches [batch, pos] of int64 token ids on the CPU, in an order that `seed` decides.

    Each epoch goes once through all sequences in an order of its own; the last ones that fill no batch are
    left out of that epoch. `state()` and `restore()` continue at the same place, bit for bit.

    tokens: a run such as `TokenStream.tokens`.
    length: tokens per sequence. batch_size: sequences per batch, over all ranks together.
    rank, world_size: this process's share: rows [rank, rank + 1) * batch_size / world_size of each batch,
        so that the ranks' rows, joined in order, are the batch of a single process.
    n_epochs: stop after so many; `None` goes on without end.
    Raises DataError if the text does not fill one batch, ValueError if the ranks cannot share it evenly.
    """

    def __init__(
        self,
        tokens: UInt16[np.ndarray, " token"] | UInt32[np.ndarray, " token"],
        *,
        length: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        n_epochs: int | None = None,
        shuffle: bool = True,
    ) -> None:
        super().__init__(batch_size=batch_size, rank=rank, world_size=world_size)
        self.sequences, self.n_unused_tokens = pack_tokens(tokens, length)
        self.n_batches = len(self.sequences) // batch_size
        if self.n_batches == 0:
            raise DataError(
                f"the text fills {len(self.sequences)} sequences of {length} tokens, fewer than one batch of "
                f"{batch_size}: give more text, or a smaller batch_size or length."
            )
        self.seed, self.shuffle, self.n_epochs = seed, shuffle, n_epochs
        self._epoch, self._batch = 0, 0
        self._order = self._order_of(0)
        logger.info(
            "%d sequences of %d tokens, %d batches an epoch, %d tokens unused",
            *(len(self.sequences), length, self.n_batches, self.n_unused_tokens),
        )

    def __next__(self) -> Int64[Tensor, "batch pos"]:
        if self._batch == self.n_batches:
            self._epoch, self._batch = self._epoch + 1, 0
            self._order = self._order_of(self._epoch)
        if self.n_epochs is not None and self._epoch >= self.n_epochs:
            raise StopIteration
        start = self._batch * self.batch_size
        chosen = self._order[start : start + self.batch_size][self._rows]
        self._batch += 1
        return torch.from_numpy(self.sequences[chosen].astype(np.int64))

    def _position(self) -> dict[str, int]:
        return {"epoch": self._epoch, "batch": self._batch}

    def _go_to(self, state: Mapping[str, Any]) -> None:
        self._epoch, self._batch = int(state["epoch"]), int(state["batch"])
        self._order = self._order_of(self._epoch)

    def _identity(self) -> dict[str, Any]:
        n_sequences, length = self.sequences.shape
        return {
            "n_sequences": n_sequences,
            "length": length,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    def _order_of(self, epoch: int) -> Int64[np.ndarray, " sequence"]:
        if not self.shuffle:
            return np.arange(len(self.sequences))
        # RandomState, unlike numpy's newer generators, keeps its sequences in all versions.
        return np.random.RandomState([self.seed, epoch]).permutation(len(self.sequences))


class RandomTokenBatches(_ResumableBatches):
    """Batches [batch, pos] of uniform token ids, for models that have no tokenizer; otherwise as `TokenBatches`.

    A batch is a function of seed and index alone.
    """

    def __init__(
        self, d_vocab: int, *, length: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(batch_size=batch_size, rank=rank, world_size=world_size)
        self.d_vocab, self.length, self.seed = d_vocab, length, seed
        self._batch = 0

    def __next__(self) -> Int64[Tensor, "batch pos"]:
        tokens = random_tokens(self.d_vocab, (self.batch_size, self.length), seed=self.seed * 1_000_003 + self._batch)
        self._batch += 1
        return tokens[self._rows]

    def _position(self) -> dict[str, int]:
        return {"batch": self._batch}

    def _go_to(self, state: Mapping[str, Any]) -> None:
        self._batch = int(state["batch"])

    def _identity(self) -> dict[str, Any]:
        return {"d_vocab": self.d_vocab, "length": self.length, "batch_size": self.batch_size, "seed": self.seed}


def random_tokens(d_vocab: int, shape: tuple[int, ...], *, seed: int) -> Int64[Tensor, "*shape"]:
    """Uniform ids in [0, d_vocab), a function of the seed."""
    return torch.randint(d_vocab, shape, generator=torch.Generator().manual_seed(seed))
