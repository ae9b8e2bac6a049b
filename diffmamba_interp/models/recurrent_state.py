"""The recurrent state of a whole model: what it remembers of a prompt, of constant size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from diffmamba_interp.mixer_sizes import BlockKind
from diffmamba_interp.models.mixer import BlockState


@dataclass(frozen=True)
class RecurrentState:
    """One entry per block: a `MixerState`, or `BranchStates` in a differential block.

    It can be edited between two calls (`state.map(...)`, or by building new `MixerState`s): a change then
    travels through the recurrence, unlike one made by a hook on `hook_state`.
    """

    blocks: tuple[BlockState, ...]

    @property
    def batch_size(self) -> int:
        return self.blocks[0].mixers[0].ssm.shape[0]

    @property
    def n_bytes(self) -> int:
        """Memory of the state's tensors in bytes; it does not grow with the number of tokens read."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def require_fit(self, kinds: Sequence[BlockKind], n_samples: int) -> None:
        """Raise ValueError unless a model with blocks of these kinds can continue `n_samples` samples from here."""
        given = [block.kind for block in self.blocks]
        if given != list(kinds):
            raise ValueError(
                f"state is another model's: it holds {len(given)} blocks ({given.count('differential')} differential), "
                f"the model {len(kinds)} ({list(kinds).count('differential')} differential)."
            )
        if self.batch_size != n_samples:
            raise ValueError(f"state holds {self.batch_size} samples, but tokens holds {n_samples}.")

    def tensors(self) -> list[Tensor]:
        """All tensors of the state, conv then ssm, block by block, minuend before subtrahend."""
        return [tensor for block in self.blocks for mixer in block.mixers for tensor in (mixer.conv, mixer.ssm)]

    def map(self, function: Callable[[Tensor], Tensor]) -> RecurrentState:
        """The state with `function` applied to every tensor, conv and ssm alike."""
        return RecurrentState(tuple(block.map(function) for block in self.blocks))

    def select(self, samples: Int[Tensor, " n"]) -> RecurrentState:
        """The state of the given samples, in that order; a sample may be named more than once."""
        return self.map(lambda tensor: tensor[samples.to(tensor.device)])

    def repeat(self, n: int) -> RecurrentState:
        """Each sample n times in a row: to continue one prompt in n ways."""
        return self.select(torch.arange(self.batch_size).repeat_interleave(n))

    def detach(self) -> RecurrentState:
        """The state, cut from the autograd graph."""
        return self.map(Tensor.detach)
