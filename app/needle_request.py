"""What is asked of the needle page: prompts, models and lenses; read step by step, so that it can be stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from app import loading
from app.lens_request import LensRequest
from app.loading import ModelKey
from app.needle_found import NeedleFound
from diffmamba_interp import HookedMamba
from diffmamba_interp.implicit_attention.prompt_allocation import allocate_prompts
from diffmamba_interp.lens import LogitLens, TunedLens, load_lens
from diffmamba_interp.needle import NeedleSample, Story, make_needle_samples, needle_trajectory

STEP_TOKENS = 1024
"""Of the prompts that are read before the page is drawn again: about a second."""

FACT_TOKENS = {"qa1": 55, "qa2": 105, "qa3": 310, "qa4": 35, "qa5": 155}
"""About what a story without filler takes, in the bundled tokens."""

TUNED, LOGIT = "tuned", "logit"


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """task, length (tokens, 0 for no filler), n, seed: of generated prompts. stories: pasted ones, in their place."""

    task: str
    length: int
    n: int
    seed: int
    stories: tuple[Story, ...] = ()

    @property
    def n_prompts(self) -> int:
        return len(self.stories) or self.n

    @property
    def n_tokens(self) -> int:
        """About how many tokens all prompts have."""
        if self.stories:
            return sum(sum(map(len, story.facts)) // 3 + 20 for story in self.stories)
        return self.n * (self.length or FACT_TOKENS[self.task])

    @property
    def in_words(self) -> str:
        """Which prompts, for titles."""
        if self.stories:
            return f"{len(self.stories)} pasted prompts"
        return f"{self.task} at {self.length} tokens, {self.n} prompts of seed {self.seed}"

    def samples(self, key: ModelKey) -> list[NeedleSample]:
        """The prompts in the model's tokens. Raises ValueError where too few stories fit the length."""

        def make() -> list[NeedleSample]:
            wrapped = PreTrainedTokenizerFast(tokenizer_object=loading.tokenizer(key))
            if self.stories:
                return make_needle_samples(wrapped, stories=self.stories, n=None, length=0)
            return make_needle_samples(wrapped, task=self.task, n=self.n, length=self.length, seed=self.seed)

        return loading.cache().get(("samples", key.folder, key.revision, self), make, _sample_bytes)


@dataclass(frozen=True, kw_only=True)
class NeedleRead:
    """One model and how it is read. lens: of the first curves. with_logit: the logit lens beside a tuned one?
    attention: what the last position reads, block by block, too?"""

    name: str
    key: ModelKey
    lens: LensRequest
    with_logit: bool = False
    attention: bool = True

    @property
    def lens_names(self) -> list[str]:
        """As the curves call them."""
        if self.lens.lens is None:
            return [LOGIT]
        return [TUNED, LOGIT] if self.with_logit else [TUNED]

    def lenses(self, model: HookedMamba) -> dict[str, LogitLens | TunedLens]:
        """By name. Raises ValueError for the lens of another model."""
        logit = LogitLens.from_model(model)
        return {n: logit if n == LOGIT or self.lens.lens is None else load_lens(self.lens.lens, model)
                for n in self.lens_names}  # fmt: skip


def run_needle(reads: Sequence[NeedleRead], request: SampleRequest) -> Iterator[tuple[float, list[NeedleFound]]]:
    """Share done and what is found so far, one per model, all of the same prompts; the list is empty at first.

    Between the steps others can use the models. What was read before comes from the cache.
    """
    samples = request.samples(reads[0].key)
    lenses: dict[NeedleRead, dict[str, LogitLens | TunedLens]] = {}
    at_a_time = max(1, STEP_TOKENS // max(sample.n_tokens for sample in samples))
    found: list[NeedleFound] = []
    for start in range(0, len(samples), at_a_time):
        chosen = samples[start : start + at_a_time]
        parts = []
        for place, read in enumerate(reads):
            parts.append(_read(read, request, start, chosen, lenses))
            done = start + len(chosen) * (place + 1) / len(reads)
            if place + 1 < len(reads):
                yield done / len(samples), found
        found = [one.joined(part) for one, part in zip(found, parts, strict=True)] if found else parts
        yield (start + len(chosen)) / len(samples), found


def _read(
    read: NeedleRead, request: SampleRequest, start: int, samples: list[NeedleSample],
    opened: dict[NeedleRead, dict[str, LogitLens | TunedLens]],
) -> NeedleFound:  # fmt: skip
    """opened: the lenses of this run, which are read from their files once."""

    def make(model: HookedMamba) -> NeedleFound:
        if read not in opened:
            opened[read] = read.lenses(model)
        return NeedleFound(
            trajectory=needle_trajectory(model, opened[read], samples, name=read.name),
            allocation=allocate_prompts(model, samples) if read.attention else None,
        )

    return loading.result(read.key, ("needle", read, request, start), make, lambda found: found.nbytes + 10_000)


def _sample_bytes(samples: list[NeedleSample]) -> int:
    return 100 * sum(sample.n_tokens for sample in samples)
