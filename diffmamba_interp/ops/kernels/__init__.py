"""Triton kernels: causal convolution, RMSNorm, hidden attention, contribution along a direction, rows of the lens.

Triton is imported when a name of this package is first used. Where there is none, that is no error; calling a function
is one, which says what to do. The same formulas in plain PyTorch are in `ops.reference`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmamba_interp.lazy_names import lazy_names

if TYPE_CHECKING:
    from diffmamba_interp.ops.kernels.contribution import fused_contribution
    from diffmamba_interp.ops.kernels.conv_silu import ConvTiles, fused_conv_silu
    from diffmamba_interp.ops.kernels.hidden_attention import fused_hidden_attention
    from diffmamba_interp.ops.kernels.lens_loss import exponentiate_rows_fused_
    from diffmamba_interp.ops.kernels.rms_norm import (
        MAX_NORM_WIDTH,
        NormFirst,
        NormTiles,
        fused_add_rms_norm,
        fused_rms_norm,
    )
    from diffmamba_interp.ops.kernels.selective_attention import fused_selective_attention, fused_selective_contribution
    from diffmamba_interp.ops.kernels.tiles import DEFAULT_INPUT_PRECISION, Tiles
    from diffmamba_interp.ops.kernels.triton_import import check_launchable

__all__ = [
    "DEFAULT_INPUT_PRECISION",
    "MAX_NORM_WIDTH",
    "ConvTiles",
    "NormFirst",
    "NormTiles",
    "Tiles",
    "check_launchable",
    "exponentiate_rows_fused_",
    "fused_add_rms_norm",
    "fused_contribution",
    "fused_conv_silu",
    "fused_hidden_attention",
    "fused_rms_norm",
    "fused_selective_attention",
    "fused_selective_contribution",
]

__getattr__, __dir__ = lazy_names(__name__)
