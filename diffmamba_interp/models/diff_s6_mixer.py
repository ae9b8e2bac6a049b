"""Diff-S6: one mixer with two scans, whose outputs are subtracted inside it.

y1 = S1(u),  y2 = S2(u)                                  the scans; each has its own dt, A, B, C and D
subtract_at "gated":   mixer_out = out_proj(d(gate(y1, z1), gate(y2, z2)))
subtract_at "scan":    mixer_out = out_proj(gate(d(y1, y2), z1))

d(a, b) = (1 - lambda_init) N(a - lambda b)              normalisation "post"
        = (1 - lambda_init) (N1(a) - lambda N2(b))       "pre"
        = a - lambda b                                   "none"

gate: a Mamba-2 mixer's inner_norm(y * SiLU(z)), which leaves nothing of a factor that all of d_inner have, such as
1 - lambda_init; a Mamba-1 mixer's y * SiLU(z). What both branches use is the minuend's, as the published code has it:
over Mamba-2 conv1d, the weight of inner_norm and out_proj, while each branch has an in_proj of its own; over Mamba-1
in_proj, too. So there z1 = z2, and without a norm the two places are one: with lambda "one" that is the published
Diff-S6 over Mamba-1. The published one over Mamba-2 is subtract_at "gated", lambda "sigmoid" and normalisation "post".
"scan" is what the paper (arXiv 2507.06204) draws in Fig. 1.

Every branch is as wide as a plain mixer. `{branch}.hook_out`, hook_difference and the sub-norm have d_inner channels,
and with "scan" the subtrahend has no z, no inner norm and no hook_gated: the minuend's are of the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.hook_names import Branch
from diffmamba_interp.models.differential_mixer import DifferentialMixer, FrozenBranch, require_fits
from diffmamba_interp.models.mixer import BranchStates, MixerState, ScanMixer, Scanned, new_mixer


class DiffS6Mixer(DifferentialMixer):
    """Two scans with one convolution and one output projection; lambda and norms as in Diff-Mamba.

    block: 0-based index in the whole model, which fixes `lambda_init`.
    """

    def __init__(self, cfg: HookedMambaConfig, *, block: int) -> None:
        assert cfg.differential is not None
        self.at_gated = cfg.differential.subtract_at == "gated"

        def make_branch(branch: Branch) -> nn.Module:
            sizes = cfg.mixer_sizes("differential")
            if branch == "minuend":
                return new_mixer(cfg, sizes)
            mixer = new_mixer(cfg, replace(sizes, has_gate=self.at_gated))
            _remove(mixer, cast(ScanMixer, mixer).shared_parts)
            return mixer

        super().__init__(make_branch, cfg.differential, block=block)

    def writing_weights(self) -> list[Tensor]:
        """The parameters that set the size of what the mixer adds to the residual stream."""
        return self._scans[0].writing_weights()

    def per_output(self, lambda_: Tensor) -> Tensor:
        """lambda so that it broadcasts against a branch's `hook_out`: that of a head for each of its channels."""
        sizes = self._scans[0].sizes
        if lambda_.ndim < 3 or lambda_.shape[-1] != sizes.n_heads:
            return lambda_
        return lambda_.repeat_interleave(sizes.d_head, dim=-1)

    def forward(
        self,
        u: Float[Tensor, "batch pos d_model"],
        state: BranchStates | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
        *,
        fused: bool = False,
        keep_state: bool = True,
        leave_norm: bool = False,
    ) -> tuple[Float[Tensor, "batch pos d_model"], BranchStates | None]:
        """mixer_out and both scans' states after the last valid position; arguments as in `Mixer`.

        The norm lies before out_proj, so that nobody else can make it, whatever `leave_norm` says.
        """
        weight = self.hook_lambda(self.lambda_(u))
        require_fits(weight, u)
        minuend, subtrahend = self._scans
        fused = fused and minuend.kernels_serve(keep_state) and subtrahend.kernels_serve(keep_state)
        shared: Any = minuend
        projected = shared.in_proj(u)
        other = projected if "in_proj" in subtrahend.shared_parts else cast(Any, subtrahend).in_proj(u)
        first_state, second_state = (None, None) if state is None else state

        def scanned(mixer: ScanMixer, projected: Tensor, state: MixerState | None) -> Scanned:
            projected = mixer.hook_in_proj(projected)
            return mixer.scan(projected, state, valid, lender=minuend, fused=fused, keep_state=keep_state)

        def gated(mixer: ScanMixer, y: Tensor, z: Tensor | None) -> Tensor:
            assert z is not None
            return mixer.gate(y, z, lender=minuend, fused=fused)

        first = scanned(minuend, projected, first_state)
        second = scanned(subtrahend, other, second_state)
        a, b = first.y.flatten(2), second.y.flatten(2)
        if self.at_gated:
            a, b = gated(minuend, a, first.z), gated(subtrahend, b, second.z)
        a, b = self._branch_out("minuend", a), self._branch_out("subtrahend", b)
        inner = cast(Tensor, self._combine(a, b, weight, fused, leave_norm=False))
        if not self.at_gated:
            inner = gated(minuend, inner, first.z)
        return shared.out_proj(inner), _states(first, second)

    def freeze_branch(self, branch: Branch, seen: Callable[[str], Tensor]) -> FrozenBranch:
        """As in Diff-Mamba, but the norm on the difference is a factor of the gate, and out_proj's bias is counted
        with the minuend."""
        minuend, subtrahend = self._scans
        mixer = minuend if branch == "minuend" else subtrahend
        frozen = mixer.freeze(lambda point: seen(f"{branch}.{point}"), lender=minuend)
        gate = frozen.gate if self.at_gated else minuend.freeze(lambda point: seen(f"minuend.{point}")).gate
        gain = self._norm_gain(branch, seen)
        if gain is not None:
            gate = gate * gain.unflatten(-1, gate.shape[2:])
        frozen = replace(frozen, gate=gate, out_bias=frozen.out_bias if branch == "minuend" else None)
        return FrozenBranch(mixer=frozen, out_gain=None, out=seen(f"{branch}.hook_out"))

    @property
    def _width(self) -> int:
        return self._scans[0].sizes.d_inner

    @property
    def _scans(self) -> tuple[ScanMixer, ScanMixer]:
        return cast(tuple[ScanMixer, ScanMixer], self._branches)


def _remove(mixer: nn.Module, names: tuple[str, ...]) -> None:
    """Take parts out of a mixer that another one has for it."""
    for name in names:
        owner, _, part = name.rpartition(".")
        if owner == "" or owner in dict(mixer.named_modules()):
            delattr(mixer.get_submodule(owner), part)


def _states(first: Scanned, second: Scanned) -> BranchStates | None:
    if first.state is None or second.state is None:
        return None
    return BranchStates(first.state, second.state)
