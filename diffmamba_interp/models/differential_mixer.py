"""The differential mixer: one mixer minus lambda times another, over any kind of mixer.

m = M1(u) - lambda M2(u)                                 Diff-Mamba, arXiv 2507.06204, Eqs. 18-20
mixer_out = (1 - lambda_init) N(m)                       normalisation "post" (published checkpoints)
mixer_out = (1 - lambda_init) (N1(M1(u)) - lambda N2(M2(u)))               "pre" (the paper's text)
mixer_out = m                                                              "none"

lambda = sigmoid(sum(lambda_q1)) + lambda_init           "sigmoid_sum", Eq. 16; lambda_q1 has d_model entries
lambda = exp(q1.k1) - exp(q2.k2) + lambda_init           "exp_dot", Eq. 10; d_state entries each
lambda[t] = sigmoid(w.u[t] + b) + lambda_init            "token_gate", one for each token: a departure from the paper,
                                                         after a popular summary of it; u is the block's input, normed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffmamba_interp.config import DifferentialConfig, lambda_init
from diffmamba_interp.hook_names import BRANCHES, Branch
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.models.branch_stack import BranchStack, parameter_versions
from diffmamba_interp.models.mamba2_mixer import Mamba2Mixer
from diffmamba_interp.models.mixer import BranchStates, Mixer
from diffmamba_interp.models.rms_norm import RMSNorm
from diffmamba_interp.ops import fused as kernels
from diffmamba_interp.ops.precision import upcast

SMALL_LAMBDA_STD = 0.1
"""Standard deviation of sum(lambda_q1), or of each dot product's terms, in a new model with `"small"`."""

LAMBDA_PARAMETERS = {
    "sigmoid_sum": ("lambda_q1",),
    "exp_dot": ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"),
    "token_gate": ("lambda_w", "lambda_b"),
}


class DifferentialMixer(nn.Module):
    """Two branches and the scalar lambda; the branches are whole mixers with their own in_proj and out_proj.

    make_branch: builds one mixer, a `Mixer`.
    block: 0-based index in the whole model, which fixes `lambda_init`.
    d_lambda: entries of each lambda parameter.
    stack: runs both branches in one pass of the GPU kernels; None for branches that cannot be stacked.
    """

    def __init__(
        self,
        make_branch: Callable[[], nn.Module],
        cfg: DifferentialConfig,
        *,
        block: int,
        d_model: int,
        d_lambda: int,
        stack: BranchStack | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.stack = stack if cfg.normalisation != "pre" and self.has_one_lambda else None
        self.lambda_init = lambda_init(block)
        self.hook_lambda = HookPoint(broadcast=True)
        self.minuend = make_branch()
        self.subtrahend = make_branch()
        self.minuend.add_module("hook_out", HookPoint())
        self.subtrahend.add_module("hook_out", HookPoint())
        modules = (*self.minuend.modules(), *self.subtrahend.modules())
        self._branch_points = tuple(module for module in modules if isinstance(module, HookPoint))
        self.hook_difference = HookPoint()
        for name in LAMBDA_PARAMETERS[cfg.lambda_form]:
            self.register_parameter(name, nn.Parameter(torch.empty(() if name == "lambda_b" else d_lambda)))
        if cfg.normalisation == "post":
            self.subnorm: nn.Module = RMSNorm(d_model, cfg.subnorm_eps)
        elif cfg.normalisation == "pre":
            self.subnorm = nn.ModuleDict({branch: RMSNorm(d_model, cfg.subnorm_eps) for branch in BRANCHES})
        if next(iter(self._lambda_parameters().values())).device.type != "meta":
            self.initialise_lambda()

    @torch.no_grad()
    def initialise_lambda(self) -> None:
        """`"small"`: zero mean and a spread that leaves the sigmoid open; `"published"`: N(0, 1) per entry."""
        for name in LAMBDA_PARAMETERS[self.cfg.lambda_form]:
            parameter = getattr(self, name)
            small = SMALL_LAMBDA_STD / parameter.numel() ** 0.5
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
        branches = cast(tuple[Mixer, Mixer], (self.minuend, self.subtrahend))
        return [weight for branch in branches for weight in branch.writing_weights()]

    @property
    def has_one_lambda(self) -> bool:
        """Whether lambda is one number, which `lambda_()` tells without an input."""
        return self.cfg.lambda_form != "token_gate"

    def lambda_(self, u: Float[Tensor, "batch pos d_model"] | None = None) -> Tensor:
        """lambda without hooks, in float32 or wider: a scalar, or of a token gate, which needs `u`, [batch, pos, 1]."""
        if self.has_one_lambda:
            return lambda_from_parameters(self._lambda_parameters(), self.lambda_init)
        if u is None:
            raise ValueError("lambda of a token gate is one for each token: give u, the mixer's input.")
        weight, bias = (upcast(parameter) for parameter in self._lambda_parameters().values())
        score = upcast(u) @ weight + bias
        return torch.sigmoid(score)[..., None] + self.lambda_init

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
        _require_fits(weight, u)
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
        return {name: getattr(self, name) for name in LAMBDA_PARAMETERS[self.cfg.lambda_form]}

    def _branch_out(self, branch: Branch, value: Tensor) -> Tensor:
        return self.get_submodule(f"{branch}.hook_out")(value)

    def _combine(
        self, minuend: Tensor, subtrahend: Tensor, weight: Tensor, fused: bool, leave_norm: bool
    ) -> Tensor | OpenNorm:
        if self.cfg.normalisation == "pre":
            minuend = self.subnorm.get_submodule("minuend")(minuend, fused=fused)
            subtrahend = self.subnorm.get_submodule("subtrahend")(subtrahend, fused=fused)
        m = upcast(minuend) - weight * upcast(subtrahend)
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
            open_norm = OpenNorm(m, kernels.NormFirst(subnorm.weight, subnorm.eps, factor))
            return open_norm if leave_norm else open_norm.made()
        return factor * subnorm(m, fused=fused)


@dataclass(frozen=True)
class OpenNorm:
    """mixer_out before its sub-norm is made: the difference, and the norm that is to be applied to it."""

    m: Tensor
    norm: kernels.NormFirst

    def made(self) -> Float[Tensor, "batch pos d_model"]:
        return kernels.rms_norm(self.m, self.norm.weight, self.norm.eps, gain=self.norm.gain)


def _require_fits(weight: Tensor, u: Tensor) -> None:
    """Broadcasting a lambda for more samples than there are would silently make as many outputs."""
    if weight.ndim and any(given not in (1, needed) for given, needed in zip(weight.shape, u.shape[:2], strict=False)):
        raise ValueError(
            f"lambda was replaced by shape {tuple(weight.shape)}, for {u.shape[0]} samples of {u.shape[1]} positions: "
            "give a scalar, [batch, 1, 1] or [batch, pos, 1]."
        )


def lambda_from_parameters(parameters: Mapping[str, Tensor], init: float) -> Float[Tensor, ""]:
    """lambda from the tensors of a form that has one for all tokens, by their names (see the head of this file)."""
    values = {name: upcast(value) for name, value in parameters.items()}
    if set(values) == set(LAMBDA_PARAMETERS["sigmoid_sum"]):
        return torch.sigmoid(values["lambda_q1"].sum()) + init
    first = torch.exp(values["lambda_q1"] @ values["lambda_k1"])
    second = torch.exp(values["lambda_q2"] @ values["lambda_k2"])
    return first - second + init
