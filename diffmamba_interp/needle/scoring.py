"""Scoring the labels of retrieval prompts by log-likelihood: which label does the model find most probable?

    score(label) = sum_k log p(label_k | prompt, label_<k)

The prompt is read once; each label is continued from its recurrent state. Prompts of similar length share a
batch, padded on the right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.prompt_batches import batches, is_real, padded, unless_equal
from diffmamba_interp.models.recurrent_state import RecurrentState
from diffmamba_interp.needle.records import NeedleSample

BATCH_TOKENS = 65_536


@dataclass(frozen=True, kw_only=True)
class LabelScores(JsonRecord):
    """What a model makes of the labels of one prompt.

    log_probs: log-probability (nats) of " " + label after the prompt, in the order of the sample's labels.
    n_label_tokens: tokens of each label. answer: index of the right label.
    generated: the tokens that greedy generation continues the prompt with, as many as were asked for.
    """

    log_probs: tuple[float, ...]
    n_label_tokens: tuple[int, ...]
    answer: int
    generated: tuple[int, ...] = ()

    @property
    def predicted(self) -> int:
        """Index of the most probable label."""
        return self.log_probs.index(max(self.log_probs))

    @property
    def is_right(self) -> bool:
        return self.predicted == self.answer

    @property
    def probability(self) -> float:
        """Probability of the answer among the labels, in [0, 1]."""
        greatest = max(self.log_probs)
        return math.exp(self.log_probs[self.answer] - greatest) / sum(math.exp(s - greatest) for s in self.log_probs)


@torch.no_grad()
def score_labels(
    model: HookedMamba,
    samples: Sequence[NeedleSample],
    *,
    batch_tokens: int = BATCH_TOKENS,
    n_generated: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> list[LabelScores]:
    """Scores of every sample, in their order.

    batch_tokens: tokens per batch, padding included; one longer prompt makes a batch of its own.
    n_generated: tokens to generate after each prompt, greedily; the prompt is not read again for them.
    on_progress: called with the number of samples done since the last call.
    Raises ValueError if there are no samples.
    """
    if not samples:
        raise ValueError("there are no samples to score: give at least one.")
    device = model.embed.weight.device
    results: dict[int, LabelScores] = {}
    n_labels = [len(sample.labels) for sample in samples]
    for indices in batches([sample.n_tokens for sample in samples], batch_tokens, kinds=n_labels):
        chosen = [samples[i] for i in indices]
        tokens = padded([sample.tokens for sample in chosen]).to(device)
        lengths = unless_equal([sample.n_tokens for sample in chosen], device)
        logits, state = model.forward_with_state(tokens, lengths=lengths, last_only=True)
        scores = _label_scores(model, logits[:, 0], state, [sample.label_tokens for sample in chosen])
        generated = _generate(model, logits[:, 0], state, n_generated)
        for i, sample, row, continuation in zip(indices, chosen, scores, generated, strict=True):
            results[i] = LabelScores(
                log_probs=tuple(row),
                n_label_tokens=tuple(map(len, sample.label_tokens)),
                answer=sample.labels.index(sample.answer),
                generated=tuple(continuation),
            )
        if on_progress is not None:
            on_progress(len(indices))
    return [results[i] for i in range(len(samples))]


def accuracy(scores: Sequence[LabelScores]) -> float:
    """Share of samples whose most probable label is the answer, in [0, 1]."""
    return sum(one.is_right for one in scores) / len(scores)


def wilson_interval(n_right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's confidence interval of a proportion, by default 95 %."""
    if not 0 <= n_right <= n or n < 1:
        raise ValueError(f"{n_right} of {n} is no proportion.")
    share, denominator = n_right / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / denominator
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / denominator
    return max(0.0, centre - half), min(1.0, centre + half)


def _label_scores(
    model: HookedMamba,
    logits: Float[Tensor, "batch d_vocab"],
    state: RecurrentState,
    labels: Sequence[tuple[tuple[int, ...], ...]],
) -> list[list[float]]:
    """[batch, label] sums of log-probabilities."""
    n_labels = len(labels[0])
    flat = [list(tokens) for sample in labels for tokens in sample]
    targets = padded(flat).to(logits.device)
    first = torch.log_softmax(logits, dim=-1).repeat_interleave(n_labels, dim=0)
    total = first.gather(-1, targets[:, :1])[:, 0]
    if targets.shape[1] > 1:
        later, _ = model.forward_with_state(targets[:, :-1], state.repeat(n_labels))
        log_probs = torch.log_softmax(later, dim=-1).gather(-1, targets[:, 1:, None])[..., 0]
        real = is_real(flat, targets.shape[1])[:, 1:].to(logits.device)
        total = total + (log_probs * real).sum(dim=-1)
    return total.view(-1, n_labels).tolist()


def _generate(
    model: HookedMamba, logits: Float[Tensor, "batch d_vocab"], state: RecurrentState, n: int
) -> list[list[int]]:
    """[batch, n] tokens, each the most probable one."""
    tokens: list[Tensor] = []
    n_real = model.cfg.d_vocab - model.cfg.d_vocab_padding
    while len(tokens) < n:
        tokens.append(logits[:, :n_real].argmax(dim=-1))
        if len(tokens) < n:
            later, state = model.forward_with_state(tokens[-1][:, None], state)
            logits = later[:, 0]
    return torch.stack(tokens, dim=1).tolist() if tokens else [[] for _ in range(len(logits))]
