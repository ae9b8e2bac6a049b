"""Retrieval tasks: stories, the filler that hides them, and where everything is in the prompt.

Stories come from a generator (`tasks`) or real bAbI files (`babi`); `haystack` hides them in filler;
`make_needle_samples` does all of it. `needle_trajectory` reads what a model makes of them, block by block; `summarise`
and `compare` put error bars on it.
"""

from diffmamba_interp.needle.babi import (
    babi_stories_of_split,
    babi_training_hashes,
    heldout_babi_stories,
    read_babi,
    read_babi_training,
    read_babilong_indices,
)
from diffmamba_interp.needle.curves import Curve, PairedCurve, compare, compare_over_seeds, summarise
from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.haystack import Haystack, StoryTooLongError, answer_text, format_prompt
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
    "MEASURED",
    "MEASURES",
    "TASKS",
    "Curve",
    "Filler",
    "Haystack",
    "Measure",
    "Measured",
    "Mention",
    "NeedleSample",
    "NeedleTrajectory",
    "PairedCurve",
    "ReadSample",
    "Span",
    "Story",
    "StoryTooLongError",
    "SwappedNeedle",
    "answer_text",
    "babi_stories_of_split",
    "babi_training_hashes",
    "compare",
    "compare_over_seeds",
    "format_prompt",
    "generate_stories",
    "generate_story",
    "heldout_babi_stories",
    "iterate_stories",
    "load_trajectory",
    "make_needle_samples",
    "needle_trajectory",
    "read_babi",
    "read_babi_training",
    "read_babilong_indices",
    "save_trajectory",
    "stories_in_training",
    "summarise",
    "swapped_needles",
    "without_training_stories",
]
