"""What a needle run will take: loading, making the prompts, both models' passes, and the error bars; and its memory.

The passes are counted in units that are measured on the machine (`estimates`). The constants below were measured on
two cores with the bundled pair, and are small beside the passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app import loading
from app.estimates import forward_bytes, forward_seconds, model_bytes
from app.needle_request import STEP_TOKENS, NeedleRead, SampleRequest
from diffmamba_interp.statistics import N_RESAMPLES

ATTENTION_PASSES = 1.2
"""What the last position reads takes so many forward passes."""

READ_OUT_COST = 6
"""Ranks, entropy and divergence beside the probabilities: so many times a plain read-out."""

OPEN_S, LOAD_BYTES_PER_S = 0.1, 2e8
PROMPTS_S, PROMPT_S, TOKEN_S = 0.3, 2e-3, 1e-5
FIGURES_S, DRAW_S = 0.3, 1.2e-9
"""Seconds for the figures, and for one number of one resample."""

MEASURES = 2
"""Drawn at a time: the chosen one and the SNR."""

FOUND_BYTES = 6_000
"""What is kept of a prompt, a model and a lens."""


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
    step = max(
        forward_bytes(read.key, at_a_time * longest, at_a_time)
        + 4 * READ_OUT_COST * at_a_time * loading.config(read.key).d_vocab
        for read in reads
    )
    return NeedleEstimate(
        loading_s=sum(OPEN_S + bytes_ / LOAD_BYTES_PER_S for bytes_ in to_load),
        prompts_s=PROMPTS_S + PROMPT_S * n_prompts + TOKEN_S * n_tokens,
        reading_s=sum(forward_seconds(read.key, n_tokens, n_read_outs(read, n_prompts)) for read in reads),
        attention_s=sum(ATTENTION_PASSES * forward_seconds(read.key, n_tokens) for read in reads if read.attention),
        error_bars_s=FIGURES_S + DRAW_S * N_RESAMPLES * n_prompts * numbers,
        memory_bytes=sum(model_bytes(read.key) + lens_bytes(read) for read in reads)
        + step
        + FOUND_BYTES * n_prompts * sum(len(read.lens_names) for read in reads),
    )


def n_read_outs(read: NeedleRead, n_prompts: int) -> int:
    """In plain read-outs, over all prompts, stages and lenses."""
    return READ_OUT_COST * n_prompts * n_stages(read) * len(read.lens_names)


def n_stages(read: NeedleRead) -> int:
    return loading.config(read.key).n_layers + 1


def lens_bytes(read: NeedleRead) -> int:
    """Of a tuned lens, which is read in float32; the logit lens has nothing of its own."""
    if read.lens.lens is None:
        return 0
    cfg = loading.config(read.key)
    return 4 * cfg.n_layers * cfg.d_model * (cfg.d_model + 1)
