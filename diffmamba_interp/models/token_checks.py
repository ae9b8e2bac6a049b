"""Checks of what is given to a model, with errors that say what to do."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_tokens(tokens: Tensor, d_vocab: int, *, wait_for_gpu: bool = True) -> None:
    """Raise unless `tokens` is a non-empty integer [batch, pos] tensor of ids in [0, d_vocab).

    `wait_for_gpu=False` leaves the ids of a tensor on a GPU unseen, since reading them waits for all queued work.
    """
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
    if tokens.is_cuda and (not wait_for_gpu or torch.cuda.is_current_stream_capturing()):
        return
    low, high = (int(bound) for bound in torch.aminmax(tokens))
    if low < 0 or high >= d_vocab:
        raise ValueError(
            f"tokens holds ids from {low} to {high}, but the model's vocabulary is 0 to {d_vocab - 1}. "
            "Was the text tokenised with another model's tokenizer?"
        )


def lengths_from_mask(mask: Tensor, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    """The lengths of a right-padded batch from its mask, 1 (true) on tokens; left padding is refused."""
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


def valid_positions(tokens: Tensor, lengths: Tensor | None) -> Bool[Tensor, "batch pos"] | None:
    """True where a position lies before its sample's length; None without lengths."""
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths, device=tokens.device)
    n_batch, n_pos = tokens.shape
    if lengths.shape != (n_batch,) or lengths.dtype not in INTEGERS:
        raise ValueError(
            f"lengths has shape {tuple(lengths.shape)} and dtype {lengths.dtype}: give one whole number per "
            f"sample, [{n_batch}]."
        )
    if int(lengths.min()) < 1 or int(lengths.max()) > n_pos:
        raise ValueError(f"lengths is {lengths.tolist()}: each must lie in 1 to {n_pos}, the padded length.")
    return torch.arange(n_pos, device=tokens.device) < lengths[:, None]
