"""Branches and heads taken out or exchanged, and lambda, the weight of the subtrahend, set or scaled.

    mixer_out = (1 - lambda_init) N(m)               lambda alone is changed, lambda_init stays
    m = M1(u) - lambda M2(u)                         a branch's value is M1(u) or M2(u), its `hook_out`; in a Diff-S6
                                                     the scan's output or o, which are subtracted before out_proj
    y[t,h] = state[t,h] C[t] + D[h] x[t,h]           a head's value is y[.,h], `hook_ssm_y`, by default
    o = inner_norm(y * SiLU(z))                      or its slice of o, `inner_norm.hook_gated`

Taking a head out of y also changes the scale of the gated norm, and so what the other heads of its group write;
taking it out of o removes exactly what it adds to the mixer's output, and nothing else. lambda = 0 leaves the minuend
alone, and with it whatever the subtrahend would have taken away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked, checked_fields, fitting
from diffmamba_interp.hook_names import Branch, branch_out, differential_point, mixer_point, subnorm
from diffmamba_interp.hook_points import NamesFilter, select_names
from diffmamba_interp.interventions.intervention import Hook, Observer
from diffmamba_interp.interventions.targets import (
    Blocks,
    chosen_blocks,
    chosen_heads,
    chosen_scans,
    gated_point,
    has_gate,
    one_scan,
    require_branch,
)
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.ops.precision import upcast

HeadValue = Literal["ssm_y", "gated"]
HEAD_VALUES: tuple[HeadValue, HeadValue] = ("ssm_y", "gated")

Means = Mapping[str, Tensor]
"""Hook name -> mean value, as `collect_means` makes them."""


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


@checked_fields
@dataclass(frozen=True, kw_only=True, eq=False)
class AblateBranch:
    """A branch's output, without lambda and before any sub-norm, becomes zero or its mean.

    branch: "minuend" or "subtrahend". blocks: differential ones; None for all of them.
    means: what `collect_means` made; None for zero.
    """

    branch: Branch
    blocks: Blocks = None
    means: Means | None = None

    def __post_init__(self) -> None:
        require_branch(self.branch)

    def hooks(self, model: HookedMamba) -> list[Hook]:
        names = [branch_out(b, self.branch) for b in chosen_blocks(model, self.blocks, "differential")]
        for name in names:
            mean_of(self.means, name)

        def replace(value: Tensor, name: str) -> Tensor:
            return _filled(value, mean_of(self.means, name))

        return [(name, replace) for name in names]


@checked_fields
@dataclass(frozen=True, kw_only=True)
class SwapBranches:
    """Minuend and subtrahend exchange their roles: m = M2(u) - lambda M1(u).

    With normalisation "pre" each branch keeps its own sub-norm: N2(M2(u)) - lambda N1(M1(u)). Other interventions
    on branches and lambda act first, whatever the order.

    blocks: differential ones; None for all of them.
    """

    blocks: Blocks = None

    def hooks(self, model: HookedMamba) -> list[Hook]:
        return [pair for b in chosen_blocks(model, self.blocks, "differential") for pair in _swap_hooks(model, b)]


@checked_fields
@dataclass(frozen=True, kw_only=True, eq=False)
class AblateHead:
    """The value of one or more heads of a scan becomes zero or its mean.

    block: which. heads: which of its scan's heads. branch: must be named in a differential block.
    at: "ssm_y", the scan's output, or "gated", the input of out_proj (see the head of this file).
    means: what `collect_means` made; None for zero.
    """

    block: int
    heads: int | Sequence[int]
    branch: Branch | None = None
    at: HeadValue = "ssm_y"
    means: Means | None = None

    def __post_init__(self) -> None:
        if self.at not in HEAD_VALUES:
            raise ValueError(f"at is {self.at!r}: a head's value is taken at {' or '.join(map(repr, HEAD_VALUES))}.")

    def hooks(self, model: HookedMamba) -> list[Hook]:
        block, branch = one_scan(model, self.block, self.branch)
        heads = list(chosen_heads(model, block, self.heads))
        at_scan = self.at == "ssm_y"
        name = mixer_point(block, "ssm_y", branch) if at_scan else gated_point(model, block, branch)
        mean = mean_of(self.means, name)
        d_head = model.cfg.mixer_sizes(model.cfg.block_kind(block)).d_head

        def replace(value: Tensor, name: str) -> Tensor:
            by_head = (value if at_scan else value.unflatten(-1, (-1, d_head))).clone()
            filling = by_head.new_zeros(()) if mean is None else mean.to(by_head).reshape(by_head.shape[2:])[heads]
            by_head[:, :, heads] = filling
            return by_head.reshape(value.shape)

        return [(name, replace)]


@checked_fields
@dataclass(frozen=True, kw_only=True)
class SwapHeads:
    """Two heads of one scan exchange their outputs y, which then meet each other's gate and output weights.

    block: which. first, second: the heads. branch: must be named in a differential block.
    """

    block: int
    first: int
    second: int
    branch: Branch | None = None

    def hooks(self, model: HookedMamba) -> list[Hook]:
        block, branch = one_scan(model, self.block, self.branch)
        (first,) = chosen_heads(model, block, self.first, "first")
        (second,) = chosen_heads(model, block, self.second, "second")

        def exchange(y: Tensor, name: str) -> Tensor:
            order = list(range(y.shape[2]))
            order[first], order[second] = second, first
            return y[:, :, order]

        return [(mixer_point(block, "ssm_y", branch), exchange)]


@checked
@torch.no_grad()
def collect_means(
    model: HookedMamba, prompts: Iterable[Int[Tensor, "_batch _pos"]], names: NamesFilter = None
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
        names.append(mixer_point(block, "ssm_y", branch))
        if has_gate(model, block, branch):
            names.append(gated_point(model, block, branch))
        if branch is not None:
            names.append(branch_out(block, branch))
    return names


def mean_of(means: Means | None, name: str) -> Tensor | None:
    """The mean for one hook point; None for zero. Raises ValueError if it was not collected."""
    if means is None:
        return None
    if name not in means:
        raise ValueError(
            f"means holds no mean of {name!r}: collect_means(model, prompts) collects all that are needed."
        )
    return means[name]


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}: it must be a finite number.")


def _filled(value: Tensor, mean: Tensor | None) -> Tensor:
    return value.new_zeros(value.shape) if mean is None else mean.to(value).expand(value.shape)


def _swap_hooks(model: HookedMamba, block: int) -> list[Hook]:
    """m + (1 + lambda) (b - a) = b - lambda a, where m = a - lambda b: nothing else that changed m is undone."""
    mixer = cast(DifferentialMixer, model.get_submodule(f"blocks.{block}.mixer"))
    is_pre = mixer.cfg.normalisation == "pre"
    minuend_name, subtrahend_name = (
        subnorm(block, "normalized", branch) if is_pre else branch_out(block, branch)
        for branch in ("minuend", "subtrahend")
    )
    lambda_name = differential_point(block, "lambda")
    seen: dict[str, Tensor] = {}

    def keep(value: Tensor, name: str) -> None:
        seen[name] = value

    def term(branch: Branch, name: str) -> Tensor:
        value = upcast(seen[name])
        return value * upcast(mixer.get_parameter(f"subnorm.{branch}.weight")) if is_pre else value

    def exchange(m: Tensor, name: str) -> Tensor:
        a, b = term("minuend", minuend_name), term("subtrahend", subtrahend_name)
        return upcast(m) + (1 + mixer.per_output(seen[lambda_name])) * (b - a)

    looking = [(name, Observer(keep)) for name in (minuend_name, subtrahend_name, lambda_name)]
    return [*looking, (differential_point(block, "difference"), exchange)]
