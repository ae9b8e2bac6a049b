"""Loss by position in long text: does a model use, or even survive, more context than it was trained on?

    full[t]      = -log p(token[t+1] | token[0..t])                    the whole past, carried by the recurrent state
    windowed[t]  = -log p(token[t+1] | token[a..t]), t - a < window    only the last window / 2 to window tokens
    gain[t]      = windowed[t] - full[t]                               above 0: the older context helped

The text is read in chunks from the recurrent state, so memory does not grow with its length.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.models.language_model import HookedMamba

CHUNK = 1_024
BATCH_TOKENS = 32_768


@torch.no_grad()
def position_losses(
    model: HookedMamba, tokens: Int[Tensor, "row pos"], *, chunk: int = CHUNK
) -> Float[Tensor, "row predicted"]:
    """Loss of every token but the first, in nats, each given all tokens before it: [row, pos - 1], on the CPU.

    chunk: tokens per forward pass and row; it changes memory and round-off, not the result.
    Raises ValueError for rows of fewer than two tokens.
    """
    n_predicted = tokens.shape[1] - 1
    if n_predicted < 1:
        raise ValueError(f"the rows hold {tokens.shape[1]} tokens: give at least two, so that one is predicted.")
    device = model.embed.weight.device
    state, losses = None, []
    for start in range(0, n_predicted, chunk):
        piece = tokens[:, start : min(start + chunk, n_predicted) + 1].to(device)
        logits, state = model.forward_with_state(piece[:, :-1], state)
        losses.append(_nll(model, logits, piece[:, 1:]).cpu())
    return torch.cat(losses, dim=1)


@torch.no_grad()
def windowed_losses(
    model: HookedMamba, tokens: Int[Tensor, "row pos"], *, window: int, batch_tokens: int = BATCH_TOKENS
) -> Float[Tensor, "row predicted"]:
    """The same losses with the past cut off: windows of `window` tokens, half a window apart, scored on their end.

    A token has window / 2 to window tokens before it, or all there are where these are fewer.
    batch_tokens: per forward pass. Raises ValueError unless the predicted tokens are whole half windows.
    """
    n_predicted, half = tokens.shape[1] - 1, window // 2
    if window % 2 or n_predicted < window or n_predicted % half:
        raise ValueError(
            f"the rows predict {n_predicted} tokens: a window ({window}) must be even, fit, and divide them into "
            f"half windows. Give rows of {max(n_predicted // max(half, 1), 2) * half + 1} tokens."
        )
    pieces = tokens.unfold(1, window + 1, half)
    n_rows, n_windows = pieces.shape[:2]
    flat, losses = pieces.reshape(n_rows * n_windows, window + 1), []
    for start in range(0, len(flat), max(batch_tokens // window, 1)):
        piece = flat[start : start + max(batch_tokens // window, 1)].to(model.embed.weight.device)
        logits, _ = model.forward_with_state(piece[:, :-1])
        losses.append(_nll(model, logits, piece[:, 1:]).cpu())
    by_window = torch.cat(losses).view(n_rows, n_windows, window)
    return torch.cat([by_window[:, 0, :half], by_window[:, :, half:].flatten(1)], dim=1)


def position_bins(n_predicted: int, first: int = 256) -> Int[np.ndarray, " bound"]:
    """Bounds of bins that double: 0, first, 2 first, 4 first, ... up to `n_predicted`."""
    bounds = [0, first]
    while bounds[-1] < n_predicted:
        bounds.append(2 * bounds[-1])
    return np.array([*bounds[:-1], n_predicted])


def binned(losses: Float[Tensor, "row predicted"], bounds: Int[np.ndarray, " bound"]) -> Float[np.ndarray, "row bin"]:
    """Mean loss of each row in each bin [bounds[i], bounds[i + 1])."""
    pairs = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    return np.stack([losses[:, start:end].double().mean(dim=1).numpy() for start, end in pairs], axis=1)


def _nll(
    model: HookedMamba, logits: Float[Tensor, "row pos d_vocab"], targets: Int[Tensor, "row pos"]
) -> Float[Tensor, "row pos"]:
    real = logits[..., : model.cfg.d_vocab - model.cfg.d_vocab_padding]
    return F.cross_entropy(real.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
