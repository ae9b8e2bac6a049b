"""`extract_attention`: run a model on tokens and keep attention-like pictures of one block, or of all in a row.

Blocks are run one after the other and forgotten one after the other: all blocks cost one forward pass and one
block's memory at a time. Hooks in force are part of what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.activation_cache import ActivationCache
from diffmamba_interp.argument_checks import checked, fitting
from diffmamba_interp.hook_names import FINAL_SCALE, block_point
from diffmamba_interp.hook_points import HookFunction
from diffmamba_interp.implicit_attention.activations import BlockActivations, run_block, run_to_block
from diffmamba_interp.implicit_attention.contributions import Sources, contribution_along, contribution_norms
from diffmamba_interp.implicit_attention.hidden import hidden_attention_bytes
from diffmamba_interp.implicit_attention.record import AttentionRecord, Kind
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES, Heads, require_memory, select_heads
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import final_scale, logit_direction
from diffmamba_interp.models.read_out_identity import require_lens_of
from diffmamba_interp.models.token_checks import (
    Lengths,
    Rows,
    counted,
    prepared_tokens,
    select_rows,
    take_rows,
    token_ids,
    valid_positions,
)
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.ops.scan_pairs import Reduction
from diffmamba_interp.ops.select import Impl

Direction = Tensor | int | Callable[[int], Tensor]


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The arguments of `extract_attention` that say what is made of each block."""

    kind: Kind
    rows: Tensor | None
    heads: Heads
    reduce: Reduction | None
    direction: Direction | None
    sources: Sources
    per_head: bool
    impl: Impl
    max_bytes: int
    token_strings: tuple[tuple[str, ...], ...] | None
    cache: ActivationCache | None
    is_padded: bool


@checked
def extract_attention(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    block: int | Sequence[int] | None = None,
    kind: Kind = "hidden",
    rows: Rows = None,
    heads: Heads = None,
    reduce: Reduction | None = None,
    direction: Direction | None = None,
    *,
    sources: Sources = "convolved",
    per_head: bool = False,
    lengths: Lengths | None = None,
    token_strings: Sequence[str] | Sequence[Sequence[str]] | None = None,
    grad: bool = False,
    impl: Impl = "auto",
    max_bytes: int = DEFAULT_MAX_BYTES,
    cache: ActivationCache | None = None,
    force: bool = False,
) -> AttentionRecord | Iterator[AttentionRecord]:
    """The picture of one block, or an iterator over those of several: one forward pass, one block at a time.

    Args:
        model: the model; hooks in force take part. tokens: [batch, pos], padded on the right if `lengths`.
        block: an index (negative ones from the end) for one record; a sequence of them, or None for all, for
            an iterator in the order of the blocks.
        kind: "hidden" (the scan's matrix per head), "contribution" (along `direction`, summed over heads) or
            "contribution_norm" (rows required beyond 256 positions).
        rows: destinations, [row] or [batch, row]; -1 is each sample's last token. All when None.
        heads: heads to show, reduce or sum over; all when None.
        reduce: "mean", "abs_mean" or "max_abs" over heads, for kind "hidden".
        direction: for kind "contribution": a vector ([d_model], [batch, d_model] or [batch, row, d_model]); a
            token id, or one per sample as an integer tensor [batch], whose logit is then what is measured,
            the final norm's scale frozen; or a function from the block's index to a vector, such as a lens'
            read-out of a token, `lens.direction(token)`, which is refused if the lens is another model's.
        sources: columns are positions after the convolution, or "input" positions before it.
        per_head: keep the heads of kind "contribution" apart.
        lengths: tokens per sample. token_strings: their text, for labels, per sample (or of the only sample).
        grad: keep the autograd graph; otherwise nothing is recorded for a backward pass.
        impl: "fused", "reference" or "auto", of the pictures. max_bytes: limit on one block's pictures.
        cache: of an earlier run of the same tokens under the same hooks, so that less is run again: no block
            before the first one if it holds that one's `hook_resid_pre`, and none for a token's logit if it
            holds `ln_final.hook_scale`. One of another model or of other tokens is refused (of one that was made by
            hand, and does not know its tokens, only their number can be checked), but hooks cannot be compared.

        force: take the direction of another model's lens of the same sizes.

    Raises:
        ValueError: what does not fit, with what would. MemoryLimitError (a MemoryError): the estimate is over
            `max_bytes`; nothing was allocated yet. RuntimeError, from the iterator: hooks were attached or
            removed since it was made.
    """
    _, valid = prepared_tokens(tokens, model.cfg.d_vocab, lengths=lengths)
    _check_kind(kind, reduce, direction, per_head)
    if is_token(direction):
        ids = cast("int | Tensor", direction)
        direction = token_ids("direction", ids, len(tokens), model.cfg.d_vocab, tokens.device)
    require_lens_of(model, getattr(direction, "lens", None), "the lens of direction", force=force)
    if cache is not None:
        cache.require_run_of(model, tokens, lengths)
    one = isinstance(block, int)
    blocks = _select_blocks(block, model.cfg.n_layers)
    n_batch, n_pos = tokens.shape
    in_use = counted(tokens, valid)
    at = select_rows(rows, in_use, n_pos)
    request = _Request(
        kind=kind, rows=at, heads=heads, reduce=reduce, direction=direction, sources=sources,
        per_head=per_head, impl=impl, max_bytes=max_bytes, token_strings=_strings(token_strings, tokens),
        cache=cache, is_padded=lengths is not None,
    )  # fmt: skip
    _require_memory(model, blocks, request, n_batch, n_pos)
    records = _records(model, tokens, blocks, request, lengths, grad, hooks=hooks_in_force(model))
    return next(records) if one else records


def _records(
    model: HookedMamba,
    tokens: Tensor,
    blocks: tuple[int, ...],
    request: _Request,
    lengths: Lengths | None,
    grad: bool,
    hooks: dict[str, tuple[HookFunction, ...]],
) -> Iterator[AttentionRecord]:
    """One record per chosen block, made while the blocks run one after the other."""
    keep_graph = torch.is_grad_enabled() and grad
    valid = valid_positions(tokens, lengths)
    if hooks_in_force(model) == hooks:
        with torch.set_grad_enabled(keep_graph):
            if is_token(request.direction):
                request = replace(request, direction=_frozen_logit_direction(model, tokens, lengths, request))
            resid = _cached(request.cache, block_point(blocks[0], "resid_pre"), tokens)
    for index in range(blocks[0], blocks[-1] + 1):
        if hooks_in_force(model) != hooks:
            raise RuntimeError(
                "hooks were attached to the model or removed from it since extract_attention was called, so the "
                "records would not show the run that was asked for. Use up the iterator inside the "
                "`with model.hooks(...)` block: records = list(extract_attention(...))."
            )
        with torch.set_grad_enabled(keep_graph):
            if resid is None:
                resid, activations = run_to_block(model, tokens, index, lengths)
            else:
                resid, activations = run_block(model, resid, index, valid)
            record = _record(activations, tokens, request) if index in blocks else None
        del activations
        if record is not None:
            yield record


def _record(activations: BlockActivations, tokens: Tensor, request: _Request) -> AttentionRecord:
    """The picture that is asked for, of one block."""
    parts, extra = _MAKERS[request.kind](activations, request)
    n_branches = len(activations.branches)
    n_batch, n_pos = tokens.shape
    rows = request.rows
    if rows is None:
        rows = torch.arange(n_pos, device=tokens.device).expand(n_batch, -1)
    per_head = request.per_head or (request.kind == "hidden" and request.reduce is None)
    padding = rows >= activations.lengths[:, None] if request.is_padded else None

    def without_padding(value: Tensor, row_axis: int) -> Tensor:
        """0 in the rows that lie behind a sample's last token."""
        if padding is None:
            return value
        shape = [1] * value.ndim
        shape[0], shape[row_axis] = rows.shape
        return value.masked_fill(padding.reshape(shape), 0.0)

    parts = [without_padding(part, 2 if per_head else 1) for part in parts]
    return AttentionRecord(
        kind=request.kind,
        block=activations.block,
        normalisation=activations.normalisation,
        tokens=tokens,
        lengths=activations.lengths,
        rows=rows,
        parts=tuple(parts[:n_branches]),
        scaled=parts[n_branches] if len(parts) > n_branches else None,
        weight=activations.lambda_at(request.rows),
        heads=select_heads(request.heads, activations.branches[0].n_heads),
        per_head=per_head,
        reduce=request.reduce,
        sources=request.sources,
        token_strings=request.token_strings,
        **{name: without_padding(value, 1) for name, value in extra.items()},
    )


def _hidden(activations: BlockActivations, request: _Request) -> tuple[list[Tensor], dict[str, Tensor]]:
    scaled = activations.scaled_subtrahend
    scans = [branch.scan for branch in (*activations.branches, *([] if scaled is None else [scaled]))]
    heads = select_heads(request.heads, activations.branches[0].n_heads)
    return [scan.hidden(request.rows, heads, request.reduce, impl=request.impl) for scan in scans], {}


def _contribution(activations: BlockActivations, request: _Request) -> tuple[list[Tensor], dict[str, Tensor]]:
    direction = cast("Tensor | Callable[[int], Tensor]", request.direction)
    if not isinstance(direction, Tensor):
        direction = fitting("what direction returned", direction(activations.block), Tensor)
    contribution = contribution_along(
        activations, direction, request.rows, request.heads, sources=request.sources,
        per_head=request.per_head, impl=request.impl, max_bytes=request.max_bytes,
    )  # fmt: skip
    mixer_out = take_rows(activations.mixer_out, request.rows)
    if direction.ndim == 2:
        direction = direction[:, None]
    total = (mixer_out * direction.to(mixer_out)).sum(dim=-1)
    parts = [*contribution.parts, *([] if contribution.scaled is None else [contribution.scaled])]
    return parts, {"bias": contribution.bias, "total": total}


def _contribution_norm(activations: BlockActivations, request: _Request) -> tuple[list[Tensor], dict[str, Tensor]]:
    norms = contribution_norms(activations, request.rows, request.heads, sources=request.sources)
    return (list(norms), {}) if len(norms) == 1 else (list(norms[:-1]), {"norm_of_difference": norms[-1]})


_MAKERS: dict[str, Callable[[BlockActivations, _Request], tuple[list[Tensor], dict[str, Tensor]]]] = {
    "hidden": _hidden,
    "contribution": _contribution,
    "contribution_norm": _contribution_norm,
}


def _frozen_logit_direction(
    model: HookedMamba, tokens: Tensor, lengths: Lengths | None, request: _Request
) -> Float[Tensor, "batch row d_model"]:
    """The token's logit at each row as a direction in the last residual stream, the final scale frozen."""
    scale = _cached(request.cache, FINAL_SCALE, tokens)
    if scale is None:
        scale = final_scale(model, model(tokens, lengths=lengths, stop_at_block=model.cfg.n_layers))
    scale = take_rows(upcast(scale), request.rows)
    direction = logit_direction(model, cast("int | Tensor", request.direction))
    return (direction if direction.ndim == 1 else direction[:, None]) / scale


def _cached(cache: ActivationCache | None, name: str, tokens: Tensor) -> Float[Tensor, "batch pos _"] | None:
    """What an earlier run saw, if it is there. ValueError unless it saw as many tokens."""
    if cache is None or name not in cache:
        return None
    if cache[name].shape[:2] != tokens.shape:
        raise ValueError(
            f"the cache's {name} has shape {tuple(cache[name].shape)}, but tokens has {tuple(tokens.shape)}: give the "
            "cache of a run of these tokens."
        )
    return cache[name]


def is_token(direction: Direction | None) -> bool:
    """Whether a direction is given by token ids."""
    return isinstance(direction, int) or (isinstance(direction, Tensor) and not direction.dtype.is_floating_point)


def hooks_in_force(model: HookedMamba) -> dict[str, tuple[HookFunction, ...]]:
    """The functions that are attached now, by hook point."""
    return {name: tuple(point.functions) for name, point in model.hook_points.items() if point.is_hooked}


def _select_blocks(block: int | Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    asked = list(range(n_layers)) if block is None else [block] if isinstance(block, int) else list(block)
    if not asked or not all(-n_layers <= index < n_layers for index in asked):
        raise ValueError(f"block is {block}: the model has blocks 0 to {n_layers - 1}.")
    return tuple(sorted({index % n_layers for index in asked}))


def _check_kind(kind: str, reduce: str | None, direction: Direction | None, per_head: bool) -> None:
    if kind not in _MAKERS:
        raise ValueError(f"kind is {kind!r}: it must be one of {', '.join(_MAKERS)}.")
    if kind != "hidden" and reduce is not None:
        raise ValueError(f'reduce={reduce!r} is for kind "hidden": contributions are exact sums over heads.')
    if (kind == "contribution") != (direction is not None):
        raise ValueError(
            f"kind is {kind!r} and direction is {'missing' if direction is None else 'given'}: kind "
            '"contribution" needs a direction (a token id, a vector, or a function of the block), the others '
            "take none."
        )
    if per_head and kind != "contribution":
        raise ValueError(
            f'per_head=True is for kind "contribution": kind "hidden" shows every head unless reduce= is given, '
            f"and norms are of whole vectors. kind is {kind!r}."
        )


def _strings(
    given: Sequence[str] | Sequence[Sequence[str]] | None, tokens: Tensor
) -> tuple[tuple[str, ...], ...] | None:
    """Token strings per sample; those of the only sample may be given bare."""
    if given is None:
        return None
    nested = [given] if all(isinstance(item, str) for item in given) else list(given)
    strings = tuple(tuple(str(text) for text in sample) for sample in nested)
    sizes = [len(sample) for sample in strings]
    if sizes != [tokens.shape[1]] * tokens.shape[0]:
        raise ValueError(
            f"token_strings has samples of {sizes} strings, but tokens has shape {tuple(tokens.shape)}: give one "
            "string per token."
        )
    return strings


def _n_pictures(model: HookedMamba) -> int:
    """Of a differential block: the branches, and lambda times the subtrahend where each head has its own."""
    differential = model.cfg.differential
    return 3 if differential is not None and differential.lambda_form == "token_head_gate" else 2


def _require_memory(model: HookedMamba, blocks: tuple[int, ...], request: _Request, n_batch: int, n_pos: int) -> None:
    """Refuse before the model runs; contributions along a direction are estimated again where they are made."""
    for index in blocks:
        kind = model.cfg.block_kind(index)
        heads = select_heads(request.heads, model.cfg.mixer_sizes(kind).n_heads)
        n_rows = n_pos if request.rows is None else request.rows.shape[1]
        one = hidden_attention_bytes(
            n_batch, n_pos, n_rows, len(heads), request.reduce if request.kind == "hidden" else "mean"
        )
        require_memory(
            f"the pictures of block {index} ({n_batch} x {len(heads)} heads, {n_rows} rows, {n_pos} positions)",
            one * (_n_pictures(model) if kind == "differential" else 1),
            request.max_bytes,
            'Ask for fewer rows= or heads=, or reduce="mean" | "abs_mean" | "max_abs" over heads',
        )
