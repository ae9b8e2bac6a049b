"""Generation from the recurrent state: the prompt is read once, each further token costs one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, Natural, NonNegative, checked
from diffmamba_interp.models.forward_pass import CarriedState
from diffmamba_interp.models.token_checks import AttentionMask, Lengths, lengths_of, token_ids

if TYPE_CHECKING:
    from diffmamba_interp.models.language_model import HookedMamba


@checked
@torch.no_grad()
def generate(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    max_new_tokens: Natural = 20,
    *,
    temperature: NonNegative = 0.0,
    top_k: Count | None = None,
    stop_token: int | None = None,
    lengths: Lengths | None = None,
    attention_mask: AttentionMask | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch all_pos"]:
    """Prompt and continuation, [batch, pos + new]; memory per token does not grow.

    temperature: 0 takes the most probable token; otherwise logits are divided by it and sampled from, from the
    `top_k` most probable ones if given. stop_token: a sample that produced it is filled up with it, and
    generation ends when all samples have. lengths: for a right-padded prompt; each sample's new tokens follow
    its own last token, and the row's end is filled with its last token. attention_mask: the same as a 0/1 mask.
    Hooks in force act on the prompt and on every step (whose values then have one position).
    """
    lengths = lengths_of(tokens, lengths, attention_mask)
    if stop_token is not None:
        token_ids("stop_token", stop_token, len(tokens), model.cfg.d_vocab)
    if max_new_tokens == 0:
        return tokens
    logits, state = model.forward_with_state(tokens, lengths=lengths, last_only=True)
    carried = CarriedState(state)
    new: list[Tensor] = []
    while True:
        chosen = _choose(_without_padding(logits[:, 0], model.cfg.d_vocab_padding), temperature, top_k, generator)
        if stop_token is not None and new:
            chosen = torch.where(new[-1] == stop_token, stop_token, chosen)
        new.append(chosen)
        if len(new) == max_new_tokens or (stop_token is not None and bool((chosen == stop_token).all())):
            return _append(tokens, torch.stack(new, dim=1).to(tokens.dtype), lengths)
        logits = model.step(chosen[:, None], carried)


def _choose(
    logits: Float[Tensor, "batch d_vocab"], temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Int[Tensor, " batch"]:
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k is not None:
        kept = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, kept.indices, kept.values)
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)[:, 0]


def _without_padding(logits: Tensor, n_padding: int) -> Tensor:
    """Logits of real tokens only: the vocabulary's padding rows are never chosen."""
    return logits[:, : logits.shape[-1] - n_padding]


def _append(tokens: Tensor, new: Tensor, lengths: Lengths | None) -> Tensor:
    if lengths is None:
        return torch.cat([tokens, new], dim=1)
    out = new[:, -1:].expand(-1, tokens.shape[1] + new.shape[1]).clone()
    for row, length in enumerate(torch.as_tensor(lengths).tolist()):
        out[row, :length] = tokens[row, :length]
        out[row, length : length + new.shape[1]] = new[row]
    return out
