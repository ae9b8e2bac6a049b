"""Retrieval prompts in which stories and fillers are crossed: every story is hidden in several texts, each of its own.

    story k of a task is hidden in texts  f k, f k + 1, ..., f k + f - 1   (modulo their number)      f: `fillers`

So all texts serve a task equally often, neighbouring stories share some of them, and what a model makes of one story
can be compared over fillers. Facts lie at the same depths whatever the filler. Intervals are drawn over stories and
texts at once (`resampling.crossed_counts`).
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffmamba_interp.analysis.prompts import (
    BABI_ARCHIVE,
    AllocationOptions,
    PromptRecipe,
    about_prompts,
    model_cells,
    prompts_of,
    stories_of,
    sums_of_prompts,
)
from diffmamba_interp.analysis.question import Asked, Options, Question
from diffmamba_interp.analysis.results import data_sha256
from diffmamba_interp.files.json_files import plain
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import Filler, Haystack, NeedleSample, Story
from diffmamba_interp.needle.haystack import StoryTooLongError
from diffmamba_interp.needle.records import save_samples
from diffmamba_interp.text import TextSource
from diffmamba_interp.text.generated_text import generated_documents

UNSEEN_NOVELS = "novels_unseen"
"""Folder of `--data` with novels that no training saw, of a language model or of a lens."""
FILLER_CHARS = 40_000


@dataclass(frozen=True, kw_only=True)
class CrossedRecipe(PromptRecipe):
    """n: stories per cell. fillers: texts that each is hidden in. texts: how many there are to choose from.

    With stories "babi" the texts are unseen novels, with "generated" they are generated, each from a seed of its own.
    """

    fillers: int
    texts: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.fillers <= self.texts:
            raise ValueError(
                f"fillers is {self.fillers} and texts {self.texts}: a story is to be hidden in two texts at least, and "
                "in no more than there are."
            )
        if 0 in self.lengths:
            raise ValueError(
                f"lengths are {self.lengths}: a prompt of length 0 has no filler to compare; leave it out."
            )


def crossed_question(**fields: Any) -> Question:
    """A question about crossed prompts, measured model by model and cell by cell; fields: of `Question`."""
    given = {
        "recipe": CrossedRecipe,
        "options": AllocationOptions,
        "units": model_cells,
        "prepare": write_crossed_prompts,
        "sums": sums_of_prompts,
    }
    return Question(**{**given, **fields})


def write_crossed_prompts(recipe: CrossedRecipe, options: Options, path: Path) -> None:
    """The prompts of all cells in a file, with the text that each is hidden in, as `prompts.write_prompts` does.

    Raises ValueError where there are fewer texts than the recipe says.
    """
    tokenizer, named = load_demo_tokenizer(), texts_of(recipe, options.data)
    haystacks = {name: Haystack(tokenizer, Filler.from_texts(tokenizer, text)) for name, text in named.items()}
    samples: list[NeedleSample] = []
    filler_of: dict[str, list[str]] = {}
    for task, length in recipe.wanted:
        n = recipe.n[recipe.lengths.index(length)]
        # bAbI tells some of its short stories twice.
        stories = {story.hash: story for story in stories_of(task, recipe, options.data)}
        cell = crossed(haystacks, list(stories.values()), n=n, length=length, fillers=recipe.fillers, seed=recipe.seed)
        samples += [sample for _, sample in cell]
        filler_of[cell_name(task, length)] = [name for name, _ in cell]
    data = {name: options.data / name for name in (BABI_ARCHIVE, UNSEEN_NOVELS) if recipe.stories == "babi"}
    about = {"recipe": plain(asdict(recipe)), "data": data_sha256(data), "filler_of": filler_of}
    save_samples(path, samples, about)


def crossed(
    haystacks: dict[str, Haystack], stories: list[Story], *, n: int, length: int, fillers: int, seed: int
) -> list[tuple[str, NeedleSample]]:
    """Text and prompt of the first `n` stories that fit the length, story by story."""
    names, cell = list(haystacks), list[tuple[str, NeedleSample]]()
    for story in stories:
        first = len(cell)
        chosen = [names[place % len(names)] for place in range(first, first + fillers)]
        try:
            cell += [(name, haystacks[name].hide(story, length=length, seed=seed)) for name in chosen]
        except StoryTooLongError:
            continue
        if len(cell) == n * fillers:
            break
    return cell


def crossed_prompts_of(asked: Asked, task: str, length: int) -> tuple[list[NeedleSample], list[str]]:
    """The prompts of one cell, and the name of the text that each is hidden in."""
    names: list[str] = about_prompts(asked)["filler_of"][cell_name(task, length)]
    return prompts_of(asked, task, length), names


def cell_name(task: str, length: int) -> str:
    """How a file of prompts calls a cell."""
    return f"{task} {length}"


@functools.cache
def texts_of(recipe: CrossedRecipe, data: Path) -> dict[str, str]:
    """The texts by name: a novel's file without its endings, or the seed of a generated one.

    Raises ValueError where there are fewer than the recipe says.
    """
    if recipe.stories == "generated":
        seeds = range(recipe.seed, recipe.seed + recipe.texts)
        return {f"seed {k}": "\n\n".join(generated_documents(n_chars=FILLER_CHARS, seed=k)) for k in seeds}
    novels = list(TextSource(location=str(data / UNSEEN_NOVELS)).documents())
    if len(novels) < recipe.texts:
        raise ValueError(f"{data / UNSEEN_NOVELS} has {len(novels)} novels, but the recipe asks for {recipe.texts}.")
    return {Path(novel.source).name.split(".")[0]: novel.text for novel in novels[: recipe.texts]}
