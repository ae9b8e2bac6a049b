"""The retrieval prompts of the analyses: held-out stories hidden in held-out text, by task and length.

The same recipe gives every model, and every analysis, the same prompts: a sample is known by its task, length, story
and the recipe's seed, so records of different analyses can be joined on these. They are made once, on CPUs, and kept in
a file (`needle.records`) for the processes, or the machine, that measure.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.question import Asked, Options, Parts, Question, Unit, in_processes, joined
from diffmamba_interp.analysis.results import data_sha256, write_records
from diffmamba_interp.files.json_files import plain
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import TASKS, Filler, Haystack, NeedleSample, Story, heldout_babi_stories
from diffmamba_interp.needle.records import load_samples, save_samples
from diffmamba_interp.needle.samples import hide_stories
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.text import TextSource, documents_of_split
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.stable_random import StableRandom

BABI_ARCHIVE = "babi_tasks_v1-2.tar.gz"
NOVELS = "novels"
FILLER_CHARS = 200_000
# Generated stories beyond n, since those that are longer than a short prompt are passed over.
_SPARE_STORIES = 20

Cell = tuple[str, int]
"""Task and length."""


@dataclass(frozen=True, kw_only=True)
class PromptRecipe:
    """Which prompts to make.

    stories: "generated" (in generated text) or "babi" (held-out bAbI stories in held-out novels).
    lengths: of prompts, in tokens; 0 for the facts alone. n: prompts per cell, one number for each length, or one for
    all; where there are fewer stories, all of them. seed: decides stories, filler and positions.
    """

    stories: str
    lengths: tuple[int, ...]
    n: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        if self.stories not in ("generated", "babi"):
            raise ValueError(f'stories is {self.stories!r}: it must be "generated" or "babi".')
        if len(self.n) == 1:
            object.__setattr__(self, "n", self.n * len(self.lengths))
        if len(self.n) != len(self.lengths):
            raise ValueError(f"n has {len(self.n)} numbers: give one for each of the lengths {self.lengths}.")

    @property
    def wanted(self) -> list[Cell]:
        """Every cell, task by task."""
        return [(task, length) for task in TASKS for length in self.lengths]

    @property
    def is_large(self) -> bool:
        """Whether records are too many to be kept with all their digits; the generated prompts are measured again."""
        return self.stories != "generated"


@dataclass(frozen=True, kw_only=True)
class TaskRecipe(PromptRecipe):
    """tasks: asked for without filler. long_tasks: those of them that are asked at the lengths above 0, too."""

    tasks: tuple[str, ...]
    long_tasks: tuple[str, ...]

    @property
    def wanted(self) -> list[Cell]:
        """The longest first, since they take longest."""
        cells = [(task, length) for length in self.lengths for task in (self.long_tasks if length else self.tasks)]
        return sorted(cells, key=lambda cell: -cell[1])


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Options):
    """Of a question about prompts."""

    n: tuple[int, ...] | None = None
    """Prompts per cell instead of the recipe's: one number for each length, or one for all."""


@dataclass(frozen=True, kw_only=True)
class AllocationOptions(PromptOptions):
    """Of a question about contributions."""

    batch_tokens: int | None = None
    """Per forward pass; None chooses by device."""

    @property
    def size(self) -> int:
        """Tokens per forward pass."""
        return self.batch_tokens or (8_192 if self.device == "cpu" else 32_768)


def prompt_question(*, repeats: bool = False, **fields: Any) -> Question:
    """A question about prompts, measured model by model and cell by cell: `measure` takes model, task and length.

    repeats: keep the stories that bAbI tells twice. fields: of `Question`.
    """
    given = {
        "options": PromptOptions,
        "units": model_cells,
        "prepare": functools.partial(write_prompts, repeats=repeats),
        "sums": sums_of_prompts,
    }
    return Question(**{**given, **fields})


def model_cells(asked: Asked, models: Sequence[str]) -> list[Unit]:
    """Every cell of the recipe for every model."""
    return [(model, *cell) for model in models for cell in asked.recipe.wanted]


def write_prompts(
    recipe: PromptRecipe, options: Options, path: Path, *, repeats: bool, more: Mapping[str, Any] | None = None
) -> None:
    """The prompts of all cells in a file, with their recipe and the sums of what they are made of.

    repeats: as in `prompt_question`. more: JSON values to go with them.
    """
    calls = [(recipe, options.data, task, length) for task, length in recipe.wanted]
    cells = [prompts for _, prompts in sorted(in_processes(cell_prompts, calls, jobs=options.jobs), key=itemgetter(0))]
    samples = [sample for prompts in cells for sample in (prompts if repeats else each_once(prompts))]
    about = {"recipe": plain(asdict(recipe)), "data": data_sha256(data_of(recipe, options.data)), **(more or {})}
    save_samples(path, samples, about)


def keep_lines(
    folder: Path,
    recipe: PromptRecipe,
    parts: Parts,
    *,
    order: Sequence[str] = (),
    decimals: tuple[int, int] = (5, 2),
    snr_decimals: tuple[int, int] | None = None,
) -> None:
    """records.parquet in the order of columns, in which what is alike stands together and packs well.

    decimals: for few records, which are measured again and compared to 0.001, and for many. snr_decimals: the same of
    signal-to-noise ratios (dB).
    """
    columns = joined(parts, order=order)
    for name in columns:
        if snr_decimals is not None and name.startswith("snr_db"):
            columns[name] = columns[name].round(snr_decimals[recipe.is_large])
    write_records(folder / RECORDS, columns, decimals=decimals[recipe.is_large])


def prompts_of(asked: Asked, task: str, length: int) -> list[NeedleSample]:
    """The prompts of one cell. Raises ValueError if the file was made for another recipe."""
    return _read_material(asked)[0][task, length]


def about_prompts(asked: Asked) -> dict[str, Any]:
    """What `write_prompts` put beside the prompts: recipe, data, and whatever more it was given."""
    return _read_material(asked)[1]


def sums_of_prompts(asked: Asked) -> dict[str, str]:
    """Of the data that the prompts were made of, which a machine that measures need not have."""
    sums: dict[str, str] = about_prompts(asked)["data"]
    return sums


def cell_prompts(recipe: PromptRecipe, data: Path, task: str, length: int) -> list[NeedleSample]:
    """The prompts of one cell, made here.

    data: folder that holds the bAbI archive and the novels; generated stories need none.
    """
    n = recipe.n[recipe.lengths.index(length)]
    stories, haystack = _kept_stories(task, recipe, data), _kept_haystack(recipe, data)
    return hide_stories(haystack, stories, n=n, length=length, seed=recipe.seed)


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


# A process makes several cells: its filler and stories serve them all.
_kept_stories = functools.cache(stories_of)


@functools.cache
def _kept_haystack(recipe: PromptRecipe, data: Path) -> Haystack:
    tokenizer = load_demo_tokenizer()
    return Haystack(tokenizer, Filler.from_texts(tokenizer, filler_texts(recipe, data)))


def _read_material(asked: Asked) -> tuple[dict[Cell, list[NeedleSample]], dict[str, Any]]:
    assert asked.material is not None
    cells, about = _kept_material(asked.material)
    wanted = plain(asdict(asked.recipe))
    if about["recipe"] != wanted:
        raise ValueError(f"{asked.material} was made for {about['recipe']}, not for {wanted}: prepare it again.")
    return cells, about


@functools.cache
def _kept_material(path: Path) -> tuple[dict[Cell, list[NeedleSample]], dict[str, Any]]:
    samples, about = load_samples(path, load_demo_tokenizer())
    cells = defaultdict(list)
    for sample in samples:
        cells[sample.task, sample.length].append(sample)
    return cells, about
