"""Mean activations over prompts: what mean ablation puts in the place of a branch's or a head's output."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked, fitting
from diffmamba_interp.hook_names import branch_out, inner_norm, mixer_point
from diffmamba_interp.hook_points import NamesFilter, select_names
from diffmamba_interp.interventions.targets import chosen_scans
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.ops.precision import upcast


@checked
@torch.no_grad()
def collect_means(
    model: HookedMamba, prompts: Iterable[Int[Tensor, "batch pos"]], names: NamesFilter = None
) -> dict[str, Tensor]:
    """Hook name -> its value's mean over all positions of all prompts, [...] without batch and pos, on the CPU.

    Args:
        model: hooks that are attached to it take effect.
        prompts: batches of token ids, each of prompts of equal length, without padding.
        names: which hook points; None for those that `AblateBranch` and `AblateHead` ask for.

    Raises:
        ValueError: no prompts, or a hook point without a position axis.
    """
    wanted = ablatable_points(model) if names is None else select_names(model.hook_points, names, "names")
    if not wanted:
        raise ValueError("names selects no hook point, so there is nothing to average.")
    sums: dict[str, Tensor] = {}
    n_positions = 0

    def add(value: Tensor, name: str) -> None:
        if value.ndim < 3:
            raise ValueError(f"{name!r} has shape {tuple(value.shape)}, which is not [batch, pos, ...]: leave it out.")
        # Sums of a batch in float32 on its own device; their sum in float64, which not every GPU has.
        total = upcast(value).sum(dim=(0, 1)).cpu().double()
        sums[name] = sums.get(name, 0.0) + total

    device = model.embed.weight.device
    with model.hooks([(wanted, add)]):
        for tokens in prompts:
            tokens = fitting("prompts", tokens, Tensor)
            model(tokens.to(device), stop_at_block=model.cfg.n_layers)
            n_positions += tokens.numel()
    if not n_positions:
        raise ValueError("there are no prompts to average over: give at least one batch of tokens.")
    return {name: (total / n_positions).float() for name, total in sums.items()}


def ablatable_points(model: HookedMamba) -> list[str]:
    """The outputs of every branch, and of every scan and gated norm, whose slices are the heads' outputs."""
    names = []
    for block, branch in chosen_scans(model, None, None):
        names += [mixer_point(block, "ssm_y", branch), inner_norm(block, "gated", branch)]
        if branch is not None:
            names.append(branch_out(block, branch))
    return names
