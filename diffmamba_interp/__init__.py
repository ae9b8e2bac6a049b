"""Mechanistic interpretability for Mamba and Diff-Mamba language models.

The names below are the public face. They are loaded when first used, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

_HOME = {
    "ActivationCache": "activation_cache",
    "AttentionRecord": "implicit_attention",
    "DifferentialConfig": "config",
    "HookedMamba": "models.language_model",
    "HookedMambaConfig": "config",
    "JacobianLens": "lens",
    "LogitLens": "lens",
    "TunedLens": "lens",
    "contribution_along": "implicit_attention",
    "convert_to_differential": "models.conversion",
    "effective_attention": "implicit_attention",
    "extract_attention": "implicit_attention",
    "fit_jacobian_lens": "lens",
    "hidden_attention": "implicit_attention",
    "inspect_checkpoint": "models.inspection",
    "lens_trajectory": "lens",
    "load_demo": "models.demo",
    "load_demo_lens": "lens",
    "load_lens": "lens",
    "make_needle_samples": "needle",
    "needle_trajectory": "needle",
    "residual_attribution": "implicit_attention",
    "token_contributions": "implicit_attention",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It has: {', '.join(__all__)}.")
    home = f"{__name__}.{_HOME[name]}"
    try:
        value = getattr(importlib.import_module(home), name)
    except AttributeError as error:
        # `from diffmamba_interp import name` would take it for a missing name and drop what went wrong.
        raise ImportError(f"{__name__}.{name} cannot be loaded, since importing {home} failed: {error}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
