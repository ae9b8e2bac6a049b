"""What the last position of a prompt reads, block by block: how much each class of source writes into a logit.

    K_i[s]                                            contribution of source s in block i (`contributions`), in logits
    mass_S = sum_S |K_i|                              net, of the minuend, and of lambda times the subtrahend
    smaller_S = sum_S min(|K1|, |lambda K2|)          see below
    sum_S = sum_S K1, sum_S lambda K2                 signed: what the class adds in all, per head
    snr = mean_needle |K_i| / mean_others |K_i|       in dB (`span_measures`)

    cancelled_S = 1 - sum_S |K1 - lambda K2| / (sum_S |K1| + sum_S |lambda K2|)       0 if nothing cancels
    over_allocation = sum over distractors and filler of |K| / sum of |K|             the paper's hypothesis

Of |K1| + |lambda K2|, the subtraction takes away 2 min(|K1|, |lambda K2|) at a source where both have one sign, and
nothing elsewhere. Were their signs independent, half of it would go: smaller_S is what chance alone would cancel.
Only one row of the scan's matrix is made, so memory grows with the prompt's length and not with its square.

A retrieval prompt is read along two directions:

    "answer"     logit of the answer's first token
    "contrast"   that logit less the mean logit of the other labels' first tokens: what tells the answer from them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffmamba_interp.hook_names import block_point
from diffmamba_interp.hook_points import Recorder, attached
from diffmamba_interp.implicit_attention.activations import BlockActivations, run_block, seen_blocks
from diffmamba_interp.implicit_attention.contributions import Contribution, contribution_along
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES
from diffmamba_interp.implicit_attention.span_measures import (
    attention_snr,
    branch_cosine,
    decibel,
    span_masks,
    span_mass,
)
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.prompt_batches import batches, padded, unless_equal
from diffmamba_interp.models.read_out import final_scale, logit_direction
from diffmamba_interp.models.token_checks import Lengths, counted, prepared_tokens, select_rows, take_rows
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.spans import SPAN_CLASSES, MarkedPrompt, Spans, prompt_spans

CLASSES = (*SPAN_CLASSES, "other")
"""The classes of a prompt's sources; "other" holds the tokens that no span names, the last position among them."""

PICTURES = ("net", "minuend", "lambda_subtrahend")
"""net: what a block really writes, the difference in a differential block. The others are NaN in plain blocks."""

HEAD_PICTURES = ("net", "minuend", "lambda_subtrahend", "strangers")
"""Per head. strangers: |K1[h] - lambda K2[g]| averaged over all g other than h."""

NOISE = ("distractors", "filler")
"""The classes that over-allocation counts."""

DIRECTIONS = ("answer", "contrast")
BATCH_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Sizes of contributions to one or more directions at each prompt's last position, by block.

    mass: sum of |K| per picture (`PICTURES`) and class (`CLASSES`), heads summed before the size is taken; logits.
    smaller: sum of min(|K1|, |lambda K2|) per class; logits; NaN in plain blocks.
    snr_db: needle against all other visible tokens; dB; NaN without needle or without a picture.
    cosine: of the branches' rows over the sources, lambda left out; NaN in plain blocks.
    n_sources: tokens of each class.
    head_mass: as `mass`, heads apart (`HEAD_PICTURES`); None unless asked for. Branches are paired by head
        index, an arbitrary pairing: hence the strangers.
    head_sum: signed sums of K by head, branch (minuend and lambda times the subtrahend; of a plain block its weights
        and NaN) and class; logits; None unless asked for.
    """

    mass: Float[Tensor, "prompt direction block picture span_class"]
    smaller: Float[Tensor, "prompt direction block span_class"]
    snr_db: Float[Tensor, "prompt direction block picture"]
    cosine: Float[Tensor, "prompt direction block"]
    n_sources: Int[Tensor, "prompt span_class"]
    head_mass: Float[Tensor, "prompt direction block head head_picture span_class"] | None = None
    head_sum: Float[Tensor, "prompt direction block head branch span_class"] | None = None

    def select(self, prompts: Int[Tensor, " chosen"]) -> Allocation:
        """The chosen prompts, in that order."""
        return Allocation(**{name: value[prompts] for name, value in self._tensors().items()})

    @classmethod
    def cat(cls, parts: Sequence[Allocation]) -> Allocation:
        """The prompts of all parts, one part after the other, on the CPU."""
        names = parts[0]._tensors()
        return cls(**{name: torch.cat([getattr(part, name).cpu() for part in parts]) for name in names})

    def _tensors(self) -> dict[str, Tensor]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class AllocationMeasures:
    """Float64; NaN where a block or a prompt has no such number, as in plain blocks for the branches.

    snr_db: needle over all other visible tokens by picture (`PICTURES`), dB.
    cancelled: share that the subtraction cancels by class of sources (`CLASSES`), in [0, 1] up to round-off.
    over_allocation: share on `NOISE` by picture, in [0, 1].
    """

    snr_db: Mapping[str, Float[Tensor, "prompt block"]]
    cancelled: Mapping[str, Float[Tensor, "prompt block"]]
    over_allocation: Mapping[str, Float[Tensor, "prompt block"]]


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
    parts, order = [], []
    lengths = [len(prompt.tokens) for prompt in prompts]
    for indices in batches(lengths, batch_tokens):
        part = allocate(model, **_batch_of(model, [prompts[index] for index in indices]), per_head=per_head)
        parts.append(part)
        order += indices
        if on_progress is not None:
            on_progress(len(indices))
    return Allocation.cat(parts).select(torch.tensor(order).argsort())


@torch.no_grad()
def allocate(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    directions: Float[Tensor, "batch direction d_model"],
    spans: Spans | Sequence[Spans],
    *,
    lengths: Lengths | None = None,
    per_head: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Allocation:
    """Measure every block in one forward pass and one block's memory.

    Args:
        directions: in the final residual stream, before the final norm's scale divides (`logit_direction`).
        spans: one for all samples, or one per sample.
        lengths: tokens per sample, if padded on the right. per_head: fill `head_mass` and `head_sum`.
        max_bytes: as in `contribution_along`.

    Raises:
        ValueError: tokens, spans or directions that do not fit. MemoryLimitError: too much at once.
    """
    reading = _PassReading(model, tokens, directions, spans, lengths, per_head=per_head, max_bytes=max_bytes)
    resid = model(tokens, lengths=lengths, stop_at_block=0)
    for index in range(model.cfg.n_layers):
        resid, activations = run_block(model, resid, index, reading.valid)
        reading.see(activations)
    return reading.allocation(take_rows(resid, reading.rows))


class PassAllocation:
    """`allocate_prompts` of forward passes that are made anyway, so that no pass is made for it alone:

        reading = PassAllocation(model, prompts)
        trajectory = needle_trajectory(model, lens, prompts, around=reading.around)
        reading.allocation                                       # as allocate_prompts(model, prompts)

    Equal up to the round-off of another padding: the batches are those of the other reading.
    """

    def __init__(self, model: HookedMamba, prompts: Sequence[MarkedPrompt]) -> None:
        self._model, self._prompts = model, prompts
        self._parts: list[tuple[list[int], Allocation]] = []

    @contextmanager
    def around(self, indices: Sequence[int]) -> Iterator[None]:
        """Measure the pass inside the `with` block: of these prompts, in this order, padded on the right.

        Raises ValueError where the pass is of other sizes, as one of several pieces of a prompt is.
        """
        model = self._model
        with torch.no_grad():
            reading = _PassReading(model, **_batch_of(model, [self._prompts[index] for index in indices]))
        at_end = Recorder(positions=reading.rows)
        end = block_point(model.cfg.n_layers - 1, "resid_post")
        with seen_blocks(model, reading.see, reading.valid), attached(model.hook_points, [(end, at_end)]):
            yield
        with torch.no_grad():
            self._parts.append((list(indices), reading.allocation(at_end.seen[end])))

    @property
    def allocation(self) -> Allocation:
        """Of all prompts, in their order, on the CPU. Raises ValueError for prompts that were in no pass, or in two."""
        order = [index for indices, _ in self._parts for index in indices]
        if sorted(order) != list(range(len(self._prompts))):
            raise ValueError(
                f"{len(set(order))} of {len(self._prompts)} prompts were read, in {len(order)} places: read each once "
                "inside `around`."
            )
        return Allocation.cat([part for _, part in self._parts]).select(torch.tensor(order).argsort())


class _PassReading:
    """Every block's measures of one forward pass.

    valid, rows: of the pass, as `prepared_tokens` and `select_rows` give them. Arguments as in `allocate`.
    """

    def __init__(
        self, model: HookedMamba, tokens: Tensor, directions: Tensor, spans: Spans | Sequence[Spans],
        lengths: Lengths | None, *, per_head: bool = False, max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:  # fmt: skip
        tokens, self.valid = prepared_tokens(tokens, model.cfg.d_vocab, lengths=lengths)
        in_use = counted(tokens, self.valid)
        self.rows = select_rows([-1] * directions.shape[1], in_use, tokens.shape[1])
        self._model, self._shape, self._directions = model, tokens.shape, directions
        self._masks = class_masks(spans, in_use, tokens.shape[1])
        self._per_head, self._max_bytes = per_head, max_bytes
        self._blocks: list[dict[str, Tensor]] = []

    def see(self, activations: BlockActivations) -> None:
        """Measure the next block."""
        shape = activations.mixer_out.shape[:2]
        if shape != self._shape or activations.block != len(self._blocks):
            raise ValueError(
                f"block {activations.block} of a pass of shape {tuple(shape)} came, expected block "
                f"{len(self._blocks)} of {tuple(self._shape)}: read the prompts in one pass, not in pieces."
            )
        # One row per direction needs no kernel, and the kernel would serve prompts of different lengths one by one.
        contribution = contribution_along(
            activations, self._directions, self.rows, per_head=self._per_head, impl="reference",
            max_bytes=self._max_bytes,
        )  # fmt: skip
        self._blocks.append(_measure(contribution, self._masks))

    def allocation(self, resid: Float[Tensor, "batch direction d_model"]) -> Allocation:
        """resid: behind the last block, at `rows`."""
        # A direction enters every size linearly, so the final scale, known only now, divides the sums.
        scale = upcast(final_scale(self._model, resid))[:, :, 0]
        stacked = {name: torch.stack([block[name] for block in self._blocks], dim=2) for name in self._blocks[0]}
        for name in ("mass", "smaller", "head_mass", "head_sum"):
            if name in stacked:
                stacked[name] = stacked[name] / scale.reshape(*scale.shape, *[1] * (stacked[name].ndim - 2))
        return Allocation(**stacked, n_sources=self._masks.sum(dim=-1))


def _batch_of(model: HookedMamba, prompts: Sequence[MarkedPrompt]) -> dict[str, Any]:
    """Tokens, directions, spans and lengths of prompts that share a pass."""
    device = model.embed.weight.device
    return {
        "tokens": padded([prompt.tokens for prompt in prompts]).to(device),
        "directions": torch.stack([answer_directions(model, prompt) for prompt in prompts]),
        "spans": [prompt_spans(prompt) for prompt in prompts],
        "lengths": unless_equal([len(prompt.tokens) for prompt in prompts], device),
    }


def allocation_measures(allocation: Allocation, direction: int = 0) -> AllocationMeasures:
    """The measures along one direction; of `allocate_prompts`, 0 is the answer's logit.

    Raises IndexError for a direction that the allocation does not have.
    """
    n_directions = allocation.mass.shape[1]
    if not 0 <= direction < n_directions:
        raise IndexError(f"direction is {direction}: the allocation has directions 0 to {n_directions - 1}.")
    mass = allocation.mass[:, direction].double()
    snr = allocation.snr_db[:, direction].double()
    net, minuend, scaled = (mass[:, :, PICTURES.index(name)] for name in ("net", "minuend", "lambda_subtrahend"))
    cancelled = 1 - net / (minuend + scaled)
    noise = mass[..., [CLASSES.index(name) for name in NOISE]].sum(dim=-1)
    over = noise / mass.sum(dim=-1)
    return AllocationMeasures(
        snr_db=dict(zip(PICTURES, snr.unbind(-1), strict=True)),
        cancelled=dict(zip(CLASSES, cancelled.unbind(-1), strict=True)),
        over_allocation=dict(zip(PICTURES, over.unbind(-1), strict=True)),
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


def class_masks(
    spans: Spans | Sequence[Spans], lengths: Int[Tensor, " batch"], n_pos: int
) -> Bool[Tensor, "batch span_class pos"]:
    """One row per class of `CLASSES`; positions behind a sample's length belong to none."""
    visible = torch.arange(n_pos, device=lengths.device) < lengths[:, None]
    named = span_masks(spans, lengths.shape[0], n_pos).to(lengths.device) & visible[:, None]
    return torch.cat([named, (visible & ~named.any(dim=1))[:, None]], dim=1)


def _measure(contribution: Contribution, masks: Bool[Tensor, "batch span_class src"]) -> dict[str, Tensor]:
    """One block: every field of `Allocation` that depends on it, without its block axis."""
    measures: dict[str, Tensor] = {}
    if contribution.per_head:
        measures["head_mass"] = _head_mass(contribution, masks)
        measures["head_sum"] = _head_sum(contribution, masks)
    parts = [part.sum(dim=1) for part in contribution.parts] if contribution.per_head else list(contribution.parts)
    missing = torch.full_like(parts[0], float("nan"))
    if contribution.is_differential:
        first, second = parts
        scaled = contribution.lambda_subtrahend
        scaled = scaled.sum(dim=1) if contribution.per_head else scaled
        pictures = (first - scaled, first, scaled)
        smaller = torch.minimum(first.abs(), scaled.abs())
        # Of the subtrahend itself: lambda may be 0 or negative, and a cosine should not see that.
        cosine = branch_cosine(first, second)
    else:
        pictures = (parts[0], missing, missing)
        smaller, cosine = missing, missing[..., 0]
    visible, needle = masks.any(dim=1), masks[:, CLASSES.index("needle")]
    return measures | {
        "mass": torch.stack([span_mass(picture, masks) for picture in pictures], dim=-2),
        "snr_db": torch.stack([decibel(attention_snr(p, needle, visible)) for p in pictures], dim=-1),
        "smaller": span_mass(smaller, masks),
        "cosine": cosine,
    }


def _head_mass(
    contribution: Contribution, masks: Tensor
) -> Float[Tensor, "batch direction head head_picture span_class"]:
    first = contribution.parts[0]
    if not contribution.is_differential:
        net = span_mass(first, masks).movedim(1, 2)
        missing = torch.full_like(net, float("nan"))
        return torch.stack([net, missing, missing, missing], dim=-2)
    scaled = contribution.lambda_subtrahend
    n_heads = first.shape[1]
    # One shift at a time: all pairs of heads at once would take n_heads times the memory.
    shifts = (span_mass(first - scaled.roll(shift, dims=1), masks) for shift in range(1, n_heads))
    strangers = sum(shifts, torch.zeros_like(span_mass(first, masks))) / max(n_heads - 1, 1)
    pictures = [span_mass(picture, masks) for picture in (first - scaled, first, scaled)]
    return torch.stack([*pictures, strangers], dim=-2).movedim(1, 2)


def _head_sum(contribution: Contribution, masks: Tensor) -> Float[Tensor, "batch direction head branch span_class"]:
    first = contribution.parts[0]
    second = contribution.lambda_subtrahend if contribution.is_differential else torch.full_like(first, float("nan"))
    return torch.einsum("kbhrs,bcs->brhkc", torch.stack([first, second]), masks.to(first))
