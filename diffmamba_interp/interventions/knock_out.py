"""Knocking out source tokens: the scan runs as if position s had never been written, or never been projected.

level "write": the state takes nothing from s. Decay, gate and the skip D x[s] at s itself stay.

    state[s] = exp(dt[s] A) state[s-1]                       in place of  ... + dt[s] x[s] B[s]^T
    y[s]     = state[s] C[s] + D x[s]                        so H[t,s] = 0 for every t >= s

    Of all heads it is made by B[s] = 0, which enters nothing but this write; of some heads of a Mamba-2 mixer by
    dt[s] = 0 where log_decay keeps its value, and of some channels of another mixer at the write itself.

level "input": the projection p[s] = (x | B | C)[s] before the convolution is zero, for every tap that reads it.

    c[t] = sum_{k, t-k != s} w[K-1-k] p[t-k] + bias          which changes x, B and C at t = s ... s + K - 1

    z[s] and dt[s], which pass through no convolution, stay: s still decays the state and gates its own output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from diffmamba_interp.argument_checks import checked_fields
from diffmamba_interp.hook_names import EMBED, Branch, MixerPoint, Scan, mixer_point, mixer_prefix
from diffmamba_interp.interventions.intervention import Hook, Observer, OnPrompt
from diffmamba_interp.interventions.targets import (
    AtTokens,
    Blocks,
    Positions,
    chosen_heads,
    chosen_scans,
    position_mask,
    require_branch,
    require_positions,
)
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.mixer import Mixer
from diffmamba_interp.ops.precision import upcast

Level = Literal["write", "input"]
LEVELS: tuple[Level, Level] = ("write", "input")


@checked_fields
@dataclass(frozen=True, kw_only=True, eq=False)
class KnockOut:
    """Source tokens are knocked out of scans.

    positions: one or more, the same for all samples, a mask [batch, pos], or certain tokens (`AtTokens`).
    level: "write" or "input" (see above). blocks: None for all. branch: one branch of differential blocks; None for
    every scan of the blocks. heads: of each of these scans, whose writes alone go; None for all.
    """

    positions: Positions | AtTokens
    level: Level = "write"
    blocks: Blocks = None
    branch: Branch | None = None
    heads: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.positions, AtTokens):
            require_positions(self.positions)
        require_branch(self.branch)
        if self.level not in LEVELS:
            raise ValueError(
                f"level is {self.level!r}: 'write' takes the source out of the state alone, 'input' out of everything "
                "that the convolution makes of it."
            )
        if self.heads is not None and self.level != "write":
            raise ValueError(
                f"heads is {self.heads!r} and level is {self.level!r}: B and C, which the input makes, are not one "
                "head's. Leave heads out, or take level='write'."
            )

    def hooks(self, model: HookedMamba) -> list[Hook]:
        scans = chosen_scans(model, self.blocks, self.branch)
        first, where = self._where(model)
        if self.heads is not None:
            return [*first, *(pair for scan in scans for pair in self._no_write_of_heads(model, scan, where))]
        if self.level == "write":
            return [*first, *((_name(scan, "B"), self._no_write(where)) for scan in scans)]
        return [
            *first,
            *((_name(scan, "in_proj"), self._no_input(model, scan, where)) for scan in scans),
        ]

    def _where(self, model: HookedMamba) -> tuple[list[Hook], Callable[[Tensor], Tensor]]:
        """Hooks that must run before the others, and the function from a value [batch, pos, ...] to its mask."""
        positions = self.positions
        if not isinstance(positions, AtTokens):
            return [], lambda value: position_mask(positions, value)
        seen: list[Tensor] = []

        def look(embedded: Tensor, name: str) -> None:
            seen[:] = [positions.mask(embedded, model.embed.weight)]

        return [(EMBED, Observer(look))], lambda value: seen[0]

    def _edit(self, function: Callable[[Tensor, str], Tensor]) -> Any:
        """Positions are those of a prompt; certain tokens are what they are wherever they stand."""
        return function if isinstance(self.positions, AtTokens) else OnPrompt(function)

    def _no_write(self, where: Callable[[Tensor], Tensor]) -> Any:
        def clear(B: Tensor, name: str) -> Tensor:
            mask = where(B)
            return B.masked_fill(mask.reshape(*mask.shape, *[1] * (B.ndim - 2)), 0.0)

        return self._edit(clear)

    def _no_write_of_heads(self, model: HookedMamba, scan: Scan, where: Callable[[Tensor], Tensor]) -> list[Hook]:
        assert self.heads is not None
        heads = list(chosen_heads(model, scan[0], self.heads))
        dt_name, decay_name, write_name = (_name(scan, point) for point in ("dt", "log_decay", "write"))
        seen: list[Tensor] = []

        def of_heads(value: Tensor) -> Tensor:
            """True at the positions, for the heads, [batch, pos, head, ...]."""
            chosen = torch.zeros(value.shape[2], dtype=torch.bool, device=value.device)
            chosen[heads] = True
            mask = where(value)[..., None] & chosen
            return mask.reshape(*mask.shape, *[1] * (value.ndim - 3))

        def no_step(dt: Tensor, name: str) -> Tensor:
            seen[:] = [dt]
            return dt.masked_fill(of_heads(dt), 0.0)

        def same_decay(log_decay: Tensor, name: str) -> Tensor:
            A = -torch.exp(upcast(model.get_parameter(f"{mixer_prefix(*scan)}.A_log")))
            return torch.where(of_heads(log_decay), seen[0] * A, log_decay)

        def clear(write: Tensor, name: str) -> Tensor:
            return write.masked_fill(of_heads(write), 0.0)

        if decay_name in model.hook_points:
            return [(dt_name, self._edit(no_step)), (decay_name, self._edit(same_decay))]
        if write_name not in model.hook_points:
            raise ValueError(f"the mixer of block {scan[0]} has no write that is one head's alone: leave heads out.")
        return [(write_name, self._edit(clear))]

    def _no_input(self, model: HookedMamba, scan: Scan, where: Callable[[Tensor], Tensor]) -> Any:
        convolved = cast(Mixer, model.get_submodule(mixer_prefix(*scan))).sizes.convolved

        def clear(projected: Tensor, name: str) -> Tensor:
            edited = projected.clone()
            edited[..., convolved] = projected[..., convolved].masked_fill(where(projected)[..., None], 0.0)
            return edited

        return self._edit(clear)


def _name(scan: Scan, point: MixerPoint) -> str:
    block, branch = scan
    return mixer_point(block, point, branch)
