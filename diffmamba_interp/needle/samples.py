"""`make_needle_samples`: retrieval prompts by the list, from generated or real stories."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from diffmamba_interp.argument_checks import Count, Natural, checked
from diffmamba_interp.needle.babi import (
    babi_stories_of_split,
    babi_training_hashes,
    heldout_babi_stories,
    read_babi,
    read_babilong_indices,
)
from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.haystack import Haystack, StoryTooLongError
from diffmamba_interp.needle.records import Depth, NeedleSample
from diffmamba_interp.needle.stories import Story, without_training_stories
from diffmamba_interp.needle.tasks import generate_story, iterate_stories
from diffmamba_interp.needle.vocabulary import VocabularyName
from diffmamba_interp.text.documents import Bos, Split, require_split
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.stable_random import StableRandom

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Without filler of the caller's: generated text of about this many characters per token of length.
_FILLER_CHARS_PER_TOKEN = 12
_MIN_FILLER_CHARS = 100_000
_MAX_GENERATED_TOKENS = 2**21
# Stories in a row that do not fit the length, after which none is expected to.
_PATIENCE = 2_000


@checked
def make_needle_samples(
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: str = "qa1",
    n: Count | None = 100,
    length: Natural = 1024,
    depth: Depth = None,
    filler: Filler | str | Sequence[str] | None = None,
    stories: str | Iterable[Story] = "generated",
    babi_path: str | Path | None = None,
    babilong_index: str | Path | None = None,
    split: Split = "eval",
    seed: int = 0,
    vocabulary: VocabularyName = "babi",
    n_facts: tuple[int, int] | None = None,
    exclude: Set[str] = frozenset(),
    bos: Bos = "auto",
) -> list[NeedleSample]:
    """`n` prompts of one task, at most `length` tokens long; for evaluation, no story twice.

    task: "qa1" to "qa5".
    n: how many; `None` for all there are (real or given stories).
    length: target in tokens, 0 for no filler. Stories that are longer by themselves are passed over, so at
        small lengths those with many facts are missing; the log says how many.
    depth: see `Haystack.hide`.
    filler: running text to hide the facts in, or a `Filler` made of it (worth keeping for several calls);
        `None` takes generated text that mentions no label.
    stories: "generated"; "babi" for real files (`babi_path`); or stories of your own, taken in
        order, whatever their split.
    babi_path: the bAbI archive or folder. With generated stories it keeps training clear of real test
        stories: those that no training file holds are never generated for a training split.
    babilong_index: take BABILong's choice of real test stories, less those in training.
    split: "eval" never gives a story of the training splits. In those, stories may recur, so sample i takes
        its filler and positions from seed + i.
    seed: decides stories, filler and positions. The same seed gives the same stories at every length that
        they fit.
    vocabulary, n_facts, exclude: see `iterate_stories`.
    bos: whether prompts begin with the tokenizer's beginning-of-text token: "auto" (as its template has it), "always"
        or "never".
    Raises ValueError if there are fewer than `n` stories, or none that fits `length`.
    """
    distinct = require_split(split) == "eval"
    if not isinstance(stories, str):
        source: Iterable[Story] = stories
    elif stories == "babi":
        source = _real_stories(task, babi_path, babilong_index, split, seed)
    elif stories == "generated":
        if n is None:
            raise ValueError("generated stories never end: give n, the number of samples.")
        if babi_path is not None and split != "eval":
            exclude = exclude | {story.hash for story in heldout_babi_stories(babi_path, task)}
        source = iterate_stories(
            task, seed=seed, split=split, vocabulary=vocabulary, n_facts=n_facts, exclude=exclude, distinct=distinct
        )
    else:
        raise ValueError(f"stories is {stories!r}: it must be 'generated', 'babi' or stories themselves.")
    haystack = Haystack(tokenizer, _prepare_filler(tokenizer, filler, length), bos=bos)
    if stories == "generated" and n_facts is not None and length > 0:
        _require_room(tokenizer, generate_story(task, seed=seed, index=0, n_facts=n_facts), n_facts, length)
    allowed = (story for story in source if story.hash not in exclude)
    samples = hide_stories(haystack, allowed, n=n, length=length, depth=depth, seed=seed, distinct=distinct)
    if not samples or (n is not None and len(samples) < n):
        raise ValueError(
            f"only {len(samples)} stories of {task} (split {split!r}) fit a length of {length} tokens, but "
            f"n is {n}: ask for fewer (n=None for all real ones), or for a greater length."
        )
    return samples


def hide_stories(
    haystack: Haystack,
    stories: Iterable[Story],
    *,
    n: int | None,
    length: int,
    seed: int,
    depth: Depth = None,
    distinct: bool = True,
) -> list[NeedleSample]:
    """The first `n` stories that fit the length, as prompts; fewer if there are no more, or if none seems to fit.

    distinct: no story comes twice; otherwise story i takes its filler and positions from seed + i.
    """
    return list(itertools.islice(_hide_all(haystack, stories, length, depth, seed, distinct), n))


def _require_room(tokenizer: PreTrainedTokenizerBase, story: Story, n_facts: tuple[int, int], length: int) -> None:
    """Refuse a number of facts that stories of `length` tokens do not have, which looking for them would take long."""
    fewest = n_facts[0]
    per_fact = len(tokenizer(" ".join(story.facts)).input_ids) / len(story.facts)
    # The mean over many facts is nearly the same in every story; that over a few is not.
    least = int(fewest * per_fact * (1 - fewest**-0.5))
    if least > length:
        raise ValueError(
            f"n_facts is {n_facts}, and {fewest} facts take about {int(fewest * per_fact)} tokens, but length is "
            f"{length}: ask for fewer facts, or for a greater length."
        )


def _hide_all(
    haystack: Haystack, stories: Iterable[Story], length: int, depth: Depth, seed: int, distinct: bool
) -> Iterator[NeedleSample]:
    too_long = in_a_row = 0
    try:
        for index, story in enumerate(stories):
            try:
                sample = haystack.hide(story, length=length, depth=depth, seed=seed if distinct else seed + index)
            except StoryTooLongError:
                too_long, in_a_row = too_long + 1, in_a_row + 1
                if in_a_row > _PATIENCE:
                    return
                continue
            in_a_row = 0
            yield sample
    finally:
        if too_long:
            logger.info("%d stories passed over: longer than %d tokens without filler", too_long, length)


def _real_stories(task: str, path: str | Path | None, index: str | Path | None, split: Split, seed: int) -> list[Story]:
    if path is None:
        raise ValueError("stories='babi' needs babi_path: the bAbI archive (.tar.gz) or its folder.")
    if index is None:
        return StableRandom("babi", task, seed).shuffled(babi_stories_of_split(path, task, split))
    if split != "eval":
        raise ValueError(f"babilong_index names test stories: split must be 'eval', not {split!r}.")
    chosen = read_babilong_indices(index).get(task)
    if chosen is None:
        raise ValueError(f"{index} names no samples of {task}.")
    test = read_babi(path, task, part="test", edition="en-10k")
    if max(chosen, default=0) >= len(test):
        raise ValueError(f"{index} names story {max(chosen)} of {task}, but its test file has {len(test)}.")
    return without_training_stories((test[i] for i in chosen), babi_training_hashes(path, [task]))


def _prepare_filler(
    tokenizer: PreTrainedTokenizerBase, filler: Filler | str | Sequence[str] | None, length: int
) -> Filler | None:
    if isinstance(filler, Filler):
        return filler
    if filler is not None:
        return Filler.from_texts(tokenizer, filler)
    if length == 0:
        return None
    if length > _MAX_GENERATED_TOKENS:
        raise ValueError(
            f"length is {length}: filler is generated for {_MAX_GENERATED_TOKENS:,} tokens at most; give a filler, "
            "such as a book, for longer prompts."
        )
    n_chars = max(_MIN_FILLER_CHARS, _FILLER_CHARS_PER_TOKEN * length)
    return Filler.from_texts(tokenizer, generated_documents(n_chars=n_chars))
