"""`allocate` over many prompts: their spans, the directions of their answers, and batches of similar length.

"answer"     logit of the answer's first token
"contrast"   that logit less the mean logit of the other labels' first tokens: what tells the answer from them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.implicit_attention.allocation import Allocation, allocate
from diffmamba_interp.implicit_attention.spans import Interval, Spans, disjoint_spans
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import logit_direction

DIRECTIONS = ("answer", "contrast")
BATCH_TOKENS = 16_384


@runtime_checkable
class TokenSpan(Protocol):
    """A half-open interval of tokens."""

    @property
    def token_start(self) -> int: ...
    @property
    def token_end(self) -> int: ...


@runtime_checkable
class MarkedPrompt(Protocol):
    """What is needed of a retrieval prompt; `needle.NeedleSample` is one.

    tokens: ids, in an array. answer_tokens: of the answer; label_tokens: of every label. supporting: indices into
    fact_spans of the facts that the answer follows from.
    """

    @property
    def tokens(self) -> Any: ...
    @property
    def answer_tokens(self) -> tuple[int, ...]: ...
    @property
    def label_tokens(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def fact_spans(self) -> Sequence[TokenSpan]: ...
    @property
    def supporting(self) -> tuple[int, ...]: ...
    @property
    def question_span(self) -> TokenSpan: ...
    @property
    def filler_spans(self) -> Sequence[TokenSpan]: ...


def prompt_spans(prompt: MarkedPrompt) -> Spans:
    """The spans of a retrieval prompt, one definition for every measure and picture.

    needle: the facts that the answer follows from. question: its text. distractors: the other facts, as whole
    sentences; not to be taken for `NeedleSample.distractor_spans`, the single mentions of labels other than the
    answer. filler: the text between the facts. A token on the border of two belongs to the first of these.
    """
    facts = [_interval(span) for span in prompt.fact_spans]
    return disjoint_spans(
        {
            "needle": [facts[index] for index in prompt.supporting],
            "distractors": [fact for index, fact in enumerate(facts) if index not in prompt.supporting],
            "question": [_interval(prompt.question_span)],
            "filler": [_interval(span) for span in prompt.filler_spans],
        }
    )


def answer_directions(model: HookedMamba, prompt: MarkedPrompt) -> Float[Tensor, "direction d_model"]:
    """One row per entry of `DIRECTIONS`, in the final residual stream before the final norm's scale divides.

    Labels that begin with the answer's first token do not count as others. Raises ValueError if all of them do.
    """
    answer = prompt.answer_tokens[0]
    others = sorted({label[0] for label in prompt.label_tokens} - {answer})
    if not others:
        raise ValueError(f"every label begins with token {answer}, as the answer does: there is nothing to tell apart.")
    rows = logit_direction(model, torch.tensor([answer, *others], device=model.embed.weight.device))
    return torch.stack([rows[0], rows[0] - rows[1:].mean(dim=0)])


@torch.no_grad()
def allocate_prompts(
    model: HookedMamba,
    prompts: Sequence[MarkedPrompt],
    *,
    per_head: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Callable[[int], None] | None = None,
) -> Allocation:
    """Allocation of every prompt along both directions, in the prompts' order, on the CPU.

    batch_tokens: tokens per batch, padding included; one longer prompt makes a batch of its own.
    on_progress: called with the number of prompts done since the last call.
    Raises ValueError if there are no prompts.
    """
    if not prompts:
        raise ValueError("there are no prompts to measure: give at least one.")
    device = model.embed.weight.device
    parts, order = [], []
    for indices in _batches([len(prompt.tokens) for prompt in prompts], batch_tokens):
        chosen = [prompts[index] for index in indices]
        lengths = torch.tensor([len(prompt.tokens) for prompt in chosen])
        tokens = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.long)
        for row, prompt in zip(tokens, chosen, strict=True):
            row[: len(prompt.tokens)] = torch.as_tensor(prompt.tokens).long()
        # Equal lengths need no mask, and then run the faster path.
        same = bool((lengths == lengths[0]).all())
        made = allocate(
            model,
            tokens.to(device),
            torch.stack([answer_directions(model, prompt) for prompt in chosen]),
            [prompt_spans(prompt) for prompt in chosen],
            lengths=None if same else lengths.to(device),
            per_head=per_head,
        )
        parts.append(made)
        order += indices
        if on_progress is not None:
            on_progress(len(indices))
    return Allocation.cat(parts).select(torch.tensor(order).argsort())


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of prompts of similar length, the longest first, so that too little memory shows at once."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def _interval(span: TokenSpan) -> Interval:
    return span.token_start, span.token_end
