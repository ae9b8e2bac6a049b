"""Root-mean-square normalisation, plain and gated, with its scale and its result as hook points.

    scale = sqrt(mean(x^2) + eps)        normalized = x / scale        out = weight * normalized
    gated: x = y * SiLU(z), and the mean is taken inside each group of channels (Mamba-2's norm after the gate)

Means are taken in float32; the result has the dtype of the weight.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.ops import fused as kernels
from diffmamba_interp.ops.precision import upcast


class RMSNorm(nn.Module):
    """RMSNorm over the last axis. Hook points: `hook_scale` [..., 1], `hook_normalized` (before the gain)."""

    def __init__(self, d: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    @property
    def is_hooked(self) -> bool:
        return self.hook_scale.is_hooked or self.hook_normalized.is_hooked

    def forward(self, x: Float[Tensor, "*batch d"], *, fused: bool = False) -> Float[Tensor, "*batch d"]:
        """The normalised value in the weight's dtype; `fused` uses the GPU kernel where no hook looks inside."""
        if fused and not self.is_hooked:
            return kernels.rms_norm(x, self.weight, self.eps)
        x = upcast(x)
        scale = self.hook_scale(root_mean_square(x, self.eps))
        normalized = self.hook_normalized(x / scale)
        return self.weight * normalized.to(self.weight.dtype)


class GatedRMSNorm(nn.Module):
    """Gate, then RMSNorm per group. Hook points: `hook_scale` [batch, pos, group], `hook_gated` (the output)."""

    def __init__(self, d_inner: int, n_groups: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.n_groups = n_groups
        self.weight = nn.Parameter(torch.ones(d_inner))
        self.hook_scale = HookPoint()
        self.hook_gated = HookPoint()

    @property
    def is_hooked(self) -> bool:
        return self.hook_scale.is_hooked or self.hook_gated.is_hooked

    def forward(
        self,
        y: Float[Tensor, "batch pos d_inner"],
        z: Float[Tensor, "batch pos d_inner"],
        *,
        weight: Float[Tensor, " d_inner"] | None = None,
        fused: bool = False,
    ) -> Float[Tensor, "batch pos d_inner"]:
        """The gated and normalised value; `fused` uses the GPU kernel where no hook looks inside.

        `weight`: of another norm, for one that has none of its own.
        """
        weight = self.weight if weight is None else weight
        if fused and not self.is_hooked:
            return kernels.gated_rms_norm(y, z, weight, self.eps, self.n_groups)
        # SiLU rounds by memory layout: contiguous, so that z patched with its own copy changes no bit.
        gate = F.silu(upcast(z).contiguous())
        gated = rearrange(upcast(y) * gate, "b t (g c) -> b t g c", g=self.n_groups)
        scale = self.hook_scale(root_mean_square(gated, self.eps)[..., 0])
        normalized = rearrange(gated / scale[..., None], "b t g c -> b t (g c)")
        return self.hook_gated(weight * normalized.to(weight.dtype))


def root_mean_square(x: Float[Tensor, "*batch d"], eps: float) -> Float[Tensor, "*batch 1"]:
    """sqrt(mean(x^2) + eps) over the last axis, which is kept."""
    return torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)
