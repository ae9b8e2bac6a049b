"""What is asked of the needle page: prompts, models and lenses; read step by step, so that it can be stopped.

What a run will take is told before it: the passes are counted in units that are measured on the machine (`estimates`);
the constants here were measured on two cores with the bundled pair, and are small beside the passes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

from transformers import PreTrainedTokenizerFast

from app.shell import loading
from app.shell.estimates import forward_bytes, forward_seconds, model_bytes
from app.shell.folders import ModelKey
from app.shell.lens_reading import LensRequest
from app.shell.loading import ChosenModel
from app.shell.needle_runs import MAX_SAMPLES, NeedleReading
from app.shell.steps import Ref, Step
from diffmamba_interp import HookedMamba
from diffmamba_interp.figures.needle import SIGNIFICANT
from diffmamba_interp.implicit_attention.allocation import PassAllocation, allocate_prompts
from diffmamba_interp.lens import LogitLens, load_lens
from diffmamba_interp.models.read_out import Lens
from diffmamba_interp.needle import (
    Curve,
    NeedleSample,
    PairedCurve,
    ProbeRecord,
    Story,
    make_needle_samples,
    needle_trajectory,
    probe_answers,
)
from diffmamba_interp.needle.calibration import N_FOLDS
from diffmamba_interp.needle.curves import GroupKey
from diffmamba_interp.needle.trajectory import PIECE_TOKENS
from diffmamba_interp.resampling import N_RESAMPLES
from diffmamba_interp.statistics import MIN_SAMPLES, least_samples, smallest_p

STEP_TOKENS = 1024
"""Of the prompts that are read before the page is drawn again: about a second."""

FACT_TOKENS = {"qa1": 55, "qa2": 105, "qa3": 310, "qa4": 35, "qa5": 155}
"""About what a story without filler takes, in the bundled tokens."""

LOGIT = "logit"
MAX_CHARACTERS = 400_000
SOURCE = "pasted"
TASK = "qa1"
"""Of a story that says nothing else; it decides nothing here."""

FIELDS = ("context", "needle", "question", "answer", "distractors")
EXAMPLE = """[
 {"context": "John moved to the garden. Mary went to the kitchen. John went back to the hallway.",
  "needle": "John went back to the hallway.",
  "question": "Where is John?", "answer": "hallway", "distractors": ["garden", "kitchen", "office"]},
 {"context": "Sandra travelled to the office. Daniel went to the garden. Mary journeyed to the bathroom.",
  "needle": "Sandra travelled to the office.",
  "question": "Where is Sandra?", "answer": "office", "distractors": ["garden", "kitchen", "bathroom"]}
]"""
ATTENTION_PASSES = 0.2
"""What the last position reads takes so many forward passes beside the one that it shares with the lens."""

READ_OUT_COST = 6
"""Ranks, entropy and divergence beside the probabilities: so many times a plain read-out."""

OPEN_S, LOAD_BYTES_PER_S = 0.1, 2e8
PROMPTS_S, PROMPT_S, TOKEN_S = 0.3, 2e-3, 1e-5
FIGURES_S, DRAW_S = 0.3, 1.2e-9
"""Seconds for the figures, and for one number of one resample."""

MEASURES = 2
"""Drawn at a time: the chosen one and the SNR."""

PROBE_BYTES = 40
"""What is kept of a prompt at a stage, of probes."""

PROBES_S = 0.03
"""For the probes of a stage and fold, of the answers or the shuffled ones."""

FOUND_BYTES = 6_000
"""What is kept of a prompt, a model and a lens."""


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
            # Others may be as many.
            return f"{len(self.stories)} pasted prompts, {crc32(repr(self.stories).encode()):08x}"
        return f"{self.task} at {self.length} tokens, {self.n} prompts of seed {self.seed}"

    @property
    def said(self) -> tuple[GroupKey, ...]:
        """What there is to say of all prompts; pasted ones are of no task."""
        return () if self.stories else ("task", "length")

    @property
    def step(self) -> Step:
        """What makes the prompts with `tokenizer`."""
        if self.stories:
            return Step("samples", make_needle_samples, Ref("tokenizer"), stories=self.stories, n=None, length=0)
        given = {"task": self.task, "n": self.n, "length": self.length, "seed": self.seed}
        return Step("samples", make_needle_samples, Ref("tokenizer"), **given)

    def samples(self, key: ModelKey) -> list[NeedleSample]:
        """The prompts in the model's tokens. Raises ValueError where too few stories fit the length."""

        def make() -> list[NeedleSample]:
            wrapped = PreTrainedTokenizerFast(tokenizer_object=loading.tokenizer(key))
            # A pasted one is of no task, so that nothing is told of it that was measured of one.
            return [replace(sample, task=self.task) for sample in self.step.run({"tokenizer": wrapped})]

        return loading.cache().get(("samples", key.folder, key.revision, self), make, _sample_bytes)


@dataclass(frozen=True, kw_only=True)
class NeedleRead:
    """One model and how it is read. lens: of the first curves. with_logit: the logit lens beside another one?
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
        return [self.lens.name, LOGIT] if self.with_logit else [self.lens.name]

    @property
    def lenses_step(self) -> Step:
        """The lenses of `model` by name."""
        logit = Step("", LogitLens.from_model, Ref("model"))
        opened = logit if self.lens.lens is None else Step("", load_lens, self.lens.lens, Ref("model"))
        return Step("lenses", dict, **{name: logit if name == LOGIT else opened for name in self.lens_names})

    def trajectory_step(self, name: str = "trajectory") -> Step:
        return Step(name, needle_trajectory, Ref("model"), Ref("lenses"), Ref("samples"), name=self.name)

    def probes_step(self, name: str = "probes") -> Step:
        """Linear probes of the answer."""
        return Step(name, probe_answers, Ref("model"), Ref("samples"), name=self.name)

    def allocation_step(self, name: str = "allocation") -> Step:
        """What the last position reads."""
        return Step(name, allocate_prompts, Ref("model"), Ref("samples"))


def default_n(models: Sequence[ChosenModel]) -> int:
    """So many prompts that a difference can be marked at one stage of the model with the most of them."""
    return max(MIN_SAMPLES, least_samples(max(model.cfg.n_layers for model in models) + 1, level=SIGNIFICANT))


def too_few_to_mark(curves: Sequence[Curve], n: int) -> str:
    """That no difference can be marked with n prompts, and with how many one can; "" where one can or none is drawn."""
    n_stages = max((len(curve.stages) for curve in curves if isinstance(curve, PairedCurve)), default=0)
    smallest = min(n_stages * smallest_p(n), 1.0)
    if smallest < SIGNIFICANT:
        return ""
    return (
        f"{n} prompts are too few for a mark, whatever they show: corrected for {n_stages} stages, p cannot fall below "
        f"{smallest:.2g}, and a mark needs {SIGNIFICANT:g}. From {least_samples(n_stages, level=SIGNIFICANT)} prompts "
        "on it can."
    )


def run_probes(reads: Sequence[NeedleRead], request: SampleRequest, at: int) -> ProbeRecord:
    """Probes of one of the models, from memory where they were fitted before. Raises ValueError for too few stories."""
    read = reads[at]
    samples = request.samples(reads[0].key)

    def make(model: HookedMamba) -> ProbeRecord:
        return read.probes_step().run({"model": model, "samples": samples})

    size = PROBE_BYTES * len(samples) * n_stages(read)
    return loading.result(read.key, ("probes", read.name, request), make, lambda _: size)


def run_needle(reads: Sequence[NeedleRead], request: SampleRequest) -> Iterator[tuple[float, list[NeedleReading]]]:
    """Share done and what is read so far, one per model, all of the same prompts; the list is empty at first.

    Between the steps others can use the models. What was read before comes from the cache.
    """
    samples = request.samples(reads[0].key)
    lenses: dict[NeedleRead, dict[str, Lens]] = {}
    at_a_time = max(1, STEP_TOKENS // max(sample.n_tokens for sample in samples))
    readings: list[NeedleReading] = []
    for start in range(0, len(samples), at_a_time):
        chosen = samples[start : start + at_a_time]
        parts = []
        for place, read in enumerate(reads):
            parts.append(_read(read, request, start, chosen, lenses))
            done = start + len(chosen) * (place + 1) / len(reads)
            if place + 1 < len(reads):
                yield done / len(samples), readings
        readings = [before.joined(part) for before, part in zip(readings, parts, strict=True)] if readings else parts
        yield (start + len(chosen)) / len(samples), readings


def _read(
    read: NeedleRead, request: SampleRequest, start: int, samples: list[NeedleSample],
    opened: dict[NeedleRead, dict[str, Lens]],
) -> NeedleReading:  # fmt: skip
    """opened: the lenses of this run, which are read from their files once."""

    def make(model: HookedMamba) -> NeedleReading:
        if read not in opened:
            opened[read] = read.lenses_step.run({"model": model})
        given = {"model": model, "lenses": opened[read], "samples": samples}
        if not read.attention:
            return NeedleReading(trajectory=read.trajectory_step().run(given), allocation=None)
        if max(sample.n_tokens for sample in samples) > PIECE_TOKENS:
            return NeedleReading(
                trajectory=read.trajectory_step().run(given), allocation=read.allocation_step().run(given)
            )
        # What the last position reads, of the trajectory's own pass: the printed step would make a second one.
        reading = PassAllocation(model, samples)
        trajectory = read.trajectory_step().run(given, around=reading.around)
        return NeedleReading(trajectory=trajectory, allocation=reading.allocation)

    return loading.result(read.key, ("needle", read, request, start), make, lambda reading: reading.nbytes + 10_000)


def _sample_bytes(samples: list[NeedleSample]) -> int:
    return 100 * sum(sample.n_tokens for sample in samples)


def parse_stories(pasted: str) -> tuple[Story, ...]:
    """The stories of a JSON list of objects with the keys of `FIELDS`; the needle is a text that the context holds.

    What stands before and after the needle is taken as competing facts. Raises ValueError, saying which sample, for
    what is no such list.
    """
    if len(pasted) > MAX_CHARACTERS:
        raise ValueError(f"the samples have {len(pasted):,} characters: give at most {MAX_CHARACTERS:,}.")
    try:
        values = json.loads(pasted)
    except json.JSONDecodeError as error:
        raise ValueError(f"the samples are no JSON ({error}): give a list as in the example.") from error
    except RecursionError as error:
        raise ValueError("the samples are nested too deeply: give a list of objects as in the example.") from error
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_SAMPLES:
        raise ValueError(f"give a JSON list of 1 to {MAX_SAMPLES} samples, as in the example.")
    stories = tuple(_story(number, sample) for number, sample in enumerate(values))
    if len(set(stories)) < len(stories):
        raise ValueError("a sample is given twice, and would count twice in every interval: give each once.")
    return stories


def _story(number: int, values: Any) -> Story:
    where = f"sample {number}"
    if not isinstance(values, dict) or set(values) != set(FIELDS):
        raise ValueError(f"{where} must be an object with the keys {', '.join(FIELDS)}, and no other.")
    context, needle, question, answer = (_text(where, name, values[name]) for name in FIELDS[:4])
    others = values["distractors"]
    if not isinstance(others, list) or not others:
        raise ValueError(f"{where}: distractors must be a list of at least one text, the wrong answers.")
    labels = {_text(where, "each distractor", other) for other in others}
    if answer in labels:
        raise ValueError(f"{where} has its answer {answer[:40]!r} among the distractors: take it out there.")
    before, at, after = context.partition(needle)
    if not at:
        raise ValueError(f"{where}: the needle {needle[:60]!r} does not occur in the context, letter by letter.")
    facts = [before.strip(), needle, after.strip()]
    return Story(
        task=TASK,
        facts=tuple(filter(None, facts)),
        question=question,
        answer=answer,
        labels=tuple(sorted({answer, *labels})),
        supporting=(1 if facts[0] else 0,),
        source=SOURCE,
    )


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {name} must be a text that is not empty.")
    # Half of a surrogate pair can be written in JSON but not encoded.
    return value.strip().encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True, kw_only=True)
class NeedleEstimate:
    """Seconds of the parts of a run, and bytes at its largest.

    loading_s: models and lenses that are not in memory. prompts_s: making them. reading_s: the passes and the lenses'
    read-outs. attention_s: what the last position reads. error_bars_s: bootstrap, tests and figures.
    memory_bytes: models and lenses, the activations of one step, and what is kept.
    """

    loading_s: float
    prompts_s: float
    reading_s: float
    attention_s: float
    error_bars_s: float
    memory_bytes: int

    @property
    def seconds(self) -> float:
        return self.loading_s + self.prompts_s + self.reading_s + self.attention_s + self.error_bars_s

    @property
    def in_words(self) -> str:
        """The greater parts."""
        parts = {"lens": self.reading_s, "what is read": self.attention_s,
                 "loading": self.loading_s + self.prompts_s, "error bars": self.error_bars_s}  # fmt: skip
        return ", ".join(f"{name} {part:.0f} s" for name, part in parts.items() if part >= 0.5) or "all of it short"


def estimate(reads: Sequence[NeedleRead], request: SampleRequest) -> NeedleEstimate:
    """For all models together."""
    held = {key for key, _ in loading.held_models()}
    to_load = [model_bytes(read.key) for read in reads if read.key not in held] + [
        bytes_ for read in reads if (bytes_ := lens_bytes(read))
    ]
    n_tokens, n_prompts = request.n_tokens, request.n_prompts
    longest = max(n_tokens // n_prompts, 1)
    at_a_time = min(max(1, STEP_TOKENS // longest), n_prompts)
    numbers = sum(len(read.lens_names) * n_stages(read) for read in reads) * MEASURES
    passes = ATTENTION_PASSES + (longest > PIECE_TOKENS)
    step = max(
        forward_bytes(read.key, at_a_time * longest, at_a_time)
        + 4 * READ_OUT_COST * at_a_time * loading.config(read.key).d_vocab
        for read in reads
    )
    return NeedleEstimate(
        loading_s=sum(OPEN_S + bytes_ / LOAD_BYTES_PER_S for bytes_ in to_load),
        prompts_s=PROMPTS_S + PROMPT_S * n_prompts + TOKEN_S * n_tokens,
        reading_s=sum(forward_seconds(read.key, n_tokens, n_read_outs(read, n_prompts)) for read in reads),
        attention_s=sum(passes * forward_seconds(read.key, n_tokens) for read in reads if read.attention),
        error_bars_s=FIGURES_S + DRAW_S * N_RESAMPLES * n_prompts * numbers,
        memory_bytes=sum(model_bytes(read.key) + lens_bytes(read) for read in reads)
        + step
        + FOUND_BYTES * n_prompts * sum(len(read.lens_names) for read in reads),
    )


def probe_seconds(reads: Sequence[NeedleRead], request: SampleRequest) -> float:
    """For the probes of all models together."""
    fits = sum(2 * N_FOLDS * n_stages(read) for read in reads)
    return PROBES_S * fits + sum(forward_seconds(read.key, request.n_tokens) for read in reads)


def n_read_outs(read: NeedleRead, n_prompts: int) -> int:
    """In plain read-outs, over all prompts, stages and lenses."""
    return READ_OUT_COST * n_prompts * n_stages(read) * len(read.lens_names)


def n_stages(read: NeedleRead) -> int:
    return loading.config(read.key).n_layers + 1


def lens_bytes(read: NeedleRead) -> int:
    """Of a tuned or Jacobian lens, which is read in float32; the logit lens has nothing of its own."""
    if read.lens.lens is None:
        return 0
    cfg = loading.config(read.key)
    return 4 * cfg.n_layers * cfg.d_model * (cfg.d_model + 1)
