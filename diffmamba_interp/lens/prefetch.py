"""The next step's tokens, fetched and on their way to the device while the device still works on this step's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor


@runtime_checkable
class StepBatches(Protocol):
    """Where tokens come from: this process's share of one step's sequences at a time, from a saveable position."""

    def __next__(self) -> Tensor: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


class BatchesAhead:
    """`batches` on `device`, one ahead: call `fetch` when the device has been given its work, `take` for the next.

    Positions are those of the batches that were taken; what was fetched but not taken does not count.
    """

    def __init__(self, batches: StepBatches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._fetched: Int64[Tensor, "sequence pos"] | None = None
        self._position = batches.state()
        self._position_after_fetched = self._position

    def take(self) -> Int64[Tensor, "sequence pos"]:
        """The next batch, on the device. Raises StopIteration when there is none."""
        if self._fetched is None:
            self._fetch()
        taken, self._fetched = self._fetched, None
        assert taken is not None
        self._position = self._position_after_fetched
        return taken

    def fetch(self) -> None:
        """Get the next batch ready, without waiting for its copy to the device; at the data's end, do nothing."""
        if self._fetched is None:
            try:
                self._fetch()
            except StopIteration:
                # Whether another batch is wanted is for `take` to say.
                return

    def position(self) -> dict[str, Any]:
        """Where the batch after the last taken one comes from, as plain values."""
        return self._position

    def restore(self, position: Mapping[str, Any]) -> None:
        """Go on at a `position()`. Raises ValueError if it is of other data or settings."""
        self._batches.restore(position)
        self._fetched = None
        self._position = self._batches.state()

    def _fetch(self) -> None:
        tokens = next(self._batches)
        self._position_after_fetched = self._batches.state()
        if self._device.type == "cuda":
            # Only from page-locked memory is a copy made beside the device's other work.
            tokens = tokens.pin_memory()
        self._fetched = tokens.to(self._device, non_blocking=True)
