"""The recipes of the retrieval analysis, and the prompts that they ask for: the same for every model."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from diffmamba_interp.data import TextSource
from diffmamba_interp.data.documents import documents_of_split
from diffmamba_interp.generated_text import generated_documents
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import TASKS, Filler, Haystack, NeedleSample, Story, heldout_babi_stories
from diffmamba_interp.needle.accuracy_grid import hide_stories
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.stable_random import StableRandom

RECIPES = Path(__file__).with_name("recipe.toml")
FILLER_CHARS = 200_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """stories: "generated" or "babi". lengths: of prompts, in tokens. n: prompts per cell, one number for each length.

    text_chars: characters of each held-out text to measure bits per byte on; None takes it whole.
    """

    stories: str
    lengths: tuple[int, ...]
    n: tuple[int, ...]
    seed: int
    text_chars: int | None = None

    @classmethod
    def read(cls, name: str) -> Recipe:
        recipes = tomllib.loads(RECIPES.read_text(encoding="utf-8"))
        if name not in recipes:
            raise ValueError(f"there is no recipe {name!r}: choose one of {', '.join(recipes)}.")
        values = recipes[name]
        return cls(**{**values, "lengths": tuple(values["lengths"]), "n": tuple(values["n"])})


def all_samples(recipe: Recipe, data: Path) -> list[tuple[int, list[NeedleSample]]]:
    """(length, prompts) of every cell; both models get the same."""
    tokenizer = load_demo_tokenizer()
    haystack = Haystack(tokenizer, Filler.from_texts(tokenizer, filler_texts(recipe, data)))
    cells = []
    for task in TASKS:
        stories = stories_of(task, recipe, data)
        for length, n in zip(recipe.lengths, recipe.n, strict=True):
            cells.append((length, hide_stories(haystack, stories, n=n, length=length, seed=recipe.seed)))
    return cells


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
