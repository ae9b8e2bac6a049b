"""The GPU kernels of mamba_ssm and causal_conv1d behind the reference's signatures; their only importer.

Each function here computes what its namesake in `ops.reference` does, forward and backward, for tensors on an
NVIDIA GPU in float32, bfloat16 or float16. Precision: mamba_ssm's scan multiplies float32 as TF32 unless the
environment says `TRITON_F32_DEFAULT=ieee`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.ops import kernels
from diffmamba_interp.ops.reference import ScanOutput
from diffmamba_interp.ops.selective import read_initial_state

MAX_SCAN_POSITIONS = 32_768
"""Longest piece given to the scan at once; a longer sequence is scanned in pieces through its state. Kernels
have been reported to go silently wrong beyond about 61,000 positions (state-spaces/mamba issue 1015)."""

CONV_STRIDE_MULTIPLE = 8
CONV_WIDTHS = (2, 3, 4)


@dataclass(frozen=True)
class _Kernels:
    """The functions found at import; `causal_conv1d` is None in the common half-install."""

    chunk_scan: Callable[..., tuple[Tensor, Tensor]]
    state_update: Callable[..., Tensor]
    gated_norm: Callable[..., Tensor]
    causal_conv1d: Callable[..., Tensor] | None
    whole_mixer: Callable[..., Any] | None
    selective_scan: Callable[..., Any]


def import_obstacle() -> str | None:
    """Why the scan's kernels cannot be imported, or None if they can."""
    if not torch.cuda.is_available():
        return "PyTorch sees no NVIDIA GPU"
    from diffmamba_interp.ops.kernels.triton_import import TRITON_OBSTACLE

    if TRITON_OBSTACLE is not None:
        return TRITON_OBSTACLE
    try:
        _kernels()
    except ImportError as error:
        return f"mamba_ssm cannot be imported ({error})"
    return None


def conv_in_use() -> str:
    """Which convolution kernel serves the fused path: `"causal_conv1d"` or `"our Triton kernel"`."""
    return "our Triton kernel" if _kernels().causal_conv1d is None else "causal_conv1d"


def serves_whole_mixer(n_pos: int, d_in_proj: int, d_conv: int) -> bool:
    """Whether `whole_mixer` can run: causal_conv1d is there and likes the shape, and one scan call suffices."""
    fits = d_in_proj % CONV_STRIDE_MULTIPLE == 0 and d_conv in CONV_WIDTHS and n_pos <= MAX_SCAN_POSITIONS
    return fits and _kernels().whole_mixer is not None


def whole_mixer(
    projected: Float[Tensor, "batch pos d_in_proj"],
    parameters: Mapping[str, Tensor],
    *,
    d_head: int,
    n_groups: int,
    dt_limit: tuple[float, float],
    eps: float,
    keep_state: bool,
) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch head d_head d_state"] | None]:
    """Everything after in_proj in one differentiable call, from zero states: conv, scan, gated norm, out_proj.

    `parameters`: a mixer's, by the names they have in `Mamba2Mixer`. The scan's final state comes along if
    `keep_state`.
    """
    whole = _kernels().whole_mixer
    assert whole is not None
    result = whole(
        projected,
        parameters["conv1d.weight"][:, 0],
        parameters.get("conv1d.bias"),
        parameters["dt_bias"],
        -torch.exp(parameters["A_log"].float()),
        parameters["D"],
        scan_chunk_size(d_head),
        dt_limit=dt_limit,
        return_final_states=keep_state,
        activation="silu",
        rmsnorm_weight=parameters["inner_norm.weight"],
        rmsnorm_eps=eps,
        outproj_weight=parameters["out_proj.weight"],
        outproj_bias=parameters.get("out_proj.bias"),
        headdim=d_head,
        ngroups=n_groups,
        norm_before_gate=False,
    )
    return result if keep_state else (result, None)


def causal_conv1d(
    x: Float[Tensor, "batch pos channel"],
    weight: Float[Tensor, "channel width"],
    bias: Float[Tensor, " channel"] | None = None,
    initial: Float[Tensor, "batch channel before"] | None = None,
    *,
    silu: bool,
) -> Float[Tensor, "batch pos channel"]:
    """Depthwise causal convolution, with SiLU if asked for; causal_conv1d where it serves, else our kernel."""
    activation: Literal["silu"] | None = "silu" if silu else None
    kernel = _kernels().causal_conv1d
    if kernel is None or not _serves_causal_conv1d(x, weight):
        return kernels.fused_conv_silu(x, weight, bias, initial, activation=activation)
    if initial is not None:
        initial = rearrange(initial.to(x.dtype), "batch channel before -> batch before channel").contiguous().mT
    out = kernel(x.mT, weight, bias, initial_states=initial, activation=activation)
    return out.mT


def ssd_scan(
    x: Float[Tensor, "batch pos head d_head"],
    dt: Float[Tensor, "batch pos head"],
    A: Float[Tensor, " head"],
    B: Float[Tensor, "batch pos group d_state"],
    C: Float[Tensor, "batch pos group d_state"],
    D: Float[Tensor, " head"],
    initial_state: Float[Tensor, "batch head d_head d_state"] | None = None,
) -> ScanOutput:
    """The scan and its final state (float32), chunked by a size that suits the shape (`scan_chunk_size`)."""
    if x.shape[1] == 1 and initial_state is not None and not torch.is_grad_enabled():
        return _single_step(x, dt, A, B, C, D, initial_state)
    chunk_size, outputs, state = scan_chunk_size(x.shape[-1]), [], initial_state
    for start in range(0, x.shape[1], MAX_SCAN_POSITIONS):
        piece = slice(start, start + MAX_SCAN_POSITIONS)
        y, state = _kernels().chunk_scan(
            x[:, piece],
            dt[:, piece],
            A,
            B[:, piece],
            C[:, piece],
            chunk_size,
            D=D,
            initial_states=state,
            return_final_states=True,
        )
        outputs.append(y)
    assert state is not None
    return ScanOutput(outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), state)


def selective_scan(
    x: Float[Tensor, "batch pos channel"],
    dt: Float[Tensor, "batch pos channel"],
    A: Float[Tensor, "channel d_state"],
    B: Float[Tensor, "batch pos d_state"],
    C: Float[Tensor, "batch pos d_state"],
    D: Float[Tensor, " channel"],
    initial_state: Float[Tensor, "batch channel d_state"] | None = None,
    *,
    dt_bias: Float[Tensor, " channel"] | None = None,
) -> ScanOutput:
    """The selective scan of Mamba-1, and its final state in float32, through which no gradient flows.

    `dt_bias`: given where dt is before its bias and its softplus, which the kernel then does in float32. Otherwise
    dt keeps the precision it has: the whole scan runs in the wider dtype of dt and x.
    """
    dtype = x.dtype if dt_bias is not None else torch.promote_types(x.dtype, dt.dtype)
    channels_first = [rearrange(value.to(dtype), "batch pos d -> batch d pos") for value in (x, dt, B, C)]
    y, final = _kernels().selective_scan(
        *channels_first[:2],
        A.float(),
        *channels_first[2:],
        D=D.float(),
        delta_bias=None if dt_bias is None else dt_bias.float(),
        delta_softplus=dt_bias is not None,
        return_last_state=True,
    )
    y = rearrange(y, "batch d pos -> batch pos d")
    if initial_state is not None:
        step = dt if dt_bias is None else F.softplus(dt.float() + dt_bias.float())
        read, kept = read_initial_state(step, A, C, initial_state)
        y, final = y + read, final + kept
    return ScanOutput(y.to(x.dtype), final)


def scan_chunk_size(d_head: int) -> int:
    """Positions per chunk: the fastest measured (benchmarks/README.md). It does not change the result."""
    return 256 if d_head >= 64 else 128


def gated_rms_norm(
    y: Float[Tensor, "batch pos d_inner"],
    z: Float[Tensor, "batch pos d_inner"],
    weight: Float[Tensor, " d_inner"],
    eps: float,
    n_groups: int,
) -> Float[Tensor, "batch pos d_inner"]:
    """weight * g / rms(g) with g = y * SiLU(z), the mean taken per group; result in the dtype of y."""
    group_size = y.shape[-1] // n_groups
    return _kernels().gated_norm(y, weight, None, z=z, eps=eps, group_size=group_size, norm_before_gate=False)


def rms_norm(
    x: Float[Tensor, "*batch d"], weight: Float[Tensor, " d"], eps: float, *, gain: float = 1.0
) -> Float[Tensor, "*batch d"]:
    """gain * weight * x / rms(x), the mean in float32, the result in the dtype of the weight.

    By our kernel in one launch; by PyTorch's for float64 and for rows longer than a program of ours holds.
    """
    if _serves_norm(x, weight):
        return kernels.fused_rms_norm(x, weight, eps, gain=gain)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(dtype), (x.shape[-1],), gain * weight.to(dtype), eps).to(weight.dtype)


def add_rms_norm(
    before: Float[Tensor, "*batch d"],
    added: Float[Tensor, "*batch d"],
    weight: Float[Tensor, " d"],
    eps: float,
    *,
    first: kernels.NormFirst | None = None,
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
    """before + added, and `rms_norm` of it: in one launch without gradients where our kernel serves, else in several.

    first: a norm of what is added, before it is added.
    """
    inner = weight if first is None else first.weight
    if not torch.is_grad_enabled() and _serves_norm(before, weight) and _serves_norm(added, inner):
        return kernels.fused_add_rms_norm(before, added, weight, eps, first=first)
    if first is not None:
        added = rms_norm(added, first.weight, first.eps, gain=first.gain)
    total = before + added
    return total, rms_norm(total, weight, eps)


def _serves_norm(x: Tensor, weight: Tensor) -> bool:
    return x.shape[-1] <= kernels.MAX_NORM_WIDTH and torch.float64 not in (x.dtype, weight.dtype)


@functools.cache
def _kernels() -> _Kernels:
    combined = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    update = importlib.import_module("mamba_ssm.ops.triton.selective_state_update")
    norm = importlib.import_module("mamba_ssm.ops.triton.layernorm_gated")
    selective = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    try:
        conv = importlib.import_module("causal_conv1d").causal_conv1d_fn
    except ImportError:
        conv = None
    return _Kernels(
        chunk_scan=combined.mamba_chunk_scan_combined,
        state_update=update.selective_state_update,
        gated_norm=norm.rmsnorm_fn,
        causal_conv1d=conv,
        whole_mixer=None if conv is None else combined.mamba_split_conv1d_scan_combined,
        selective_scan=selective.selective_scan_fn,
    )


def _serves_causal_conv1d(x: Tensor, weight: Tensor) -> bool:
    """Its channels-last kernel wants widths 2 to 4 and strides over batch and position that are multiples of 8."""
    aligned = all(stride % CONV_STRIDE_MULTIPLE == 0 for stride in x.stride()[:2]) and x.stride(2) == 1
    return aligned and x.shape[2] % CONV_STRIDE_MULTIPLE == 0 and weight.shape[1] in CONV_WIDTHS


def _single_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, initial_state: Tensor
) -> ScanOutput:
    """One position from a given state, which is left as it is: the step of generation."""
    d_head, d_state = initial_state.shape[2:]
    state = initial_state.clone()
    y = _kernels().state_update(
        state,
        x[:, 0],
        dt[:, 0, :, None].expand(-1, -1, d_head),
        A[:, None, None].expand(-1, d_head, d_state),
        B[:, 0],
        C[:, 0],
        D=D[:, None].expand(-1, d_head),
        dt_bias=torch.zeros_like(A)[:, None].expand(-1, d_head),
    )
    return ScanOutput(y[:, None], state)
