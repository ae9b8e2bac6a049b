"""The retrieval prompts of the analyses: held-out stories hidden in held-out text, by task and length.

The same recipe gives every model, and every analysis, the same prompts: a sample is known by its task, length, story
and the recipe's seed, so records of different analyses can be joined on these.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import TASKS, Filler, Haystack, NeedleSample, Story, heldout_babi_stories
from diffmamba_interp.needle.accuracy_grid import hide_stories
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.text import TextSource, documents_of_split
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.stable_random import StableRandom

BABI_ARCHIVE = "babi_tasks_v1-2.tar.gz"
NOVELS = "novels"
FILLER_CHARS = 200_000
# Generated stories beyond n, since those that are longer than a short prompt are passed over.
_SPARE_STORIES = 20


@dataclass(frozen=True, kw_only=True)
class PromptRecipe:
    """Which prompts to make.

    stories: "generated" (in generated text) or "babi" (held-out bAbI stories in held-out novels).
    lengths: of prompts, in tokens; 0 for the facts alone. n: prompts per cell, one number for each length; where there
    are fewer stories, all of them. seed: decides stories, filler and positions.
    """

    stories: str
    lengths: tuple[int, ...]
    n: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        if self.stories not in ("generated", "babi"):
            raise ValueError(f'stories is {self.stories!r}: it must be "generated" or "babi".')
        if len(self.n) != len(self.lengths):
            raise ValueError(f"n has {len(self.n)} numbers: give one for each of the lengths {self.lengths}.")

    def with_n(self, n: Sequence[int] | None) -> PromptRecipe:
        """The recipe with other numbers of prompts: one for each length, or one for all; None changes nothing."""
        if n is None:
            return self
        return replace(self, n=tuple(n) if len(n) > 1 else (n[0],) * len(self.lengths))


def cells(
    recipe: PromptRecipe, data: Path, tasks: Sequence[str] = TASKS
) -> Iterator[tuple[str, int, list[NeedleSample]]]:
    """(task, length, prompts) of every cell, task by task.

    data: folder that holds the bAbI archive and the novels; generated stories need none.
    """
    haystack = _kept_haystack(recipe, data)
    for task in tasks:
        stories = stories_of(task, recipe, data)
        for length, n in zip(recipe.lengths, recipe.n, strict=True):
            yield task, length, hide_stories(haystack, stories, n=n, length=length, seed=recipe.seed)


def each_once(samples: Iterable[NeedleSample]) -> list[NeedleSample]:
    """The prompts without repeats, in their order: bAbI tells some of its short stories twice."""
    return list({(sample.length, sample.prompt, sample.answer): sample for sample in samples}.values())


def stories_of(task: str, recipe: PromptRecipe, data: Path) -> list[Story]:
    """Held-out stories in an order that the seed decides."""
    if recipe.stories == "babi":
        return StableRandom("retrieval", recipe.seed, task).shuffled(heldout_babi_stories(data / BABI_ARCHIVE, task))
    n = max(recipe.n) + _SPARE_STORIES
    return generate_stories(task, n=n, seed=recipe.seed, split="eval", vocabulary="mixed")


def filler_texts(recipe: PromptRecipe, data: Path) -> list[str]:
    """Novels of the evaluation split, or generated text that mentions no label."""
    if recipe.stories == "babi":
        novels = TextSource(location=str(data / NOVELS)).documents()
        return [document.text for document in documents_of_split(novels, "eval")]
    return list(generated_documents(n_chars=FILLER_CHARS))


def data_of(recipe: PromptRecipe, data: Path) -> Mapping[str, Path]:
    """What the prompts were read from, by name, for the provenance."""
    return {name: data / name for name in (BABI_ARCHIVE, NOVELS)} if recipe.stories == "babi" else {}


@functools.cache
def _kept_haystack(recipe: PromptRecipe, data: Path) -> Haystack:
    """Tokenised filler serves all tasks that a process asks for."""
    tokenizer = load_demo_tokenizer()
    return Haystack(tokenizer, Filler.from_texts(tokenizer, filler_texts(recipe, data)))
