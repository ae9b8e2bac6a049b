"""Mechanistic interpretability for Mamba and Diff-Mamba language models.

The names below are the public face. They are loaded when first used, so that importing the package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmamba_interp.lazy_names import lazy_names

if TYPE_CHECKING:
    from diffmamba_interp.activation_cache import ActivationCache
    from diffmamba_interp.config import DifferentialConfig, HookedMambaConfig
    from diffmamba_interp.implicit_attention import (
        AttentionRecord,
        contribution_along,
        effective_attention,
        extract_attention,
        hidden_attention,
        residual_attribution,
        token_contributions,
    )
    from diffmamba_interp.lens import (
        JacobianLens,
        LogitLens,
        TunedLens,
        fit_jacobian_lens,
        lens_trajectory,
        load_demo_lens,
        load_lens,
    )
    from diffmamba_interp.models.conversion import convert_to_differential
    from diffmamba_interp.models.demo import load_demo
    from diffmamba_interp.models.inspection import inspect_checkpoint
    from diffmamba_interp.models.language_model import HookedMamba
    from diffmamba_interp.needle import make_needle_samples, needle_trajectory

__all__ = [
    "ActivationCache",
    "AttentionRecord",
    "DifferentialConfig",
    "HookedMamba",
    "HookedMambaConfig",
    "JacobianLens",
    "LogitLens",
    "TunedLens",
    "contribution_along",
    "convert_to_differential",
    "effective_attention",
    "extract_attention",
    "fit_jacobian_lens",
    "hidden_attention",
    "inspect_checkpoint",
    "lens_trajectory",
    "load_demo",
    "load_demo_lens",
    "load_lens",
    "make_needle_samples",
    "needle_trajectory",
    "residual_attribution",
    "token_contributions",
]

__getattr__, __dir__ = lazy_names(__name__)
