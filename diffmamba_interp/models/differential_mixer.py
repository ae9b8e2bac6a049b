"""The differential mixer: one mixer minus lambda times another, over any kind of mixer.

m = M1(u) - lambda M2(u)                                 Diff-Mamba, arXiv 2507.06204, Eqs. 18-20
mixer_out = (1 - lambda_init) N(m)                       normalisation "post" (published checkpoints)
mixer_out = (1 - lambda_init) (N1(M1(u)) - lambda N2(M2(u)))               "pre" (the paper's text)
mixer_out = m                                                              "none"

lambda: one number, or one for each token, in the forms of `lambda_forms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffmamba_interp.config import DifferentialConfig, lambda_init
from diffmamba_interp.hook_names import BRANCHES, Branch
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.models.branch_stack import BranchStack, parameter_versions
from diffmamba_interp.models.lambda_forms import FORMS, lambda_from_parameters, lambda_of_tokens
from diffmamba_interp.models.mamba2_mixer import Mamba2Mixer
from diffmamba_interp.models.mixer import BranchStates, FrozenMixer, Mixer
from diffmamba_interp.models.rms_norm import RMSNorm
from diffmamba_interp.ops import fused as kernels
from diffmamba_interp.ops import kernels as triton_kernels
from diffmamba_interp.ops.precision import upcast

SMALL_LAMBDA_STD = 0.1
"""Standard deviation of lambda_q1's sum, of a dot product's terms, or of a gate's score, in a new `"small"` model."""


@dataclass(frozen=True, kw_only=True)
class FrozenBranch:
    """A branch as it ran. mixer: from x to what leaves the block, its own factors held. out_gain: what multiplies that
    there, without lambda, [batch, pos, d_model]; None for 1. out: its `hook_out`, in float32 or wider."""

    mixer: FrozenMixer
    out_gain: Tensor | None
    out: Tensor


class DifferentialMixer(nn.Module):
    """Two branches and lambda; the branches are whole mixers with their own in_proj and out_proj.

    make_branch: builds one mixer, a `Mixer`.
    block: 0-based index in the whole model, which fixes `lambda_init`.
    stack: runs both branches in one pass of the GPU kernels; None for branches that cannot be stacked.
    """

    def __init__(
        self,
        make_branch: Callable[[Branch], nn.Module],
        cfg: DifferentialConfig,
        *,
        block: int,
        stack: BranchStack | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.form = FORMS[cfg.lambda_form]
        self.stack = stack if cfg.normalisation != "pre" and self.has_one_lambda else None
        self.lambda_init = lambda_init(block)
        self.hook_lambda = HookPoint(broadcast=True)
        self.minuend = make_branch("minuend")
        self.subtrahend = make_branch("subtrahend")
        self.minuend.add_module("hook_out", HookPoint())
        self.subtrahend.add_module("hook_out", HookPoint())
        modules = (*self.minuend.modules(), *self.subtrahend.modules())
        self._branch_points = tuple(module for module in modules if isinstance(module, HookPoint))
        self.hook_difference = HookPoint()
        sizes = self._branches[0].sizes
        for name, axes in self.form.parameters.items():
            self.register_parameter(name, nn.Parameter(torch.empty([getattr(sizes, axis) for axis in axes])))
        if cfg.normalisation == "post":
            self.subnorm: nn.Module = RMSNorm(self._width, cfg.subnorm_eps)
        elif cfg.normalisation == "pre":
            self.subnorm = nn.ModuleDict({branch: RMSNorm(self._width, cfg.subnorm_eps) for branch in BRANCHES})
        if next(self.parameters()).device.type != "meta":
            self.initialise_lambda()

    @torch.no_grad()
    def initialise_lambda(self) -> None:
        """`"small"`: zero mean and a spread that leaves the sigmoid open; `"published"`: N(0, 1) per entry."""
        for parameter in self._lambda_parameters().values():
            small = SMALL_LAMBDA_STD / (parameter.shape[-1] if parameter.ndim else 1) ** 0.5
            parameter.normal_(0.0, 1.0 if self.cfg.lambda_initialisation == "published" else small)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DifferentialMixer:
        """What `.to`, `.cuda` and their kin call: the stacked tensors would stay behind on the old device."""
        if self.stack is not None:
            self.stack.forget()
        return super()._apply(fn, recurse)

    @property
    def derived(self) -> dict[str, Tensor] | None:
        """The stacked branches that are kept now; what a captured graph reads beside the parameters."""
        return None if self.stack is None else self.stack.kept

    @torch.no_grad()
    def derive(self) -> dict[str, Tensor]:
        """The stacked branches as the parameters are now, written over the kept ones."""
        assert self.stack is not None
        branches = cast(tuple[Mamba2Mixer, Mamba2Mixer], (self.minuend, self.subtrahend))
        return self.stack.tensors(*branches, self.lambda_, self._lambda_key())

    def writing_weights(self) -> list[Tensor]:
        """The parameters that set the size of what the mixer adds to the residual stream."""
        if self.cfg.normalisation != "none":
            return list(self.subnorm.parameters())
        return [weight for branch in self._branches for weight in branch.writing_weights()]

    @property
    def has_one_lambda(self) -> bool:
        """Whether lambda is one number, which `lambda_()` tells without an input."""
        return self.form.scope == "block"

    def lambda_(self, u: Float[Tensor, "batch pos d_model"] | None = None) -> Tensor:
        """lambda without hooks, in float32 or wider: a scalar; of a gate, which needs `u`, [batch, pos, 1 or head]."""
        parameters = self._lambda_parameters()
        if self.has_one_lambda:
            if parameters:
                return lambda_from_parameters(parameters, self.lambda_init)
            # A constant is made where the mixer lies: a copy from the CPU could not be captured in a graph.
            like = next(self.parameters())
            return torch.ones((), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
        if u is None:
            raise ValueError(f"lambda of a {self.cfg.lambda_form!r} is one for each token: give u, the mixer's input.")
        return lambda_of_tokens(parameters, self.lambda_init, u)

    def per_output(self, lambda_: Tensor) -> Tensor:
        """lambda so that it broadcasts against what a branch puts out, its `hook_out`."""
        return lambda_

    @property
    def frozen_points(self) -> tuple[str, ...]:
        """Hook points, by their names inside the mixer, that `freeze_branch` reads for the two branches."""
        names = [f"{name}.{point}" for name, branch in self._named_branches() for point in branch.frozen_points]
        scales = {"post": ["subnorm"], "pre": [f"subnorm.{branch}" for branch in BRANCHES], "none": []}
        names += [f"{norm}.hook_scale" for norm in scales[self.cfg.normalisation]]
        return ("hook_lambda", *names, *(f"{branch}.hook_out" for branch in BRANCHES))

    def freeze_branch(self, branch: Branch, seen: Callable[[str], Tensor]) -> FrozenBranch:
        """The branch as it ran when the `frozen_points` had the values `seen`, which are float32 or wider.

        out_gain[t] = (1 - lambda_init) w_sub / rms(m[t])              normalisation "post": the same for both
                    = (1 - lambda_init) w_sub_b / rms(M_b(u)[t])       "pre": each branch its own
                    = 1                                                "none"
        """
        mixer = dict(self._named_branches())[branch]
        return FrozenBranch(
            mixer=mixer.freeze(lambda point: seen(f"{branch}.{point}")),
            out_gain=self._norm_gain(branch, seen),
            out=seen(f"{branch}.hook_out"),
        )

    def _norm_gain(self, branch: Branch, seen: Callable[[str], Tensor]) -> Tensor | None:
        """(1 - lambda_init) times the frozen norm after the branch, or None without a norm."""
        if self.cfg.normalisation == "none":
            return None
        name = "subnorm" if self.cfg.normalisation == "post" else f"subnorm.{branch}"
        return (1 - self.lambda_init) * upcast(self.get_parameter(f"{name}.weight")) / seen(f"{name}.hook_scale")

    @property
    def _width(self) -> int:
        """Of what is subtracted."""
        return self._branches[0].sizes.d_model

    @property
    def _branches(self) -> tuple[Mixer, Mixer]:
        return cast(tuple[Mixer, Mixer], (self.minuend, self.subtrahend))

    def _named_branches(self) -> tuple[tuple[Branch, Mixer], ...]:
        return tuple(zip(BRANCHES, self._branches, strict=True))

    def forward(
        self,
        u: Float[Tensor, "batch pos d_model"],
        state: BranchStates | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
        *,
        fused: bool = False,
        keep_state: bool = True,
        leave_norm: bool = False,
    ) -> tuple[Float[Tensor, "batch pos d_model"] | OpenNorm, BranchStates | None]:
        """mixer_out and both branches' states after the last valid position; arguments as in `Mixer`.

        `leave_norm`: leave the sub-norm to whoever adds mixer_out to the stream, where a kernel can do both.

        `fused` runs both branches in one pass where it can. They run apart while a hook looks into one of them
        or gives each sample a lambda of its own, from a given state, and on padding whose state is wanted.
        """
        from_zero = state is None and (valid is None or not keep_state)
        stackable = fused and from_zero and self._can_stack(u.shape[1])
        if stackable and not self.hook_lambda.is_hooked:
            m, states = self._run_stacked(u, self.lambda_, self._lambda_key(), keep_state)
            return self._normalise(m, fused, leave_norm), states
        weight = self.hook_lambda(self.lambda_(u))
        require_fits(weight, u)
        if stackable and weight.numel() == 1:
            m, states = self._run_stacked(u, lambda: weight.reshape(()), None, keep_state)
            return self._normalise(m, fused, leave_norm), states
        first, second = (None, None) if state is None else state
        minuend, first = self.minuend(u, first, valid, fused=fused, keep_state=keep_state)
        subtrahend, second = self.subtrahend(u, second, valid, fused=fused, keep_state=keep_state)
        minuend, subtrahend = self._branch_out("minuend", minuend), self._branch_out("subtrahend", subtrahend)
        states = BranchStates(first, second) if keep_state else None
        return self._combine(minuend, subtrahend, weight, fused, leave_norm), states

    def _can_stack(self, n_pos: int) -> bool:
        if self.stack is None or not self.stack.serves(n_pos):
            return False
        return not any(point.is_hooked for point in self._branch_points)

    def _run_stacked(
        self, u: Tensor, lambda_: Callable[[], Tensor], lambda_key: tuple[object, ...] | None, keep_state: bool
    ) -> tuple[Tensor, BranchStates | None]:
        assert self.stack is not None
        branches = cast(tuple[Mamba2Mixer, Mamba2Mixer], (self.minuend, self.subtrahend))
        return self.stack.run(*branches, lambda_, u, lambda_key=lambda_key, keep_state=keep_state)

    def _lambda_key(self) -> tuple[object, ...] | None:
        return parameter_versions(list(self._lambda_parameters().values()))

    def _lambda_parameters(self) -> dict[str, nn.Parameter]:
        return {name: getattr(self, name) for name in self.form.parameters}

    def _branch_out(self, branch: Branch, value: Tensor) -> Tensor:
        return self.get_submodule(f"{branch}.hook_out")(value)

    def _combine(
        self, minuend: Tensor, subtrahend: Tensor, weight: Tensor, fused: bool, leave_norm: bool
    ) -> Tensor | OpenNorm:
        if self.cfg.normalisation == "pre":
            minuend = self.subnorm.get_submodule("minuend")(minuend, fused=fused)
            subtrahend = self.subnorm.get_submodule("subtrahend")(subtrahend, fused=fused)
        m = upcast(minuend) - self.per_output(weight) * upcast(subtrahend)
        return self._normalise(m.to(minuend.dtype), fused, leave_norm)

    def _normalise(self, m: Tensor, fused: bool, leave_norm: bool) -> Tensor | OpenNorm:
        """mixer_out from the difference."""
        m = self.hook_difference(m)
        if self.cfg.normalisation == "none":
            return m
        factor = 1 - self.lambda_init
        if self.cfg.normalisation == "pre":
            return factor * m
        subnorm = cast(RMSNorm, self.subnorm)
        if fused and not subnorm.is_hooked:
            # The kernel applies the factor too, which spares a pass over m.
            open_norm = OpenNorm(m, triton_kernels.NormFirst(subnorm.weight, subnorm.eps, factor))
            return open_norm if leave_norm else open_norm.made()
        return factor * subnorm(m, fused=fused)


@dataclass(frozen=True)
class OpenNorm:
    """mixer_out before its sub-norm is made: the difference, and the norm that is to be applied to it."""

    m: Tensor
    norm: triton_kernels.NormFirst

    def made(self) -> Float[Tensor, "batch pos d_model"]:
        return kernels.rms_norm(self.m, self.norm.weight, self.norm.eps, gain=self.norm.gain)


def require_fits(weight: Tensor, u: Tensor) -> None:
    """Broadcasting a lambda for more samples than there are would silently make as many outputs."""
    if weight.ndim and any(given not in (1, needed) for given, needed in zip(weight.shape, u.shape[:2], strict=False)):
        raise ValueError(
            f"lambda was replaced by shape {tuple(weight.shape)}, for {u.shape[0]} samples of {u.shape[1]} positions: "
            "give a scalar, [batch, 1, 1] or [batch, pos, 1]."
        )
