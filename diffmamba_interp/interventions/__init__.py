"""Interventions: causal tests of lambda, branches, heads, source tokens and noise, under any measurement.

with intervene(model, [SetLambda(value=0.0, blocks=3), KnockOut(positions=(5, 6))]):
    trajectory = lens_trajectory(model, lens, tokens)
"""

from diffmamba_interp.interventions.ablation import (
    AblateBranch,
    AblateHead,
    ScaleLambda,
    SetLambda,
    SwapBranches,
    SwapHeads,
    collect_means,
)
from diffmamba_interp.interventions.attribution import EstimateError, attribution_patching, estimate_error
from diffmamba_interp.interventions.compare import compare, compare_each, sweep
from diffmamba_interp.interventions.continuations import Continuations, continuations
from diffmamba_interp.interventions.faithfulness import Areas, FaithfulnessRecord, faithfulness
from diffmamba_interp.interventions.head_sets import (
    Head,
    ablate_heads,
    knock_out_heads,
    largest_heads,
    matched_heads,
)
from diffmamba_interp.interventions.intervention import Intervention, describe, hooks_of, intervene
from diffmamba_interp.interventions.knock_out import KnockOut
from diffmamba_interp.interventions.noise import AddNoise, randomise_tokens
from diffmamba_interp.interventions.patch import Patch
from diffmamba_interp.interventions.patching import PatchGrid, patch_grid
from diffmamba_interp.interventions.reading import AnswerReading, answer_readings
from diffmamba_interp.interventions.records import Effect, InterventionRecord, SweepRecord
from diffmamba_interp.interventions.targets import AtTokens
from diffmamba_interp.spans import positions_in

__all__ = [
    "AblateBranch",
    "AblateHead",
    "AddNoise",
    "AnswerReading",
    "Areas",
    "AtTokens",
    "Continuations",
    "Effect",
    "EstimateError",
    "FaithfulnessRecord",
    "Head",
    "Intervention",
    "InterventionRecord",
    "KnockOut",
    "Patch",
    "PatchGrid",
    "ScaleLambda",
    "SetLambda",
    "SwapBranches",
    "SwapHeads",
    "SweepRecord",
    "ablate_heads",
    "answer_readings",
    "attribution_patching",
    "collect_means",
    "compare",
    "compare_each",
    "continuations",
    "describe",
    "estimate_error",
    "faithfulness",
    "hooks_of",
    "intervene",
    "knock_out_heads",
    "largest_heads",
    "matched_heads",
    "patch_grid",
    "positions_in",
    "randomise_tokens",
    "sweep",
]
