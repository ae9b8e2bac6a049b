"""Mechanistic interpretability for Mamba and Diff-Mamba language models."""

from __future__ import annotations

from diffmamba_interp.activation_cache import ActivationCache
from diffmamba_interp.config import DifferentialConfig, HookedMambaConfig
from diffmamba_interp.models.language_model import HookedMamba

__all__ = ["ActivationCache", "DifferentialConfig", "HookedMamba", "HookedMambaConfig"]
