"""Logit, tuned and Jacobian lens: decoding the residual stream, training or fitting what that takes, measuring it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmamba_interp.lazy_names import lazy_names

if TYPE_CHECKING:
    from diffmamba_interp.lens.evaluation import HeldOutDocument, LensMeasurement, measure_lens
    from diffmamba_interp.lens.folders import demo_lens_folder, load_demo_lens, load_lens
    from diffmamba_interp.lens.hub import hub_card, push_lens
    from diffmamba_interp.lens.jacobian_fit import FitRecord, JacobianFit, fit_jacobian_lens
    from diffmamba_interp.lens.lenses import JacobianLens, LogitLens, TunedLens, save_lens
    from diffmamba_interp.lens.recipe import LensKind, LensRecipe, read_recipe, write_recipe
    from diffmamba_interp.lens.stream import ResidualStream, residual_stream
    from diffmamba_interp.lens.training import LensTraining, StepRecord, TrainingError
    from diffmamba_interp.lens.trajectory import LensTrajectory, lens_trajectory
    from diffmamba_interp.lens.unembedding import ModelUnembed
    from diffmamba_interp.stages import stage_name, stage_names
    from diffmamba_interp.statistics import Estimate

__all__ = [
    "Estimate",
    "FitRecord",
    "HeldOutDocument",
    "JacobianFit",
    "JacobianLens",
    "LensKind",
    "LensMeasurement",
    "LensRecipe",
    "LensTraining",
    "LensTrajectory",
    "LogitLens",
    "ModelUnembed",
    "ResidualStream",
    "StepRecord",
    "TrainingError",
    "TunedLens",
    "demo_lens_folder",
    "fit_jacobian_lens",
    "hub_card",
    "lens_trajectory",
    "load_demo_lens",
    "load_lens",
    "measure_lens",
    "push_lens",
    "read_recipe",
    "residual_stream",
    "save_lens",
    "stage_name",
    "stage_names",
    "write_recipe",
]

__getattr__, __dir__ = lazy_names(__name__)
