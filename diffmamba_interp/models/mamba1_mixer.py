"""The Mamba-1 mixer (S6, arXiv 2312.00752) with every intermediate value as a hook point.

    [x | z] = in_proj(u)                                u: block input after its norm
    c = conv1d(x) + bias;  x = SiLU(c)                  depthwise, causal, width d_conv
    [dt_low | B | C] = x_proj(x)                        Falcon-Mamba: each divided by its root mean square
    dt = softplus(dt_proj(dt_low) + dt_bias);  A = -exp(A_log) per channel and state
    write[t] = dt[t] x[t] B[t]                          per channel
    state[t] = exp(dt[t] A) * state[t-1] + write[t]
    y[t] = <C[t], state[t]> + D x[t]                    per channel: each has d_state states and a dt of its own
    out = out_proj(y * SiLU(z))                         no norm after the gate

dt, B and C are made from x, so a hook that replaces `hook_x` changes them, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.mixer_sizes import Mamba1Sizes
from diffmamba_interp.models.mixer import (
    FrozenMixer,
    MixerState,
    Scanned,
    both_replaced,
    next_conv_state,
    register_mixer,
)
from diffmamba_interp.models.rms_norm import root_mean_square
from diffmamba_interp.ops import fused as kernels
from diffmamba_interp.ops import reference, selective
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.ops.selective_attention import FrozenSelective
from diffmamba_interp.ops.writes import WriteChange, change_of_writes, selective_writes


@register_mixer("mamba1")
class Mamba1Mixer(nn.Module):
    """One Mamba-1 mixer: a plain block's, or one branch of a differential block."""

    frozen_points: tuple[str, ...] = ("hook_in_proj", "hook_z", "hook_conv", "hook_x", "hook_B", "hook_C", "hook_dt")
    gated_point = "hook_gated"
    shared_parts = ("in_proj", "conv1d", "out_proj")

    def __init__(self, cfg: HookedMambaConfig, sizes: Mamba1Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.scan_norm_eps = cfg.scan_norm_eps
        self.in_proj = nn.Linear(sizes.d_model, sizes.d_in_proj, bias=cfg.proj_bias)
        self.conv1d = nn.Conv1d(sizes.d_inner, sizes.d_inner, sizes.d_conv, groups=sizes.d_inner, bias=cfg.conv_bias)
        self.x_proj = nn.Linear(sizes.d_inner, sizes.dt_rank + 2 * sizes.d_state, bias=False)
        self.dt_proj = nn.Linear(sizes.dt_rank, sizes.d_inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(sizes.d_inner, sizes.d_state))
        self.D = nn.Parameter(torch.empty(sizes.d_inner))
        self.hook_in_proj = HookPoint()
        if sizes.has_gate:
            self.hook_z = HookPoint()
        self.hook_conv = HookPoint()
        self.hook_x = HookPoint()
        self.hook_B = HookPoint()
        self.hook_C = HookPoint()
        self.hook_dt = HookPoint()
        self.hook_write = HookPoint()
        self.hook_hidden_attention = HookPoint()
        self.hook_state = HookPoint()
        self.hook_ssm_y = HookPoint()
        if sizes.has_gate:
            self.hook_gated = HookPoint()
        else:
            self.frozen_points = tuple(point for point in self.frozen_points if point != "hook_z")
        self.out_proj = nn.Linear(sizes.d_inner, sizes.d_model, bias=cfg.proj_bias)
        if self.A_log.device.type != "meta":
            self.initialise(cfg)

    @torch.no_grad()
    def initialise(self, cfg: HookedMambaConfig) -> None:
        """Mamba-1's initialisation: A = 1..d_state in every channel, dt log-uniform in [dt_min, dt_max], D = 1."""
        states = torch.arange(1, self.sizes.d_state + 1, dtype=torch.float32)
        self.A_log.copy_(states.log().expand_as(self.A_log))
        self.D.fill_(1.0)
        nn.init.uniform_(self.dt_proj.weight, -(self.sizes.dt_rank**-0.5), self.sizes.dt_rank**-0.5)
        low, high = math.log(cfg.dt_min), math.log(cfg.dt_max)
        dt = torch.exp(torch.rand(self.sizes.d_inner) * (high - low) + low).clamp(min=cfg.dt_floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def writing_weights(self) -> list[Tensor]:
        """The parameters that set the size of what the mixer adds to the residual stream."""
        return [self.out_proj.weight]

    @property
    def A(self) -> Float[Tensor, "channel d_state"]:
        """-exp(A_log), in float32 or wider."""
        return -torch.exp(upcast(self.A_log))

    def forward(
        self,
        u: Float[Tensor, "batch pos d_model"],
        state: MixerState | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
        *,
        fused: bool = False,
        keep_state: bool = True,
    ) -> tuple[Float[Tensor, "batch pos d_model"], MixerState | None]:
        """The mixer's output, and its state after the last valid position; arguments as in `Mixer`.

        The kernel's final state carries no gradient: where one is wanted, the reference runs.
        """
        fused = fused and self.kernels_serve(keep_state)
        projected = self.hook_in_proj(self.in_proj(u))
        y, z, state = self.scan(projected, state, valid, fused=fused, keep_state=keep_state)
        assert z is not None
        return self.out_proj(self.gate(y, z)), state

    def kernels_serve(self, keep_state: bool) -> bool:
        """Whether no hook asks for a value that they never make, and no gradient for that of the final state."""
        is_hooked = self.hook_state.is_hooked or self.hook_hidden_attention.is_hooked
        return not (is_hooked or (keep_state and torch.is_grad_enabled()))

    def scan(
        self,
        projected: Float[Tensor, "batch pos d_in_proj"],
        state: MixerState | None,
        valid: Bool[Tensor, "batch pos"] | None,
        *,
        lender: Mamba1Mixer | None = None,
        fused: bool,
        keep_state: bool,
    ) -> Scanned:
        """y, z and the state after the last valid position; see `ScanMixer`."""
        conv_in, z = projected.chunk(2, dim=-1)
        gate = self.hook_z(z) if self.sizes.has_gate else None
        x = self.hook_x(self._convolve(conv_in, (lender or self).conv1d, state, fused))
        dt_low, B, C = self._project(x)
        B, C = self.hook_B(B), self.hook_C(C)
        y, ssm = self._scan(x, dt_low, B, C, None if state is None else state.ssm, valid, fused)
        y = self.hook_ssm_y(y)
        if not keep_state:
            return Scanned(y, gate, None)
        return Scanned(y, gate, MixerState(conv=next_conv_state(conv_in, state, valid, self.sizes.d_conv), ssm=ssm))

    def gate(
        self,
        y: Float[Tensor, "batch pos channel"],
        z: Float[Tensor, "batch pos channel"],
        *,
        lender: Mamba1Mixer | None = None,
        fused: bool = False,
    ) -> Float[Tensor, "batch pos channel"]:
        """y * SiLU(z), of no parameters and on no kernel; see `ScanMixer`."""
        return self.hook_gated((upcast(y) * F.silu(upcast(z))).to(y.dtype))

    def freeze(self, seen: Callable[[str], Tensor], lender: Mamba1Mixer | None = None) -> FrozenMixer:
        """gate[t] = SiLU(z[t]); every channel is a head of one channel."""
        parts = lender or self
        bias, out_bias = parts.conv1d.bias, parts.out_proj.bias
        x = seen("hook_x")
        return FrozenMixer(
            scan=FrozenSelective(seen("hook_dt"), self.A, seen("hook_B"), seen("hook_C"), self.D),
            x_in=seen("hook_in_proj")[..., : self.sizes.d_inner, None],
            conv=seen("hook_conv")[..., None],
            x=x[..., None],
            gate=(F.silu(seen("hook_z")) if self.sizes.has_gate else torch.ones_like(x))[..., None],
            conv_weight=upcast(parts.conv1d.weight[:, 0]),
            conv_bias=None if bias is None else upcast(bias),
            out_weight=upcast(parts.out_proj.weight),
            out_bias=None if out_bias is None else upcast(out_bias),
        )

    def _convolve(self, conv_in: Tensor, conv1d: nn.Conv1d, state: MixerState | None, fused: bool) -> Tensor:
        """x after convolution and SiLU; the kernel does both at once unless a hook looks between."""
        weight, bias = conv1d.weight[:, 0], conv1d.bias
        initial = None if state is None else state.conv
        if not fused:
            return F.silu(self.hook_conv(reference.causal_conv1d(conv_in, weight, bias, initial)))
        if self.hook_conv.is_hooked:
            return F.silu(self.hook_conv(kernels.causal_conv1d(conv_in, weight, bias, initial, silu=False)))
        return kernels.causal_conv1d(conv_in, weight, bias, initial, silu=True)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dt before its projection, B and C, normalised where the model does so."""
        sizes = self.sizes
        parts = torch.split(self.x_proj(x), [sizes.dt_rank, sizes.d_state, sizes.d_state], dim=-1)
        if self.scan_norm_eps is not None:
            wide = [upcast(part) for part in parts]
            parts = tuple((part / root_mean_square(part, self.scan_norm_eps)).to(x.dtype) for part in wide)
        return parts  # type: ignore[return-value]

    def _scan(
        self,
        x: Tensor,
        dt_low: Tensor,
        B: Tensor,
        C: Tensor,
        initial: Tensor | None,
        valid: Tensor | None,
        fused: bool,
    ) -> tuple[Tensor, Tensor]:
        """The scan in the form that the hooks in force ask for; every form computes the same function."""
        dt, bias = F.linear(dt_low, self.dt_proj.weight), self.dt_proj.bias
        if fused and valid is None and not (self.hook_dt.is_hooked or self.hook_write.is_hooked):
            return kernels.selective_scan(x, dt, self.A, B, C, self.D, initial, dt_bias=bias)
        dt = F.softplus(upcast(dt) + upcast(bias))
        dt = self.hook_dt(dt if valid is None else dt * valid[..., None])
        change = self._change_of_writes(x, dt, B)
        if self.hook_state.is_hooked or self.hook_hidden_attention.is_hooked:
            return self._scan_with_hooks(x, dt, B, C, initial, change)
        scan = kernels.selective_scan if fused else selective.selective_chunked
        result = scan(x, dt, self.A, B, C, self.D, initial)
        return result if change is None else change.added_to(result, C)

    def _change_of_writes(self, x: Tensor, dt: Tensor, B: Tensor) -> WriteChange | None:
        """What a hook on the writes has changed; None where nobody looks, or wants a gradient there."""
        if not self.hook_write.is_hooked:
            return None
        return change_of_writes(self.hook_write, selective_writes(x, dt, B), torch.exp(dt[..., None] * self.A))

    def _scan_with_hooks(
        self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, initial: Tensor | None, change: WriteChange | None
    ) -> reference.ScanOutput:
        """The scan through all its states, through the matrix of every channel, or both."""
        states, replaced = None, change is not None and change.is_edit
        culprit = self.hook_write
        if self.hook_state.is_hooked:
            clean = selective.selective_states(x, dt, self.A, B, initial)
            clean = clean if change is None else clean + change.states()
            states = self.hook_state(clean)
            if states is not clean:
                replaced, culprit = True, self.hook_state
        if states is None:
            y, final = selective.selective_chunked(x, dt, self.A, B, C, self.D, initial)
            if change is not None:
                y, final = change.added_to(reference.ScanOutput(y, final), C)
        else:
            y, final = selective.read_selective_states(states, C, x, self.D), states[:, -1]
        if self.hook_hidden_attention.is_hooked:
            clean = selective.selective_attention_matrix(dt, self.A, B, C)
            H = self.hook_hidden_attention(clean)
            if H is not clean:
                if replaced:
                    raise both_replaced(culprit, self.hook_hidden_attention)
                y = y + torch.einsum("bdts,bsd->btd", H - clean, upcast(x)).to(y.dtype)
        return reference.ScanOutput(y, final)
