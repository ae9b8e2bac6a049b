"""Knocking out source tokens: the scan runs as if position s had never been written, or never been projected.

level "write": the state takes nothing from s. Decay, gate and the skip D x[s] at s itself stay.

    state[s] = exp(dt[s] A) state[s-1]                       in place of  ... + dt[s] x[s] B[s]^T
    y[s]     = state[s] C[s] + D x[s]                        so H[t,s] = 0 for every t >= s

    It is made by B[s] = 0, which enters nothing but this write.

level "input": the projection p[s] = (x | B | C)[s] before the convolution is zero, for every tap that reads it.

    c[t] = sum_{k, t-k != s} w[K-1-k] p[t-k] + bias          which changes x, B and C at t = s ... s + K - 1

    z[s] and dt[s], which pass through no convolution, stay: s still decays the state and gates its own output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diffmamba_interp.argument_checks import checked_fields
from diffmamba_interp.hook_names import Branch, mixer_point
from diffmamba_interp.interventions.intervention import Hook, OnPrompt
from diffmamba_interp.interventions.targets import (
    Blocks,
    Positions,
    chosen_scans,
    position_mask,
    require_branch,
    require_positions,
)
from diffmamba_interp.models.language_model import HookedMamba

Level = Literal["write", "input"]
LEVELS: tuple[Level, Level] = ("write", "input")


@checked_fields
@dataclass(frozen=True, kw_only=True, eq=False)
class KnockOut:
    """Source tokens are knocked out of scans.

    positions: one or more, the same for all samples, or a mask [batch, pos]. level: "write" or "input" (see above).
    blocks: None for all. branch: one branch of differential blocks; None for every scan of the blocks.
    """

    positions: Positions
    level: Level = "write"
    blocks: Blocks = None
    branch: Branch | None = None

    def __post_init__(self) -> None:
        require_positions(self.positions)
        require_branch(self.branch)
        if self.level not in LEVELS:
            raise ValueError(
                f"level is {self.level!r}: 'write' takes the source out of the state alone, 'input' out of everything "
                "that the convolution makes of it."
            )

    def hooks(self, model: HookedMamba) -> list[Hook]:
        scans = chosen_scans(model, self.blocks, self.branch)
        if self.level == "write":
            return [(mixer_point(block, "B", branch), OnPrompt(self._no_write)) for block, branch in scans]
        return [(mixer_point(block, "in_proj", branch), self._no_input(model, block)) for block, branch in scans]

    def _no_write(self, B: Tensor, name: str) -> Tensor:
        mask = position_mask(self.positions, B)
        return B.masked_fill(mask.reshape(*mask.shape, *[1] * (B.ndim - 2)), 0.0)

    def _no_input(self, model: HookedMamba, block: int) -> OnPrompt:
        convolved = model.cfg.mixer_sizes(model.cfg.block_kind(block)).convolved

        def clear(projected: Tensor, name: str) -> Tensor:
            edited = projected.clone()
            mask = position_mask(self.positions, projected)[..., None]
            edited[..., convolved] = projected[..., convolved].masked_fill(mask, 0.0)
            return edited

        return OnPrompt(clear)
