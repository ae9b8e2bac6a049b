"""What a hooked run saw: a read-only mapping from hook-point names to tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

import torch
from torch import Tensor


class ActivationCache(Mapping[str, Tensor]):
    """Activations of one forward pass by hook-point name, in the order in which they were computed.

    The tensors are those of the forward pass, not copies: with gradients enabled they belong to its graph.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._values[name]
        except KeyError:
            close = get_close_matches(name, self._values, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise KeyError(
                f"{name!r} was not cached.{hint} Cached: {', '.join(self._values) or 'nothing'}. "
                "Widen `names_filter` to cache more."
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"ActivationCache({len(self)} activations, {self.n_bytes / 2**20:.1f} MiB)"

    @property
    def n_bytes(self) -> int:
        """Bytes of memory that the cached tensors keep alive; memory shared by several counts once."""
        storages = {value.untyped_storage().data_ptr(): value.untyped_storage() for value in self._values.values()}
        return sum(storage.nbytes() for storage in storages.values())

    def to(self, device: torch.device | str) -> ActivationCache:
        """The same cache with its tensors on `device`."""
        return ActivationCache({name: value.to(device) for name, value in self._values.items()})

    def detach(self) -> ActivationCache:
        """The same cache, cut from the autograd graph."""
        return ActivationCache({name: value.detach() for name, value in self._values.items()})
