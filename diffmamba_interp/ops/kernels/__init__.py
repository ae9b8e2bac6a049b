"""Triton kernels: the causal convolution, RMSNorm, hidden attention and the contribution along a direction.

Importing this package needs no Triton; calling a function without it raises an error that says what to do.
The same formulas in plain PyTorch are in `ops.reference`.
"""

from diffmamba_interp.ops.kernels.contribution import fused_contribution
from diffmamba_interp.ops.kernels.conv_silu import ConvTiles, fused_conv_silu
from diffmamba_interp.ops.kernels.hidden_attention import fused_hidden_attention
from diffmamba_interp.ops.kernels.rms_norm import (
    MAX_NORM_WIDTH,
    NormFirst,
    NormTiles,
    fused_add_rms_norm,
    fused_rms_norm,
)
from diffmamba_interp.ops.kernels.selective_attention import fused_selective_attention, fused_selective_contribution
from diffmamba_interp.ops.kernels.tiles import DEFAULT_INPUT_PRECISION, Tiles

__all__ = [
    "DEFAULT_INPUT_PRECISION",
    "MAX_NORM_WIDTH",
    "ConvTiles",
    "NormFirst",
    "NormTiles",
    "Tiles",
    "fused_add_rms_norm",
    "fused_contribution",
    "fused_conv_silu",
    "fused_hidden_attention",
    "fused_rms_norm",
    "fused_selective_attention",
    "fused_selective_contribution",
]
