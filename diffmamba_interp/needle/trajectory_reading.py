"""One batch of prompts read through lenses: what `needle_trajectory` does between planning and collecting.

Every array is [lens, sample, stage, ...] on the CPU; `trajectory` says what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import fitting
from diffmamba_interp.hook_names import block_point
from diffmamba_interp.hook_points import Recorder
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.prompt_batches import is_real, padded, unless_equal
from diffmamba_interp.models.recurrent_state import RecurrentState
from diffmamba_interp.models.token_checks import counted, valid_positions
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.ops.precision import upcast

ReadOut = Callable[[Tensor, int], Tensor]

# Labels continue from copies of the prompt's state, so many at a time even if the batch is smaller.
_MIN_CONTINUATIONS = 8


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Where a pass ended: entering[i] is resid_pre of block i, [batch, pos, d_model], at the positions kept.

    logits: the model's own, [batch, pos, d_vocab]. state: after the last token.
    """

    entering: list[Tensor]
    logits: Tensor
    state: RecurrentState


def read_batch(
    model: HookedMamba, lenses: Mapping[str, ReadOut], samples: Sequence[NeedleSample], piece_tokens: int
) -> dict[str, np.ndarray]:
    """The arrays of `NeedleTrajectory` for prompts with equally many labels and pieces."""
    device = model.embed.weight.device
    ends = _read_prompts(model, samples, piece_tokens)
    labels = [tokens for sample in samples for tokens in sample.label_tokens]
    n_labels = len(samples[0].labels)
    first_tokens = torch.tensor([tokens[0] for tokens in labels], device=device).view(-1, n_labels)
    final = torch.log_softmax(ends.logits[:, 0], dim=-1)
    read = [
        torch.stack([_at_prompt_end(q[:, 0], final, first_tokens) for q in _stages(lens, name, ends)], dim=1)
        for name, lens in lenses.items()
    ]
    log_probs, token_ranks, about = torch.stack(read).split([n_labels, n_labels, 2], dim=-1)
    log_probs = log_probs + _of_later_tokens(model, lenses, ends.state, labels).unflatten(1, (-1, n_labels)).mT
    return {
        "log_probs": log_probs.cpu().numpy(),
        "token_ranks": token_ranks.cpu().numpy(),
        "entropy_nats": about[..., 0].cpu().numpy(),
        "kl_to_final_nats": about[..., 1].cpu().numpy(),
    }


def _read_prompts(model: HookedMamba, samples: Sequence[NeedleSample], piece_tokens: int) -> Ends:
    """Last positions of every prompt; all pieces but the last are of the same length for all prompts."""
    device = model.embed.weight.device
    tokens = padded([sample.tokens for sample in samples]).to(device)
    last_piece = (tokens.shape[1] - 1) // piece_tokens * piece_tokens
    state = None
    for start in range(0, last_piece, piece_tokens):
        _, state = model.forward_with_state(tokens[:, start : start + piece_tokens], state, last_only=True)
    rest = unless_equal([sample.n_tokens - last_piece for sample in samples], device)
    return _pass(model, tokens[:, last_piece:], state, lengths=rest, last_only=True)


def _pass(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    state: RecurrentState | None,
    *,
    lengths: Tensor | None = None,
    last_only: bool = False,
) -> Ends:
    # Of the last positions alone: all those of every block would be much larger.
    at = counted(tokens, valid_positions(tokens, lengths))[:, None] - 1 if last_only else None
    recorder = Recorder(positions=at)
    with model.hooks([([block_point(block, "resid_pre") for block in range(model.cfg.n_layers)], recorder)]):
        logits, after = model.forward_with_state(tokens, state, lengths=lengths, last_only=last_only)
    return Ends(entering=list(recorder.seen.values()), logits=logits, state=after)


def _stages(lens: ReadOut, name: str, ends: Ends) -> Iterator[Float[Tensor, "batch pos d_vocab"]]:
    """Log-probabilities stage by stage; the model's own come last."""
    for i, h in enumerate(ends.entering):
        logits = fitting(f"what the lens {name!r} returned", lens(h, i), Tensor)
        expected = (*h.shape[:-1], ends.logits.shape[-1])
        if logits.shape != expected:
            raise ValueError(
                f"the lens {name!r} gave shape {tuple(logits.shape)} at block {i}, expected logits {expected}: "
                "was it made for another model?"
            )
        yield torch.log_softmax(upcast(logits).to(ends.logits.dtype), dim=-1)
    yield torch.log_softmax(ends.logits, dim=-1)


def _at_prompt_end(
    q: Float[Tensor, "batch d_vocab"], p: Float[Tensor, "batch d_vocab"], labels: Int[Tensor, "batch label"]
) -> Float[Tensor, "batch column"]:
    """Log-probabilities and vocabulary ranks of the labels' first tokens, entropy of q and KL(p || q)."""
    log_probs = q.gather(-1, labels)
    ranks = []
    for own in log_probs.split(1, dim=-1):
        ties = (q == own).sum(dim=-1) - 1
        ranks.append(1 + (q > own).sum(dim=-1) + ties / 2)
    entropy = -(q.exp() * q).sum(dim=-1)
    kl = (p.exp() * (p - q)).sum(dim=-1)
    return torch.cat([log_probs, torch.stack([*ranks, entropy, kl], dim=-1).to(q.dtype)], dim=-1)


def _of_later_tokens(
    model: HookedMamba, lenses: Mapping[str, ReadOut], state: RecurrentState, labels: Sequence[tuple[int, ...]]
) -> Float[Tensor, "lens label_row stage"]:
    """Sums of the log-probabilities of all tokens but the first of every label, given those before.

    labels: [sample * label], prompt after prompt; those of one token get 0 without being run.
    """
    device = model.embed.weight.device
    n_stages, n_prompts = model.cfg.n_layers + 1, state.batch_size
    dtype = upcast(model.embed.weight[:0]).dtype
    total = torch.zeros(len(lenses), len(labels), n_stages, device=device, dtype=dtype)
    long = sorted((row for row, tokens in enumerate(labels) if len(tokens) > 1), key=lambda row: len(labels[row]))
    size = max(n_prompts, _MIN_CONTINUATIONS)
    for rows in (long[first : first + size] for first in range(0, len(long), size)):
        chosen = [labels[row] for row in rows]
        targets = padded(chosen).to(device)
        real = is_real(chosen, targets.shape[1])[:, 1:].to(device)
        prompts = torch.tensor(rows) // (len(labels) // n_prompts)
        ends = _pass(model, targets[:, :-1], state.select(prompts))
        for k, (name, lens) in enumerate(lenses.items()):
            for stage, q in enumerate(_stages(lens, name, ends)):
                later = q.gather(-1, targets[:, 1:, None])[..., 0]
                total[k, rows, stage] = torch.where(real, later, 0.0).sum(dim=-1)
    return total
