"""Checks of what is given to a model, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import shown

Lengths = Int[Tensor, " batch"] | Sequence[int]
"""Tokens per sample of a right-padded batch."""

AttentionMask = Tensor | Sequence[Sequence[int]]
"""1 or true on tokens, 0 or false on the padding behind them."""

Rows = Tensor | Sequence[int] | Sequence[Sequence[int]] | None
"""Chosen positions, of every sample, [row], or of each sample, [batch, row]; None for all."""

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def prepared_tokens(
    tokens: Tensor,
    d_vocab: int,
    *,
    lengths: Lengths | None = None,
    attention_mask: AttentionMask | None = None,
    wait_for_gpu: bool = True,
) -> tuple[Tensor, Bool[Tensor, "batch pos"] | None]:
    """Tokens that a model may embed, and where they count: None for everywhere.

    Padding, which neither `lengths` nor `attention_mask` counts, may hold any number, -100 for example: it becomes 0.
    Raises TypeError or ValueError for what does not fit, in the words of the model's arguments.
    """
    valid = valid_positions(tokens, lengths_of(tokens, lengths, attention_mask))
    if valid is not None:
        tokens = tokens.masked_fill(~valid, 0)
    _check_ids(tokens, d_vocab, wait_for_gpu)
    return tokens, valid


def lengths_of(tokens: Tensor, lengths: Lengths | None, attention_mask: AttentionMask | None) -> Lengths | None:
    """The lengths that are given in either of two ways. Raises for both, and for tokens that are no [batch, pos]."""
    _check_shape(tokens)
    if attention_mask is None:
        return lengths
    if lengths is not None:
        raise ValueError("give lengths or attention_mask, not both.")
    return lengths_from_mask(attention_mask, tokens)


def check_tokens(tokens: Tensor, d_vocab: int, *, wait_for_gpu: bool = True) -> None:
    """Raise unless `tokens` is a non-empty integer [batch, pos] tensor of ids in [0, d_vocab).

    `wait_for_gpu=False` leaves the ids of a tensor on a GPU unseen, since reading them waits for all queued work.
    """
    _check_shape(tokens)
    _check_ids(tokens, d_vocab, wait_for_gpu)


def token_ids(
    name: str, given: int | Tensor, n_batch: int, d_vocab: int, device: torch.device | str = "cpu"
) -> Int[Tensor, " batch"]:
    """One token id for all samples, or one per sample, as int64 [batch]; `name` is the caller's word for it.

    Raises ValueError for anything else, negative ids included: they would count from the end of the vocabulary.
    """
    ids = torch.as_tensor(given, device=device)
    if ids.dtype not in INTEGERS or ids.ndim > 1 or (ids.ndim == 1 and ids.shape[0] != n_batch):
        raise ValueError(f"{name} has dtype {ids.dtype} and shape {tuple(ids.shape)}: give a token id, or [{n_batch}].")
    if int(ids.min()) < 0 or int(ids.max()) >= d_vocab:
        raise ValueError(f"{name} is {ids.tolist()}: token ids lie in 0 to {d_vocab - 1}.")
    return ids.long().expand(n_batch)


def select_rows(rows: Rows, lengths: Tensor, n_pos: int, name: str = "rows") -> Tensor | None:
    """The chosen destination positions as int64 [batch, row], or None for all.

    `rows`: positions for every sample, [row], or for each sample, [batch, row]. Negative ones count from the
    end of each sample: -1 is its last position, at `lengths - 1`.

    Raises ValueError for a row outside its sample.
    """
    if rows is None:
        return None
    try:
        chosen = torch.as_tensor(rows, device=lengths.device)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {shown(rows)}: give whole numbers, [row] or [batch, row].") from error
    if chosen.numel() == 0:
        raise ValueError(f"{name} is empty: give at least one position, or None for all.")
    if chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool or chosen.ndim not in (1, 2):
        raise ValueError(
            f"{name} has dtype {chosen.dtype} and shape {tuple(chosen.shape)}: give whole numbers, [row] for "
            "every sample or [batch, row]."
        )
    chosen = chosen.long()
    if chosen.ndim == 1:
        chosen = chosen.expand(lengths.shape[0], -1)
    elif chosen.shape[0] != lengths.shape[0]:
        raise ValueError(f"{name} is for {chosen.shape[0]} samples, but there are {lengths.shape[0]}.")
    resolved = torch.where(chosen < 0, chosen + lengths[:, None], chosen)
    if bool(((resolved < 0) | (resolved >= lengths[:, None])).any()):
        raise ValueError(
            f"{name} is {chosen.unique().tolist()}: each must lie in its sample, from -length to length - 1, and "
            f"the lengths are {lengths.unique().tolist()} (padded to {n_pos})."
        )
    return resolved


def take_rows(value: Float[Tensor, "batch pos *rest"], rows: Tensor | None) -> Float[Tensor, "batch row *rest"]:
    """The chosen positions [batch, row] of each sample, or all of them."""
    if rows is None:
        return value
    return value[torch.arange(value.shape[0], device=value.device)[:, None], rows]


def _check_shape(tokens: Any) -> None:
    if not isinstance(tokens, Tensor):
        raise TypeError(
            f"tokens is a {type(tokens).__name__}: give a torch tensor [batch, pos], "
            'for example tokenizer(text, return_tensors="pt").input_ids.'
        )
    if tokens.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"tokens has dtype {tokens.dtype}: token ids are torch.int64 or torch.int32 (tokens.long()).")
    if tokens.ndim != 2:
        hint = " Add the batch axis: tokens[None]." if tokens.ndim == 1 else ""
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}: it must be [batch, pos].{hint}")
    if tokens.numel() == 0:
        raise ValueError(f"tokens is empty (shape {tuple(tokens.shape)}): give at least one token per sample.")


def _check_ids(tokens: Tensor, d_vocab: int, wait_for_gpu: bool) -> None:
    if tokens.is_cuda and (not wait_for_gpu or torch.cuda.is_current_stream_capturing()):
        return
    low, high = (int(bound) for bound in torch.aminmax(tokens))
    if low < 0 or high >= d_vocab:
        raise ValueError(
            f"tokens holds ids from {low} to {high}, but the model's vocabulary is 0 to {d_vocab - 1}. "
            "Was the text tokenised with another model's tokenizer?"
        )


def lengths_from_mask(mask: AttentionMask, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    """The lengths of a right-padded batch from its mask, a tensor or lists, 1 (true) on tokens; not of left padding."""
    mask = _as_tensor("attention_mask", mask, tokens.device)
    kept = mask.bool()
    if mask.shape != tokens.shape or not bool((mask == kept).all()):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, or values other than 1 on tokens and 0 on padding: give "
            f"such a mask, of the shape of the tokens, {tuple(tokens.shape)}."
        )
    lengths = kept.sum(dim=-1)
    expected = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
    if not bool((kept == expected).all()):
        raise ValueError(
            "attention_mask has padding before or between tokens. A left-padded prompt is another prompt to a "
            "recurrent model: pad on the right (tokenizer.padding_side = 'right') and pass lengths= instead."
        )
    return lengths


def valid_positions(tokens: Tensor, lengths: Lengths | None) -> Bool[Tensor, "batch pos"] | None:
    """True where a position lies before its sample's length (a tensor or a list); None without lengths."""
    if lengths is None:
        return None
    lengths = _as_tensor("lengths", lengths, tokens.device)
    n_batch, n_pos = tokens.shape
    if lengths.shape != (n_batch,) or lengths.dtype not in INTEGERS:
        raise ValueError(
            f"lengths has shape {tuple(lengths.shape)} and dtype {lengths.dtype}: give one whole number per "
            f"sample, [{n_batch}]."
        )
    if int(lengths.min()) < 1 or int(lengths.max()) > n_pos:
        raise ValueError(f"lengths is {lengths.tolist()}: each must lie in 1 to {n_pos}, the padded length.")
    return torch.arange(n_pos, device=tokens.device) < lengths[:, None]


def counted(values: Tensor, valid: Tensor | None) -> Int[Tensor, " batch"]:
    """How many positions of each sample of `values`, [batch, pos, ...], count: all of them where `valid` is None."""
    if valid is None:
        return torch.full(values.shape[:1], values.shape[1], device=values.device)
    return valid.sum(dim=-1)


def _as_tensor(name: str, given: Any, device: torch.device) -> Tensor:
    try:
        return torch.as_tensor(given, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is {shown(given)}: give a tensor, or lists of numbers of equal length.") from error
