"""One value of a run replaced by a given one, such as another prompt's: what a grid of patches does cell by cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffmamba_interp.argument_checks import checked_fields
from diffmamba_interp.hook_points import select_names
from diffmamba_interp.interventions.intervention import Hook, OnPrompt
from diffmamba_interp.interventions.targets import Positions, position_mask, require_positions
from diffmamba_interp.models.language_model import HookedMamba


@checked_fields
@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """A hook point's value is replaced by a given one, everywhere or at some positions.

    name: of the hook point, by `hook_names`. value: [batch, pos, ...], or [1, pos, ...] for all samples; what
    `run_with_cache` gave for another prompt. A scalar, such as lambda has, holds at every position of every sample,
    those of a call that continues from a recurrent state included. positions: None for all.
    """

    name: str
    value: Tensor
    positions: Positions | None = None

    def __post_init__(self) -> None:
        if self.positions is not None:
            require_positions(self.positions)
            if self.value.ndim == 0:
                raise ValueError(
                    f"value is a scalar and positions is given: what {self.name!r} holds for a whole prompt cannot be "
                    "patched at some of its positions. Leave positions out."
                )

    def hooks(self, model: HookedMamba) -> list[Hook]:
        select_names(model.hook_points, [self.name], "name")
        return [(self.name, self._replace if self.value.ndim == 0 else OnPrompt(self._replace))]

    def _replace(self, value: Tensor, name: str) -> Tensor:
        if self.value.ndim == 0:
            return self._everywhere(value, name)
        if value.ndim == 0 and self.positions is None:
            # One lambda for each sample, as a hook may give it: the hook point says what fits.
            return self.value
        if value.ndim < 2 or self.value.shape[1:] != value.shape[1:] or self.value.shape[0] not in (1, value.shape[0]):
            raise ValueError(
                f"the patch for {name!r} has shape {tuple(self.value.shape)}, the value there {tuple(value.shape)}: "
                "take it from a prompt of the same length."
            )
        given = self.value.to(value).expand(value.shape)
        if self.positions is None:
            return given
        mask = position_mask(self.positions, value)
        return torch.where(mask.reshape(*mask.shape, *[1] * (value.ndim - 2)), given, value)

    def _everywhere(self, value: Tensor, name: str) -> Tensor:
        if not name.endswith("hook_lambda"):
            raise ValueError(f"value is a scalar, but {name!r} has shape {tuple(value.shape)}: give one of that shape.")
        return self.value.to(value).expand(value.shape)
