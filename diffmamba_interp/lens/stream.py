"""The residual stream of a model, as lenses read it: what enters each block, and what leaves the last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.hook_names import block_point
from diffmamba_interp.hook_points import Recorder
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.token_checks import Lengths


@dataclass(frozen=True, kw_only=True)
class ResidualStream:
    """One forward pass: entering[i] is `resid_pre` of block i (i = 0: the embedding), final leaves the last block.

    Each is [batch, pos, d_model].
    """

    entering: tuple[Tensor, ...]
    final: Tensor

    def flat(self) -> ResidualStream:
        """The same with batch and position in one axis, [tokens, d_model]."""
        return ResidualStream(
            entering=tuple(resid.flatten(0, 1) for resid in self.entering), final=self.final.flatten(0, 1)
        )

    def at(self, positions: slice) -> ResidualStream:
        """The same at some positions (the last axis but one)."""
        return ResidualStream(
            entering=tuple(resid[..., positions, :] for resid in self.entering),
            final=self.final[..., positions, :],
        )


@checked
@torch.no_grad()
def residual_stream(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    *,
    lengths: Lengths | None = None,
    dtype: torch.dtype | None = None,
) -> ResidualStream:
    """Run the model without its unembedding and keep what enters every block.

    Args:
        model: any hooked model; hooks that are attached to it take effect.
        tokens: token ids.
        lengths: tokens per sample of a right-padded batch.
        dtype: what the stream is kept in; that of the model's stream by default.

    Returns:
        The stream, without gradients.
    """
    recorder, n_layers = Recorder(dtype=dtype), model.cfg.n_layers
    hooks = [([block_point(block, "resid_pre") for block in range(n_layers)], recorder)]
    final = model.run_with_hooks(tokens, hooks, stop_at_block=n_layers, lengths=lengths)
    return ResidualStream(entering=tuple(recorder.seen.values()), final=final.to(dtype or final.dtype))
