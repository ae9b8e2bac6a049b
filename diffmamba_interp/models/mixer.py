"""What every kind of mixer has and does, and the table of kinds: a kind is one file that registers itself here.

A mixer maps the block's normalised input to what the block adds to the residual stream. `Block`, the differential
mixer, the recurrent state, checkpoints and implicit attention know mixers by this protocol alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.mixer_sizes import MIXERS, BlockKind, MixerEntry, MixerSizes
from diffmamba_interp.ops.frozen_scan import FrozenScan


@dataclass(frozen=True)
class MixerState:
    """What a mixer carries from one call to the next.

    conv: the last d_conv - 1 inputs of the convolution, [batch, channel, d_conv - 1].
    ssm: the scan's state after the last position, float32 or wider: [batch, head, d_head, d_state] in a Mamba-2
        mixer, [batch, channel, d_state] in a Mamba-1 mixer.
    """

    conv: Tensor
    ssm: Tensor

    @property
    def kind(self) -> BlockKind:
        return "plain"

    @property
    def mixers(self) -> tuple[MixerState, ...]:
        """The states of the block's mixers."""
        return (self,)

    def map(self, function: Callable[[Tensor], Tensor]) -> MixerState:
        """The state with `function` applied to both tensors."""
        return MixerState(conv=function(self.conv), ssm=function(self.ssm))


class BranchStates(NamedTuple):
    """The states of a differential block's two mixers."""

    minuend: MixerState
    subtrahend: MixerState

    @property
    def kind(self) -> BlockKind:
        return "differential"

    @property
    def mixers(self) -> tuple[MixerState, ...]:
        return (self.minuend, self.subtrahend)

    def map(self, function: Callable[[Tensor], Tensor]) -> BranchStates:
        return BranchStates(self.minuend.map(function), self.subtrahend.map(function))


@dataclass(frozen=True, kw_only=True, repr=False)
class FrozenMixer:
    """A mixer as it ran, with gates, norm scales and all that its scan is made of held: linear from x to its output.

        out[t] = out_weight (gate[t] * y[t]) + out_bias;   y = scan(x);   x = SiLU(conv);   conv = conv1d(x_in) + bias

    scan: the linear map from x to y. x_in: what enters the convolution. conv: what leaves it, before SiLU.
    conv_weight: index d_conv - 1 is lag 0. conv, conv_weight, conv_bias: None where x_in is x.
    Everything in float32 or wider; a head of a Mamba-1 mixer is a channel, and d_head is 1.
    """

    scan: FrozenScan
    x_in: Float[Tensor, "batch pos head d_head"]
    x: Float[Tensor, "batch pos head d_head"]
    gate: Float[Tensor, "batch pos head d_head"]
    out_weight: Float[Tensor, "d_model d_inner"]
    out_bias: Float[Tensor, " d_model"] | None = None
    conv: Float[Tensor, "batch pos head d_head"] | None = None
    conv_weight: Float[Tensor, "d_inner d_conv"] | None = None
    conv_bias: Float[Tensor, " d_inner"] | None = None


BlockState = MixerState | BranchStates


@runtime_checkable
class Mixer(Protocol):
    """One mixer, a plain block's or one branch of a differential block's. Made as `kind(cfg, sizes)`.

    Its hook points are its modules, named below `blocks.{i}.mixer`; `hook_names.COSTLY_LEAVES` are computed only when
    they are hooked.
    """

    sizes: MixerSizes
    frozen_points: tuple[str, ...]
    """Hook points, by their names inside the mixer, that `freeze` reads."""

    gated_point: str
    """The hook point of what enters out_proj, likewise."""

    def __call__(
        self,
        u: Float[Tensor, "batch pos d_model"],
        state: MixerState | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
        *,
        fused: bool = False,
        keep_state: bool = True,
    ) -> tuple[Float[Tensor, "batch pos d_model"], MixerState | None]:
        """The mixer's output, and its state after the last valid position (None unless `keep_state`).

        `state`: where an earlier call ended; None starts from zeros. `valid`: False on right padding, whose positions
        then leave the state as it is. `fused`: run the GPU kernels, unless a hook needs a value that they never make.
        """
        ...

    def writing_weights(self) -> list[Tensor]:
        """The parameters that set the size of what the mixer adds to the residual stream."""
        ...

    def freeze(self, seen: Callable[[str], Tensor]) -> FrozenMixer:
        """The mixer as it ran when its `frozen_points` had the values `seen`, which are float32 or wider."""
        ...


class Scanned(NamedTuple):
    """What a scan gives. y: its output, [batch, pos, head, d_head], or [batch, pos, channel] where heads are channels.
    z: the gate that it meets, before SiLU, alike; None for a scan without one. state: where it ended, or None."""

    y: Tensor
    z: Tensor | None
    state: MixerState | None


@runtime_checkable
class ScanMixer(Mixer, Protocol):
    """A mixer that shows its scan apart from what follows, so that two scans can share the rest (Diff-S6).

        scanned = scan(hook_in_proj(in_proj(u)));   out = out_proj(gate(scanned.y, scanned.z))

    lender: the mixer whose `shared_parts` are used; the mixer itself by default.
    """

    shared_parts: tuple[str, ...]
    """Modules and parameters, by name, that both branches of a Diff-S6 use; only the minuend has them."""

    hook_in_proj: HookPoint

    def kernels_serve(self, keep_state: bool) -> bool:
        """Whether no hook, and no gradient, is wanted of a value that the GPU kernels never make."""
        ...

    def scan(
        self,
        projected: Float[Tensor, "batch pos d_in_proj"],
        state: MixerState | None,
        valid: Bool[Tensor, "batch pos"] | None,
        *,
        lender: ScanMixer | None = None,
        fused: bool,
        keep_state: bool,
    ) -> Scanned:
        """The scan of what in_proj gave; arguments as in `Mixer`."""
        ...

    def gate(
        self,
        y: Float[Tensor, "batch pos d_inner"],
        z: Tensor,
        *,
        lender: ScanMixer | None = None,
        fused: bool,
    ) -> Float[Tensor, "batch pos d_inner"]:
        """What enters out_proj."""
        ...

    def freeze(self, seen: Callable[[str], Tensor], lender: ScanMixer | None = None) -> FrozenMixer:
        """As of a `Mixer`; the gate of a scan without one is 1."""
        ...


AnyMixer = TypeVar("AnyMixer", bound=type[nn.Module])

_CLASSES: dict[str, type[nn.Module]] = {}


def register_mixer(name: str, entry: MixerEntry | None = None) -> Callable[[AnyMixer], AnyMixer]:
    """Class decorator: `HookedMambaConfig(mixer=name)` makes blocks of this class.

    `entry`: what the config knows of the kind, where `config.MIXERS` does not list it already.
    """

    def register(kind: AnyMixer) -> AnyMixer:
        if entry is not None:
            MIXERS[name] = entry
        if name not in MIXERS:
            raise ValueError(f"the config knows no mixer {name!r}: give its MixerEntry.")
        _CLASSES[name] = kind
        return kind

    return register


def new_mixer(cfg: HookedMambaConfig, sizes: MixerSizes) -> nn.Module:
    """A mixer of the config's kind: of a plain block, or one branch of a differential one."""
    return _CLASSES[cfg.mixer](cfg, sizes)


def both_replaced(first: HookPoint, second: HookPoint) -> ValueError:
    """The error for two points of one scan that cannot be replaced together."""
    return ValueError(
        f"both {first.name!r} and {second.name!r} were replaced: each determines the scan's output alone. "
        "Replace one of them."
    )


def next_conv_state(
    conv_in: Float[Tensor, "batch pos channel"], state: MixerState | None, valid: Tensor | None, d_conv: int
) -> Float[Tensor, "batch channel before"]:
    """The last d_conv - 1 valid inputs of a convolution, older calls' included, zeros where there are none."""
    before = d_conv - 1
    inputs = rearrange(conv_in, "batch pos channel -> batch channel pos")
    earlier = inputs.new_zeros(*inputs.shape[:2], before) if state is None else state.conv.to(inputs.dtype)
    inputs = torch.cat([earlier, inputs], dim=-1)
    if valid is None:
        return inputs[..., inputs.shape[-1] - before :].clone()
    last = valid.sum(dim=-1)
    window = last[:, None] + torch.arange(before, device=last.device)
    return torch.gather(inputs, -1, window[:, None].expand(-1, inputs.shape[1], -1))
