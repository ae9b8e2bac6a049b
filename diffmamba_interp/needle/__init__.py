"""Retrieval tasks: stories, the filler that hides them, and where everything is in the prompt.

Stories come from a generator (`tasks`) or real bAbI files (`babi`); `haystack` hides them in filler;
`make_needle_samples` does all of it.
"""

from diffmamba_interp.needle.babi import (
    babi_stories_of_split,
    babi_training_hashes,
    heldout_babi_stories,
    read_babi,
    read_babi_training,
    read_babilong_indices,
)
from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.haystack import Haystack, StoryTooLongError
from diffmamba_interp.needle.prompts import answer_text, format_prompt
from diffmamba_interp.needle.records import Mention, NeedleSample, Span
from diffmamba_interp.needle.samples import make_needle_samples
from diffmamba_interp.needle.stories import TASKS, Story, stories_in_training, without_training_stories
from diffmamba_interp.needle.tasks import generate_stories, generate_story, iterate_stories

__all__ = [
    "TASKS",
    "Filler",
    "Haystack",
    "Mention",
    "NeedleSample",
    "Span",
    "Story",
    "StoryTooLongError",
    "answer_text",
    "babi_stories_of_split",
    "babi_training_hashes",
    "format_prompt",
    "generate_stories",
    "generate_story",
    "heldout_babi_stories",
    "iterate_stories",
    "make_needle_samples",
    "read_babi",
    "read_babi_training",
    "read_babilong_indices",
    "stories_in_training",
    "without_training_stories",
]
