"""Fetching a step ahead changes neither the order of the data nor the position that a snapshot keeps."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from diffmamba_interp.lens.training import BatchesAhead

CPU = torch.device("cpu")


class Counting:
    """Batches 0, 1, 2, ... that end after `n`."""

    def __init__(self, n: int = 5) -> None:
        self.n, self.next = n, 0

    def __next__(self) -> torch.Tensor:
        if self.next == self.n:
            raise StopIteration
        self.next += 1
        return torch.tensor([[self.next - 1]])

    def state(self) -> dict[str, Any]:
        return {"next": self.next}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.next = state["next"]


def take(ahead: BatchesAhead) -> int:
    return int(ahead.take())


def test_the_order_is_that_of_the_batches_whenever_they_are_fetched() -> None:
    ahead, seen = BatchesAhead(Counting(), CPU), []
    for fetches in (0, 1, 2, 1, 0):
        for _ in range(fetches):
            ahead.fetch()
        seen.append(take(ahead))
    assert seen == [0, 1, 2, 3, 4]


def test_what_is_fetched_ahead_does_not_move_the_position() -> None:
    ahead = BatchesAhead(Counting(), CPU)
    ahead.fetch()
    assert ahead.position() == {"next": 0}
    take(ahead)
    ahead.fetch()
    assert ahead.position() == {"next": 1}


def test_restoring_drops_what_was_fetched() -> None:
    ahead = BatchesAhead(Counting(), CPU)
    take(ahead)
    position = ahead.position()
    ahead.fetch()
    take(ahead)
    ahead.fetch()
    ahead.restore(position)
    assert ahead.position() == {"next": 1}
    assert take(ahead) == 1


def test_the_end_of_the_data_is_told_to_the_taker_alone() -> None:
    ahead = BatchesAhead(Counting(1), CPU)
    take(ahead)
    ahead.fetch()
    with pytest.raises(StopIteration):
        ahead.take()


@pytest.mark.gpu
def test_batches_arrive_whole_on_the_gpu() -> None:
    ahead = BatchesAhead(Counting(), torch.device("cuda"))
    for expected in range(5):
        tokens = ahead.take()
        ahead.fetch()
        assert tokens.is_cuda
        assert int(tokens) == expected
