"""The Mamba-2 mixer (SSD, arXiv 2405.21060) with every intermediate value as a hook point.

    [z | x | B | C | dt] = in_proj(u)                   u: block input after its norm
    c = conv1d(x|B|C) + bias                            depthwise, causal, width d_conv
    x|B|C = SiLU(c);  dt = clamp(softplus(dt + dt_bias));  A = -exp(A_log) per head
    write[t] = dt[t] x[t] B[t]^T
    state[t] = exp(dt[t] A) state[t-1] + write[t]
    y[t] = state[t] C[t] + D x[t]
    o = inner_norm(y * SiLU(z));  out = out_proj(o)

Head h reads group h // (n_heads / n_groups), and the norm is taken per group, as in the GPU kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.mixer_sizes import Mamba2Sizes
from diffmamba_interp.models.mixer import (
    FrozenMixer,
    MixerState,
    Scanned,
    both_replaced,
    next_conv_state,
    register_mixer,
)
from diffmamba_interp.models.rms_norm import GatedRMSNorm
from diffmamba_interp.ops import fused as kernels
from diffmamba_interp.ops import reference
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.ops.ssd_attention import FrozenSSD
from diffmamba_interp.ops.writes import WriteChange, change_of_writes, ssd_writes

UNLIMITED = (0.0, math.inf)

REFERENCE_CHUNK_SIZE = 64
"""Positions per chunk of the reference scan: the fastest on a CPU; the model's own chunk_size is for GPUs."""


@dataclass(frozen=True)
class ScanInputs:
    """The inputs of the scan; shapes as in `ops.reference`. log_decay is None where the kernels make dt A of it."""

    x: Tensor
    dt: Tensor
    log_decay: Tensor | None
    B: Tensor
    C: Tensor


@register_mixer("mamba2")
class Mamba2Mixer(nn.Module):
    """One Mamba-2 mixer: a plain block's, or one branch of a differential block."""

    frozen_points: tuple[str, ...] = (
        *("hook_in_proj", "hook_z", "hook_conv", "hook_x", "hook_B", "hook_C", "hook_dt", "hook_log_decay"),
        "inner_norm.hook_scale",
    )
    gated_point = "inner_norm.hook_gated"
    shared_parts = ("conv1d", "inner_norm.weight", "out_proj")

    def __init__(self, cfg: HookedMambaConfig, sizes: Mamba2Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.dt_limit = cfg.dt_limit
        self.in_proj = nn.Linear(sizes.d_model, sizes.d_in_proj, bias=cfg.proj_bias)
        self.conv1d = nn.Conv1d(
            sizes.d_conv_channels, sizes.d_conv_channels, sizes.d_conv, groups=sizes.d_conv_channels, bias=cfg.conv_bias
        )
        self.dt_bias = nn.Parameter(torch.empty(sizes.n_heads))
        self.A_log = nn.Parameter(torch.empty(sizes.n_heads))
        self.D = nn.Parameter(torch.empty(sizes.n_heads))
        self.hook_in_proj = HookPoint()
        if sizes.has_gate:
            self.hook_z = HookPoint()
        self.hook_conv = HookPoint()
        self.hook_dt = HookPoint()
        self.hook_x = HookPoint()
        self.hook_log_decay = HookPoint()
        self.hook_B = HookPoint()
        self.hook_C = HookPoint()
        self.hook_write = HookPoint()
        self.hook_hidden_attention = HookPoint()
        self.hook_state = HookPoint()
        self.hook_ssm_y = HookPoint()
        if sizes.has_gate:
            self.inner_norm = GatedRMSNorm(sizes.d_inner, sizes.n_groups, cfg.norm_eps)
        else:
            self.frozen_points = tuple(p for p in self.frozen_points if p not in ("hook_z", "inner_norm.hook_scale"))
        self.out_proj = nn.Linear(sizes.d_inner, sizes.d_model, bias=cfg.proj_bias)
        points = [module for module in self.modules() if isinstance(module, HookPoint)]
        self._inner_points = tuple(point for point in points if point is not self.hook_in_proj)
        if self.A_log.device.type != "meta":
            self.initialise(cfg)

    @torch.no_grad()
    def initialise(self, cfg: HookedMambaConfig) -> None:
        """Mamba-2's initialisation: A = 1..n_heads, dt log-uniform in [dt_min, dt_max], D = 1."""
        heads = torch.arange(1, self.sizes.n_heads + 1, dtype=torch.float32)
        self.A_log.copy_(heads.log())
        self.D.fill_(1.0)
        low, high = math.log(cfg.dt_min), math.log(cfg.dt_max)
        dt = torch.exp(torch.rand(self.sizes.n_heads) * (high - low) + low).clamp(min=cfg.dt_floor)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def writing_weights(self) -> list[Tensor]:
        """The parameters that set the size of what the mixer adds to the residual stream."""
        return [self.out_proj.weight]

    def forward(
        self,
        u: Float[Tensor, "batch pos d_model"],
        state: MixerState | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
        *,
        fused: bool = False,
        keep_state: bool = True,
    ) -> tuple[Float[Tensor, "batch pos d_model"], MixerState | None]:
        """The mixer's output, and its state after the last valid position (None unless `keep_state`).

        `state`: where an earlier call ended; None starts from zeros. `valid`: False on right padding, whose
        positions then leave the state as it is. `fused`: run the GPU kernels, unless a hook needs a value that
        they never make (`hook_state`, `hook_hidden_attention`), which takes the reference path for this call.
        """
        fused = fused and self.kernels_serve(keep_state)
        projected = self.hook_in_proj(self.in_proj(u))
        if fused and self._runs_whole(projected, state, valid, keep_state):
            return run_whole(projected, self.parameters_by_name(), self, keep_state)
        y, z, state = self.scan(projected, state, valid, fused=fused, keep_state=keep_state)
        assert z is not None
        return self.out_proj(self.gate(y.flatten(-2), z, fused=fused)), state

    def kernels_serve(self, keep_state: bool) -> bool:
        """Whether no hook asks for a value that they never make."""
        return not (self.hook_state.is_hooked or self.hook_hidden_attention.is_hooked)

    def scan(
        self,
        projected: Float[Tensor, "batch pos d_in_proj"],
        state: MixerState | None,
        valid: Bool[Tensor, "batch pos"] | None,
        *,
        lender: Mamba2Mixer | None = None,
        fused: bool,
        keep_state: bool,
    ) -> Scanned:
        """y, z and the state after the last valid position; see `ScanMixer`."""
        z, conv_in, dt = self.split_projection(projected)
        gate = self.hook_z(z.unflatten(-1, (-1, self.sizes.d_head))) if self.sizes.has_gate else None
        conv1d = (lender or self).conv1d
        inputs = self._scan_inputs(self._convolve(conv_in, conv1d, state, fused), dt, valid, fused)
        y, ssm = self._scan(inputs, None if state is None else state.ssm)
        y = self.hook_ssm_y(y)
        if not keep_state:
            return Scanned(y, gate, None)
        return Scanned(y, gate, MixerState(conv=next_conv_state(conv_in, state, valid, self.sizes.d_conv), ssm=ssm))

    def gate(
        self,
        y: Float[Tensor, "batch pos d_inner"],
        z: Float[Tensor, "batch pos head d_head"],
        *,
        lender: Mamba2Mixer | None = None,
        fused: bool,
    ) -> Float[Tensor, "batch pos d_inner"]:
        """inner_norm(y * SiLU(z)); see `ScanMixer`."""
        return self.inner_norm(y, z.flatten(-2), weight=(lender or self).inner_norm.weight, fused=fused)

    def freeze(self, seen: Callable[[str], Tensor], lender: Mamba2Mixer | None = None) -> FrozenMixer:
        """gate[t] = SiLU(z[t]) w_norm / rms(y[t] SiLU(z[t])), the root mean square as it was."""
        sizes, parts = self.sizes, lender or self
        bias, out_bias = parts.conv1d.bias, parts.out_proj.bias
        conv, x_in = seen("hook_conv"), seen("hook_in_proj")[..., sizes.convolved]
        x = seen("hook_x")

        def by_head(value: Tensor) -> Tensor:
            return value[..., : sizes.d_inner].unflatten(-1, (-1, sizes.d_head))

        gate = torch.ones_like(x)
        if sizes.has_gate:
            norm = upcast(parts.inner_norm.weight).unflatten(0, (sizes.n_groups, -1))
            gain = (norm / seen("inner_norm.hook_scale")[..., None]).flatten(2)
            gate = F.silu(seen("hook_z")) * by_head(gain)
        return FrozenMixer(
            scan=FrozenSSD(seen("hook_dt"), seen("hook_log_decay"), seen("hook_B"), seen("hook_C"), upcast(self.D)),
            x_in=by_head(x_in),
            conv=by_head(conv),
            x=x,
            gate=gate,
            conv_weight=upcast(parts.conv1d.weight[: sizes.d_inner, 0]),
            conv_bias=None if bias is None else upcast(bias[: sizes.d_inner]),
            out_weight=upcast(parts.out_proj.weight),
            out_bias=None if out_bias is None else upcast(out_bias),
        )

    def _runs_whole(self, projected: Tensor, state: MixerState | None, valid: Tensor | None, keep_state: bool) -> bool:
        """Whether one kernel call serves all after in_proj: nothing to look at inside, nothing to start from."""
        if state is not None or (valid is not None and keep_state) or any(p.is_hooked for p in self._inner_points):
            return False
        return kernels.serves_whole_mixer(projected.shape[1], self.sizes.d_in_proj, self.sizes.d_conv)

    def parameters_by_name(self) -> dict[str, Tensor]:
        """`dict(self.named_parameters())`, spelt out: walking the modules would cost more than the kernels' launch."""
        named = {
            "in_proj.weight": self.in_proj.weight,
            "in_proj.bias": self.in_proj.bias,
            "conv1d.weight": self.conv1d.weight,
            "conv1d.bias": self.conv1d.bias,
            "dt_bias": self.dt_bias,
            "A_log": self.A_log,
            "D": self.D,
            "inner_norm.weight": self.inner_norm.weight,
            "out_proj.weight": self.out_proj.weight,
            "out_proj.bias": self.out_proj.bias,
        }
        return {name: parameter for name, parameter in named.items() if parameter is not None}

    @property
    def A(self) -> Float[Tensor, " head"]:
        """-exp(A_log), per head, in float32 or wider."""
        return -torch.exp(upcast(self.A_log))

    def split_projection(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z | x, B, C before the convolution | dt before its bias."""
        sizes = self.sizes
        return torch.split(projected, [sizes.d_gate, sizes.d_conv_channels, sizes.n_heads], dim=-1)  # type: ignore[return-value]

    def _convolve(self, conv_in: Tensor, conv1d: nn.Conv1d, state: MixerState | None, fused: bool) -> Tensor:
        """x | B | C after convolution and SiLU; the kernel does both at once unless a hook looks between."""
        weight = conv1d.weight[:, 0]
        initial = None if state is None else state.conv
        if not fused:
            return F.silu(self.hook_conv(reference.causal_conv1d(conv_in, weight, conv1d.bias, initial)))
        if self.hook_conv.is_hooked:
            conv = kernels.causal_conv1d(conv_in, weight, conv1d.bias, initial, silu=False)
            return F.silu(self.hook_conv(conv))
        return kernels.causal_conv1d(conv_in, weight, conv1d.bias, initial, silu=True)

    def _scan_inputs(self, xBC: Tensor, dt: Tensor, valid: Tensor | None, fused: bool) -> ScanInputs:
        sizes = self.sizes
        d_bc = sizes.n_groups * sizes.d_state
        x, B, C = torch.split(xBC, [sizes.d_inner, d_bc, d_bc], dim=-1)
        dt = F.softplus(upcast(dt) + upcast(self.dt_bias))
        if self.dt_limit != UNLIMITED:
            dt = dt.clamp(*self.dt_limit)
        if valid is not None:
            dt = dt * valid[..., None]
        dt = self.hook_dt(dt)
        return ScanInputs(
            x=self.hook_x(x.unflatten(-1, (-1, sizes.d_head))),
            dt=dt,
            log_decay=self._log_decay(dt, fused),
            B=self.hook_B(B.unflatten(-1, (-1, sizes.d_state))),
            C=self.hook_C(C.unflatten(-1, (-1, sizes.d_state))),
        )

    def _log_decay(self, dt: Tensor, fused: bool) -> Tensor | None:
        """dt A where a hook or the reference needs it; None leaves it to the kernels, which know only dt and A."""
        if fused and not self.hook_log_decay.is_hooked:
            return None
        clean = dt * self.A
        log_decay = self.hook_log_decay(clean)
        return None if fused and log_decay is clean else log_decay

    def _scan(self, inputs: ScanInputs, initial: Tensor | None) -> tuple[Tensor, Tensor]:
        """The scan in the form that the hooks in force ask for; every form computes the same function."""
        x, dt, log_decay, B, C = inputs.x, inputs.dt, inputs.log_decay, inputs.B, inputs.C
        change = self._change_of_writes(inputs)
        if self.hook_state.is_hooked or self.hook_hidden_attention.is_hooked:
            return self._scan_with_hooks(inputs, initial, change)
        if log_decay is None:
            result = kernels.ssd_scan(x, dt, self.A, B, C, self.D, initial)
        else:
            result = reference.ssd_chunked(x, dt, log_decay, B, C, self.D, initial, REFERENCE_CHUNK_SIZE)
        return result if change is None else change.added_to(result, reference.expand_groups(C, x.shape[2]))

    def _change_of_writes(self, inputs: ScanInputs) -> WriteChange | None:
        """What a hook on the writes has changed; None where nobody looks, or wants a gradient there."""
        if not self.hook_write.is_hooked:
            return None
        log_decay = inputs.dt * self.A if inputs.log_decay is None else inputs.log_decay
        writes = ssd_writes(inputs.x, inputs.dt, inputs.B)
        return change_of_writes(self.hook_write, writes, torch.exp(log_decay)[..., None, None])

    def _scan_with_hooks(
        self, inputs: ScanInputs, initial: Tensor | None, change: WriteChange | None
    ) -> reference.ScanOutput:
        """The scan through all its states, through its matrix, or both."""
        x, dt, log_decay, B, C = inputs.x, inputs.dt, inputs.log_decay, inputs.B, inputs.C
        assert log_decay is not None
        result, H_replaced = None, False
        if self.hook_hidden_attention.is_hooked:
            clean = reference.hidden_attention_matrix(dt, log_decay, B, C)
            H = self.hook_hidden_attention(clean)
            H_replaced = H is not clean
            result = reference.apply_hidden_attention(H, x, dt, log_decay, B, C, self.D, initial)
            if change is not None:
                if H_replaced and change.is_edit:
                    raise both_replaced(self.hook_write, self.hook_hidden_attention)
                result = change.added_to(result, reference.expand_groups(C, x.shape[2]))
        if self.hook_state.is_hooked:
            clean = reference.ssd_states(x, dt, log_decay, B, initial)
            clean = clean if change is None else clean + change.states()
            states = self.hook_state(clean)
            if states is not clean and H_replaced:
                raise both_replaced(self.hook_state, self.hook_hidden_attention)
            if result is None or states is not clean:
                result = reference.ScanOutput(reference.read_states(states, C, x, self.D), states[:, -1])
        assert result is not None
        return result


def run_whole(
    projected: Float[Tensor, "batch pos d_in_proj"],
    parameters: Mapping[str, Tensor],
    mixer: Mamba2Mixer,
    keep_state: bool,
) -> tuple[Float[Tensor, "batch pos d_model"], MixerState | None]:
    """All of a mixer after in_proj in one kernel call, with parameters given by the names they have in `mixer`."""
    sizes = mixer.sizes
    out, ssm = kernels.whole_mixer(
        projected,
        parameters,
        d_head=sizes.d_head,
        n_groups=sizes.n_groups,
        dt_limit=mixer.dt_limit,
        eps=mixer.inner_norm.eps,
        keep_state=keep_state,
    )
    if ssm is None:
        return out, None
    _, conv_in, _ = mixer.split_projection(projected)
    return out, MixerState(conv=next_conv_state(conv_in, None, None, sizes.d_conv), ssm=ssm)
