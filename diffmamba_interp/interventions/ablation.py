"""Ablation and exchange of branches and of heads.

    m = M1(u) - lambda M2(u)                         a branch's value is M1(u) or M2(u), its `hook_out`
    y[t,h] = state[t,h] C[t] + D[h] x[t,h]           a head's value is y[.,h], `hook_ssm_y`, by default
    o = inner_norm(y * SiLU(z))                      or its slice of o, `inner_norm.hook_gated`

Taking a head out of y also changes the scale of the gated norm, and so what the other heads of its group write;
taking it out of o removes exactly what it adds to the mixer's output, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from diffmamba_interp.argument_checks import checked_fields
from diffmamba_interp.hook_names import Branch, branch_out, differential_point, inner_norm, mixer_point, subnorm
from diffmamba_interp.interventions.intervention import Hook, Observer
from diffmamba_interp.interventions.targets import Blocks, chosen_blocks, chosen_heads, one_scan, require_branch
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.ops.precision import upcast

HeadValue = Literal["ssm_y", "gated"]
HEAD_VALUES: tuple[HeadValue, HeadValue] = ("ssm_y", "gated")

Means = Mapping[str, Tensor]
"""Hook name -> mean value, as `collect_means` makes them."""


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
        name = mixer_point(block, "ssm_y", branch) if at_scan else inner_norm(block, "gated", branch)
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


def mean_of(means: Means | None, name: str) -> Tensor | None:
    """The mean for one hook point; None for zero. Raises ValueError if it was not collected."""
    if means is None:
        return None
    if name not in means:
        raise ValueError(
            f"means holds no mean of {name!r}: collect_means(model, prompts) collects all that are needed."
        )
    return means[name]


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
        return upcast(m) + (1 + seen[lambda_name]) * (b - a)

    looking = [(name, Observer(keep)) for name in (minuend_name, subtrahend_name, lambda_name)]
    return [*looking, (differential_point(block, "difference"), exchange)]
