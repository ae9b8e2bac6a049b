"""Public functions name the argument that does not fit, whatever it is (see `misuse.py`, and why it runs apart)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import diffmamba_interp as package
from diffmamba_interp import implicit_attention, interventions, lens, needle
from tests.misuse import table

NO_FUNCTIONS = {
    "LensKind",
    "CRITERIA",
    "Criterion",
    "DEFAULT_MAX_BYTES",
    "DEFINITIONS",
    "MEASURED",
    "MEASURES",
    "SOURCE_SCORES",
    "SPAN_CLASSES",
    "SourceScore",
    "TASKS",
    "Measure",
    "Intervention",
    "MemoryLimitError",
}
RESULTS = {
    *("AttentionRecord", "BlockActivations", "BranchActivations", "Contribution", "EffectiveAttention", "HalfLife"),
    *(
        "ContributionGraph",
        "Continuations",
        "Edge",
        "ResidualAttribution",
        "SpanSummary",
        "WriteLogitShift",
        "Writer",
        "Measured",
        "Effect",
        "EstimateError",
        "Areas",
        "FaithfulnessRecord",
        "Head",
        "HeadRivals",
        "HeadScores",
        "InterventionRecord",
        "PatchGrid",
        "SweepRecord",
    ),
    *("Calibration", "Formation", "FormationDifference", "ProbeRecord"),
    *("Curve", "PairedCurve", "Mention", "NeedleSample", "NeedleTrajectory", "ReadSample", "Span", "Story", "Estimate"),
    *("FitRecord", "JacobianLens", "LensMeasurement", "LensTrajectory", "ResidualStream", "StepRecord"),
    *("StoryTooLongError", "TrainingError"),
    "SwappedNeedle",
}
"""Made by functions, for reading."""
ELSEWHERE = {
    *("DifferentialConfig", "HookedMambaConfig", "inspect_checkpoint"),
    *("JacobianFit", "LensRecipe", "LensTraining", "ModelUnembed", "read_recipe", "write_recipe"),
    *("babi_stories_of_split", "babi_training_hashes", "heldout_babi_stories", "read_babi", "read_babi_training"),
    *("read_babilong_indices", "push_lens"),
}
"""Configurations and files, whose own tests go through what may be wrong with them."""


def test_every_wrong_kind_of_every_argument_is_refused_by_name(project_root: Path) -> None:
    script = project_root / "tests" / "misuse.py"
    environment = os.environ | {"PYTHONPATH": str(project_root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_every_public_function_is_in_the_table(tmp_path: Path) -> None:
    inside = {part for name in table(tmp_path) for part in name.split(".")}
    modules = (package, implicit_attention, interventions, lens, needle)
    missing = {name for module in modules for name in module.__all__} - inside - NO_FUNCTIONS - RESULTS - ELSEWHERE
    assert not missing
