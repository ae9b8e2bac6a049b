"""Interventions on lambda, the weight of the subtrahend in a differential block.

    mixer_out = (1 - lambda_init) N(M1(u) - lambda M2(u))        lambda alone is changed, lambda_init stays

lambda = 0 leaves the minuend alone, and with it whatever the subtrahend would have taken away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmamba_interp.argument_checks import checked_fields
from diffmamba_interp.hook_names import differential_point
from diffmamba_interp.interventions.intervention import Hook
from diffmamba_interp.interventions.targets import Blocks, chosen_blocks
from diffmamba_interp.models.language_model import HookedMamba


@checked_fields
@dataclass(frozen=True, kw_only=True)
class SetLambda:
    """Lambda gets the same value in all chosen blocks.

    value: the new lambda, without unit; any finite number. blocks: differential ones; None for all of them.
    """

    value: float
    blocks: Blocks = None

    def __post_init__(self) -> None:
        _require_finite("value", self.value)

    def hooks(self, model: HookedMamba) -> list[Hook]:
        def replace(lambda_: Tensor, name: str) -> Tensor:
            return torch.full_like(lambda_, self.value)

        return [(differential_point(b, "lambda"), replace) for b in chosen_blocks(model, self.blocks, "differential")]


@checked_fields
@dataclass(frozen=True, kw_only=True)
class ScaleLambda:
    """Each chosen block's own lambda, times a factor: 1 changes nothing, 0 takes the subtrahend away.

    factor: without unit; any finite number. blocks: differential ones; None for all of them.
    """

    factor: float
    blocks: Blocks = None

    def __post_init__(self) -> None:
        _require_finite("factor", self.factor)

    def hooks(self, model: HookedMamba) -> list[Hook]:
        def scale(lambda_: Tensor, name: str) -> Tensor:
            return self.factor * lambda_

        return [(differential_point(b, "lambda"), scale) for b in chosen_blocks(model, self.blocks, "differential")]


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}: it must be a finite number.")
