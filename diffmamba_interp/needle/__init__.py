"""Retrieval tasks: stories, the filler that hides them, and where everything is in the prompt.

Stories come from a generator (`tasks`) or real bAbI files (`babi`); `haystack` hides them in filler;
`make_needle_samples` does all of it. `needle_trajectory` reads what a model makes of them, block by block; `summarise`
and `compare` put error bars on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmamba_interp.lazy_names import lazy_names

if TYPE_CHECKING:
    from diffmamba_interp.needle.babi import (
        babi_stories_of_split,
        babi_training_hashes,
        heldout_babi_stories,
        read_babi,
        read_babi_training,
        read_babilong_indices,
    )
    from diffmamba_interp.needle.calibration import Calibration, calibrate
    from diffmamba_interp.needle.curves import Curve, PairedCurve, compare, compare_over_seeds, summarise
    from diffmamba_interp.needle.filler import Filler
    from diffmamba_interp.needle.formation import (
        CRITERIA,
        Criterion,
        Formation,
        FormationDifference,
        compare_formation,
        formation_stages,
        formation_table,
        summarise_formation,
    )
    from diffmamba_interp.needle.haystack import Haystack, StoryTooLongError, answer_text, format_prompt
    from diffmamba_interp.needle.probes import ProbeRecord, compare_probes, probe_answers, summarise_probes
    from diffmamba_interp.needle.records import Mention, NeedleSample
    from diffmamba_interp.needle.samples import make_needle_samples
    from diffmamba_interp.needle.stories import TASKS, Story, stories_in_training, without_training_stories
    from diffmamba_interp.needle.swaps import SwappedNeedle, swapped_needles
    from diffmamba_interp.needle.tasks import generate_stories, generate_story, iterate_stories
    from diffmamba_interp.needle.trajectory import needle_trajectory
    from diffmamba_interp.needle.trajectory_records import (
        MEASURED,
        MEASURES,
        Measure,
        Measured,
        NeedleTrajectory,
        ReadSample,
        load_trajectory,
        save_trajectory,
    )
    from diffmamba_interp.spans import Span

__all__ = [
    "CRITERIA",
    "MEASURED",
    "MEASURES",
    "TASKS",
    "Calibration",
    "Criterion",
    "Curve",
    "Filler",
    "Formation",
    "FormationDifference",
    "Haystack",
    "Measure",
    "Measured",
    "Mention",
    "NeedleSample",
    "NeedleTrajectory",
    "PairedCurve",
    "ProbeRecord",
    "ReadSample",
    "Span",
    "Story",
    "StoryTooLongError",
    "SwappedNeedle",
    "answer_text",
    "babi_stories_of_split",
    "babi_training_hashes",
    "calibrate",
    "compare",
    "compare_formation",
    "compare_over_seeds",
    "compare_probes",
    "format_prompt",
    "formation_stages",
    "formation_table",
    "generate_stories",
    "generate_story",
    "heldout_babi_stories",
    "iterate_stories",
    "load_trajectory",
    "make_needle_samples",
    "needle_trajectory",
    "probe_answers",
    "read_babi",
    "read_babi_training",
    "read_babilong_indices",
    "save_trajectory",
    "stories_in_training",
    "summarise",
    "summarise_formation",
    "summarise_probes",
    "swapped_needles",
    "without_training_stories",
]

__getattr__, __dir__ = lazy_names(__name__)
