"""The recipes of the retrieval analysis, and the prompts that they ask for: the same for every model."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import Filler, Haystack, NeedleSample, Story, heldout_babi_stories
from diffmamba_interp.needle.accuracy_grid import hide_stories
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.text import TextSource
from diffmamba_interp.text.documents import documents_of_split
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.stable_random import StableRandom

RECIPES = Path(__file__).with_name("recipe.toml")
FILLER_CHARS = 200_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """stories: "generated" or "babi". lengths: of prompts, in tokens. n: prompts per cell, one number for each length.

    keep_log_probs: whether the records hold every label's log-probability, or only which label is most probable.
    text_chars: characters of each held-out text to measure bits per byte on; None takes it whole.
    """

    stories: str
    lengths: tuple[int, ...]
    n: tuple[int, ...]
    seed: int
    keep_log_probs: bool = False
    text_chars: int | None = None

    def __post_init__(self) -> None:
        if len(self.n) != len(self.lengths):
            raise ValueError(f"n has {len(self.n)} numbers: give one for each of the lengths {self.lengths}.")

    @classmethod
    def read(cls, name: str, n: tuple[int, ...] | None = None) -> Recipe:
        """The recipe `name`, with other numbers of prompts if `n` is given; a single number goes for every length."""
        recipes = tomllib.loads(RECIPES.read_text(encoding="utf-8"))
        if name not in recipes:
            raise ValueError(f"there is no recipe {name!r}: choose one of {', '.join(recipes)}.")
        values = recipes[name]
        recipe = cls(**{**values, "lengths": tuple(values["lengths"]), "n": tuple(values["n"])})
        if n is None:
            return recipe
        return replace(recipe, n=n * len(recipe.lengths) if len(n) == 1 else n)


def cell_samples(recipe: Recipe, data: Path, task: str, length: int, n: int) -> list[NeedleSample]:
    """The prompts of one cell."""
    stories = _kept_stories(task, recipe, data)
    return hide_stories(_kept_haystack(recipe, data), stories, n=n, length=length, seed=recipe.seed)


def stories_of(task: str, recipe: Recipe, data: Path, n: int | None = None) -> list[Story]:
    """Held-out stories in an order that the seed decides: more than any cell needs, or the first `n`."""
    if recipe.stories == "babi":
        held_out = heldout_babi_stories(data / "babi_tasks_v1-2.tar.gz", task)
        return StableRandom("retrieval", recipe.seed, task).shuffled(held_out)[:n]
    return generate_stories(task, n=n or max(recipe.n) + 20, seed=recipe.seed, split="eval", vocabulary="mixed")


def filler_texts(recipe: Recipe, data: Path) -> list[str]:
    """Held-out novels, or generated text that mentions no label."""
    if recipe.stories == "babi":
        novels = TextSource(location=str(data / "novels")).documents()
        return [document.text for document in documents_of_split(novels, "eval")]
    return list(generated_documents(n_chars=FILLER_CHARS))


# A worker process makes several cells: its filler and stories serve them all.
_kept_stories = functools.cache(stories_of)


@functools.cache
def _kept_haystack(recipe: Recipe, data: Path) -> Haystack:
    tokenizer = load_demo_tokenizer()
    return Haystack(tokenizer, Filler.from_texts(tokenizer, filler_texts(recipe, data)))
