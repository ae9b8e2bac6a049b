"""The differential mixer: one mixer minus lambda times another, over any kind of mixer.

m = M1(u) - lambda M2(u)                                 Diff-Mamba, arXiv 2507.06204, Eqs. 18-20
mixer_out = (1 - lambda_init) N(m)                       normalisation "post" (published checkpoints)
mixer_out = (1 - lambda_init) (N1(M1(u)) - lambda N2(M2(u)))               "pre" (the paper's text)
mixer_out = m                                                              "none"

lambda = sigmoid(sum(lambda_q1)) + lambda_init           "sigmoid_sum", Eq. 16; lambda_q1 has d_model entries
lambda = exp(q1.k1) - exp(q2.k2) + lambda_init           "exp_dot", Eq. 10; d_state entries each
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffmamba_interp.config import DifferentialConfig, lambda_init
from diffmamba_interp.hook_names import BRANCHES, Branch
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.models.mamba2_mixer import MixerState
from diffmamba_interp.models.rms_norm import RMSNorm
from diffmamba_interp.ops.precision import upcast

SMALL_LAMBDA_STD = 0.1
"""Standard deviation of sum(lambda_q1), or of each dot product's terms, in a new model with `"small"`."""

LAMBDA_PARAMETERS = {
    "sigmoid_sum": ("lambda_q1",),
    "exp_dot": ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"),
}

BranchStates = tuple[MixerState, MixerState]


class DifferentialMixer(nn.Module):
    """Two branches and the scalar lambda; the branches are whole mixers with their own in_proj and out_proj.

    make_branch: builds one mixer, which maps (u, state, valid) to (output, state) as `Mamba2Mixer` does.
    block: 0-based index in the whole model, which fixes `lambda_init`.
    d_lambda: entries of each lambda parameter.
    """

    def __init__(
        self, make_branch: Callable[[], nn.Module], cfg: DifferentialConfig, *, block: int, d_model: int, d_lambda: int
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.lambda_init = lambda_init(block)
        self.hook_lambda = HookPoint(broadcast=True)
        self.minuend = make_branch()
        self.subtrahend = make_branch()
        self.minuend.add_module("hook_out", HookPoint())
        self.subtrahend.add_module("hook_out", HookPoint())
        self.hook_difference = HookPoint()
        for name in LAMBDA_PARAMETERS[cfg.lambda_form]:
            self.register_parameter(name, nn.Parameter(torch.empty(d_lambda)))
        if cfg.normalisation == "post":
            self.subnorm: nn.Module = RMSNorm(d_model, cfg.subnorm_eps)
        elif cfg.normalisation == "pre":
            self.subnorm = nn.ModuleDict({branch: RMSNorm(d_model, cfg.subnorm_eps) for branch in BRANCHES})
        if self.lambda_q1.device.type != "meta":
            self.initialise_lambda()

    @torch.no_grad()
    def initialise_lambda(self) -> None:
        """`"small"`: zero mean and a spread that leaves the sigmoid open; `"published"`: N(0, 1) per entry."""
        for name in LAMBDA_PARAMETERS[self.cfg.lambda_form]:
            parameter = getattr(self, name)
            std = 1.0 if self.cfg.lambda_initialisation == "published" else SMALL_LAMBDA_STD / len(parameter) ** 0.5
            parameter.normal_(0.0, std)

    def lambda_(self) -> Float[Tensor, ""]:
        """lambda from its parameters, without hooks, in float32 or wider."""
        return lambda_from_parameters(
            {name: getattr(self, name) for name in LAMBDA_PARAMETERS[self.cfg.lambda_form]}, self.lambda_init
        )

    def forward(
        self,
        u: Float[Tensor, "batch pos d_model"],
        state: BranchStates | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], BranchStates]:
        """mixer_out and both branches' states after the last valid position; arguments as in `Mamba2Mixer`."""
        first, second = (None, None) if state is None else state
        weight = self.hook_lambda(self.lambda_())
        minuend, first = self.minuend(u, first, valid)
        subtrahend, second = self.subtrahend(u, second, valid)
        minuend, subtrahend = self._branch_out("minuend", minuend), self._branch_out("subtrahend", subtrahend)
        return self._combine(minuend, subtrahend, weight), (first, second)

    def _branch_out(self, branch: Branch, value: Tensor) -> Tensor:
        return self.get_submodule(f"{branch}.hook_out")(value)

    def _combine(self, minuend: Tensor, subtrahend: Tensor, weight: Tensor) -> Tensor:
        if self.cfg.normalisation == "pre":
            minuend = self.subnorm.get_submodule("minuend")(minuend)
            subtrahend = self.subnorm.get_submodule("subtrahend")(subtrahend)
        difference = upcast(minuend) - weight * upcast(subtrahend)
        difference = self.hook_difference(difference.to(minuend.dtype))
        if self.cfg.normalisation == "none":
            return difference
        if self.cfg.normalisation == "post":
            difference = self.subnorm(difference)
        return (1 - self.lambda_init) * difference


def lambda_from_parameters(parameters: dict[str, Tensor], init: float) -> Float[Tensor, ""]:
    """lambda from the tensors of either form, by their names (see the head of this file)."""
    values = {name: upcast(value) for name, value in parameters.items()}
    if set(values) == set(LAMBDA_PARAMETERS["sigmoid_sum"]):
        return torch.sigmoid(values["lambda_q1"].sum()) + init
    first = torch.exp(values["lambda_q1"] @ values["lambda_k1"])
    second = torch.exp(values["lambda_q2"] @ values["lambda_k2"])
    return first - second + init
