"""Batches as a function of (seed, step): the same rows in the same order for every model, process and restart.

Rows are numbered through the whole run: row r of step s is number s * batch_size + r. A repeating pattern of
1,000 rows, shuffled anew each time, says which part of the mixture a number belongs to, and how many of that
part's rows came before; so each part can give its own row k without having made the others.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffmamba_interp.text import DataError
from diffmamba_interp.text.token_stream import TokenArray

PATTERN_ROWS = 1000

RowMaker = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Row k of one part: tokens and roles, [length + 1] each."""


class Role(IntEnum):
    """What a token of a row is: it decides the token's weight in the loss and where its loss is counted.

    PAD: not trained on. TEXT: running text. CONTEXT: a retrieval sample's token. ANSWER: one of an answer.
    """

    PAD = 0
    TEXT = 1
    CONTEXT = 2
    ANSWER = 3


@dataclass(frozen=True)
class Batch:
    """tokens: [row, length + 1], uint16 or int32 (inputs and targets overlap by one). roles: the same shape, uint8."""

    tokens: Tensor
    roles: UInt8[Tensor, "row pos"]

    @property
    def inputs(self) -> Tensor:
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tensor:
        return self.tokens[:, 1:]

    @property
    def target_roles(self) -> UInt8[Tensor, "row pos"]:
        return self.roles[:, 1:]


class Mixture:
    """The batches of a run. `parts` are pairs of a weight and the function that makes the part's row k."""

    def __init__(self, parts: Sequence[tuple[float, RowMaker]], *, batch_size: int, seed: int, d_vocab: int) -> None:
        self.makers = [maker for _, maker in parts]
        self.counts = _share_out([weight for weight, _ in parts], PATTERN_ROWS)
        self.batch_size, self.seed = batch_size, seed
        self.dtype = np.uint16 if d_vocab <= 2**16 else np.int32
        self._pattern = (-1, np.zeros(0, dtype=np.int64))

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Rows rank, rank + world_size, ... of the step's batch."""
        rows = [self.row(step * self.batch_size + r) for r in range(rank, self.batch_size, world_size)]
        tokens = np.stack([tokens.astype(self.dtype) for tokens, _ in rows])
        return Batch(torch.from_numpy(tokens), torch.from_numpy(np.stack([roles for _, roles in rows])))

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and roles of one row of the run."""
        part, k = self._part_of(number)
        return self.makers[part](k)

    def _part_of(self, number: int) -> tuple[int, int]:
        period, place = divmod(number, PATTERN_ROWS)
        if period != self._pattern[0]:
            order = np.random.RandomState([self.seed, 1, period]).permutation(PATTERN_ROWS)
            self._pattern = (period, np.repeat(np.arange(len(self.counts)), self.counts)[order])
        pattern = self._pattern[1]
        part = int(pattern[place])
        return part, period * self.counts[part] + int((pattern[:place] == part).sum())


class Steps(Dataset):
    """The mixture as a dataset of steps `start` to `stop`, for a `DataLoader`."""

    def __init__(self, mixture: Mixture, start: int, stop: int, rank: int, world_size: int) -> None:
        self.mixture, self.start, self.stop, self.rank, self.world_size = (
            mixture,
            start,
            stop,
            rank,
            world_size,
        )

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        batch = self.mixture.batch(self.start + index, self.rank, self.world_size)
        return batch.tokens, batch.roles


def iterate_batches(
    mixture: Mixture, start: int, stop: int, *, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Iterator[Batch]:
    """The batches of steps `start` up to, not including, `stop`; made ahead by `workers` processes."""
    steps = Steps(mixture, start, stop, rank, world_size)
    loader = DataLoader(
        steps,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_main_process,
        # Forked processes share the mapped token streams; copies of them would be pickled otherwise.
        multiprocessing_context="fork" if workers else None,
    )
    for tokens, roles in loader:
        yield Batch(tokens, roles)


class TextCrops:
    """Rows [length + 1] of a token stream: row k of a seed, no row twice before all have been used.

    Epoch e cuts the stream into rows of `length` + 1 tokens that begin every `length` tokens from an offset of
    its own, and takes them in an order of its own. (A row's last token is the next row's first: as input it is
    new, as target it was the earlier row's.) Raises DataError if the stream does not fill one row.
    """

    def __init__(self, tokens: TokenArray, *, length: int, seed: int, part: int) -> None:
        self.tokens, self.length, self.key = tokens, length, (seed, part)
        self.n_crops = max((len(tokens) - 1) // length - 1, 0) or int(len(tokens) > length)
        if self.n_crops == 0:
            raise DataError(
                f"the text has {len(tokens)} tokens, too few for one row of {length} + 1: give more text, or a "
                "smaller data.length."
            )
        self._epoch = -1
        self._order = np.zeros(0, dtype=np.int64)
        self._offset = 0

    def crop(self, k: int) -> TokenArray:
        """Row number k of the seed."""
        epoch, position = divmod(k, self.n_crops)
        if epoch != self._epoch:
            # RandomState, unlike numpy's newer generators, keeps its sequences in all versions.
            rng = np.random.RandomState([*self.key, epoch])
            free = len(self.tokens) - 1 - self.n_crops * self.length
            self._offset = int(rng.randint(0, free + 1))
            self._order, self._epoch = rng.permutation(self.n_crops), epoch
        start = self._offset + int(self._order[position]) * self.length
        return self.tokens[start : start + self.length + 1]


def text_rows(crops: TextCrops) -> RowMaker:
    """Rows of running text."""

    def row(k: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = crops.crop(k)
        return tokens, np.full(len(tokens), Role.TEXT, dtype=np.uint8)

    return row


def _leave_signals_to_the_main_process(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal, and the main one still needs batches until its snapshot.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _share_out(weights: Sequence[float], n: int) -> list[int]:
    """`n` in whole numbers by weight: rounded down, the rest to the greatest remainders, none left without."""
    exact = [weight / sum(weights) * n for weight in weights]
    counts = [max(int(share), 1) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: counts[i] - exact[i])
    for i in range(n - sum(counts)):
        counts[by_remainder[i % len(counts)]] += 1
    while sum(counts) > n:
        counts[counts.index(max(counts))] -= 1
    return counts
