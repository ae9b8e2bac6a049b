"""AdamW with weight decay on the projection matrices only, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from diffmamba_interp.lm_training.recipe import OptimiserRecipe

DECAYED = ("in_proj.weight", "out_proj.weight", "unembed.weight")
"""Endings of the names of parameters that decay: the matrices. Norm gains, biases, convolutions, A_log, D, dt_bias,
lambda parameters and the embedding (tied or not) do not."""


def make_optimiser(model: nn.Module, recipe: OptimiserRecipe) -> torch.optim.AdamW:
    """AdamW over all parameters, in two groups: with and without weight decay."""
    named = list(model.named_parameters())
    decayed = [parameter for name, parameter in named if name.endswith(DECAYED)]
    others = [parameter for name, parameter in named if not name.endswith(DECAYED)]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    devices = {parameter.device for _, parameter in named if parameter.is_cuda}
    on_gpu = bool(devices)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        # A captured step reads the learning rate from the GPU's memory.
        lr=torch.tensor(recipe.lr, device=devices.pop()) if on_gpu else recipe.lr,
        capturable=on_gpu,
        betas=recipe.betas,
        eps=recipe.eps,
        fused=True if on_gpu else None,
    )


def learning_rate(step: int, steps: int, recipe: OptimiserRecipe) -> float:
    """The learning rate of step `step` (0-based) of `steps`.

    lr * (step + 1) / warmup while step < warmup; then lr * (floor + (1 - floor) (1 + cos(pi x)) / 2), where x goes
    from 0 to 1 at the last step.
    """
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    x = (step - recipe.warmup) / max(steps - 1 - recipe.warmup, 1)
    return recipe.lr * (recipe.floor + (1 - recipe.floor) * (1 + math.cos(math.pi * min(x, 1.0))) / 2)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give all groups this learning rate."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over the moments of a snapshot; the learning rate stays where this optimiser keeps it."""
    rates = [group["lr"] for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
        group["capturable"] = isinstance(rate, torch.Tensor)


def clip_gradients(parameters: Iterable[nn.Parameter], clip: float | None) -> torch.Tensor:
    """The norm of all gradients together, before they are scaled down to `clip` if it is greater."""
    return nn.utils.clip_grad_norm_(list(parameters), math.inf if clip is None else clip)
