"""What a hooked run saw: a read-only mapping from hook-point names to tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from diffmamba_interp.argument_checks import fitting


class ActivationCache(Mapping[str, Tensor]):
    """Activations of one forward pass by hook-point name, in the order in which they were computed.

    The tensors are those of the forward pass, not copies: with gradients enabled they belong to its graph.

    tokens: what was run, [batch, pos], and lengths: how many of them count, [batch], if they were padded; None for a
    cache that was made of values alone. `require_run_of` compares them with what a cache is used for.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        *,
        tokens: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self._values = dict(fitting("values", values, Mapping))
        self.tokens = tokens
        self.lengths = None if lengths is None else torch.as_tensor(lengths)
        self._model = None if model is None else weakref.ref(model)

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
        return self._with({name: value.to(device) for name, value in self._values.items()})

    def detach(self) -> ActivationCache:
        """The same cache, cut from the autograd graph."""
        return self._with({name: value.detach() for name, value in self._values.items()})

    def require_run_of(self, model: nn.Module, tokens: Tensor, lengths: Tensor | Sequence[int] | None = None) -> None:
        """Raise ValueError unless the cache is of a run of this model on these tokens, as far as it knows.

        Of right-padded tokens those count that lie before `lengths`. A run that counted more of them serves as well.
        """
        of_model = None if self._model is None else self._model()
        if of_model is not None and of_model is not model:
            raise ValueError("the cache is of another model's run: give one that this model made.")
        if self.tokens is None:
            return
        if self.tokens.shape != tokens.shape:
            raise ValueError(
                f"the cache is of a run of tokens of shape {tuple(self.tokens.shape)}, but tokens has "
                f"{tuple(tokens.shape)}: give the cache of a run of these tokens."
            )
        n_pos = tokens.shape[1]
        asked, seen = (
            torch.full((len(tokens),), n_pos) if given is None else torch.as_tensor(given).cpu()
            for given in (lengths, self.lengths)
        )
        counts = torch.arange(n_pos) < asked[:, None]
        differ = (self.tokens.cpu() != tokens.cpu()) & counts
        if bool(differ.any()) or bool((seen < asked).any()):
            at = f"first at {tuple(differ.nonzero()[0].tolist())}" if bool(differ.any()) else "in their lengths"
            raise ValueError(
                f"the cache is of a run of other tokens (they differ {at}; sample, position): give the cache of a run "
                "of these tokens."
            )

    def _with(self, values: Mapping[str, Tensor]) -> ActivationCache:
        cache = ActivationCache(values, tokens=self.tokens, lengths=self.lengths)
        cache._model = self._model
        return cache

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}
