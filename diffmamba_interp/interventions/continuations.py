"""How a prompt goes on in the model as it is and as it is changed, token by token, with what was likely at each step.

Each variant goes on by itself, and reads the first one's continuation, too: there the steps are comparable, since
after the first token that differs the variants no longer read the same text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, NonNegative, Seed, checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.interventions.intervention import Interventions, as_tuple, describe, intervene
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.token_checks import prepared_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Continuations(JsonRecord):
    """Continuations of one prompt, and what each variant of the model found likely at every step.

    names: of the variants. interventions: what each changes, as `describe` gives it. tokens: its own continuation.
    top_tokens, top_probabilities: before each of its own tokens, the likeliest first. followed_tokens,
    followed_probabilities: the same while it reads the first variant's continuation. probability: what it then gives
    to the first variant's token. Probabilities in [0, 1], of the whole vocabulary but its padding.
    """

    names: tuple[str, ...]
    interventions: tuple[tuple[dict[str, Any], ...], ...]
    tokens: Int[np.ndarray, "variant step"]
    top_tokens: Int[np.ndarray, "variant step k"]
    top_probabilities: Float[np.ndarray, "variant step k"]
    followed_tokens: Int[np.ndarray, "variant step k"]
    followed_probabilities: Float[np.ndarray, "variant step k"]
    probability: Float[np.ndarray, "variant step"]

    @property
    def parting(self) -> tuple[int | None, ...]:
        """For each variant the first step at which its token is not the first variant's; None where none is."""
        differs = self.tokens != self.tokens[0]
        return tuple(int(row.argmax()) if row.any() else None for row in differs)


@checked
@torch.no_grad()
def continuations(
    model: HookedMamba,
    tokens: Int[Tensor, "1 pos"],
    variants: Mapping[str, Interventions],
    max_new_tokens: Count = 12,
    *,
    top_k: Count = 10,
    temperature: NonNegative = 0.0,
    seed: Seed = 0,
) -> Continuations:
    """Continue a prompt under every variant's interventions.

    Args:
        tokens: one prompt. variants: interventions by name, () for the model as it is; the first one's continuation is
            what the others read, too.
        top_k: so many likely tokens are kept. temperature: 0 takes the likeliest token; otherwise each variant draws
            with the same random numbers, from `seed`.

    What acts at positions counts them from the beginning of the prompt and rests while the text goes on (`intervene`).
    Raises ValueError for no variants, more than one prompt, or what an intervention raises.
    """
    if not variants:
        raise ValueError("variants is empty, so nothing would be continued: give at least {'as it is': ()}.")
    tokens, _ = prepared_tokens(tokens, model.cfg.d_vocab)
    own: list[_Run] = []
    followed: list[_Run] = []
    for changes in variants.values():
        with intervene(model, changes):
            own.append(_run(model, tokens, max_new_tokens, top_k, temperature, seed, given=None))
            followed.append(
                _run(model, tokens, max_new_tokens, top_k, temperature, seed, given=own[0].tokens)
                if followed
                else own[0]
            )
    return Continuations(
        names=tuple(variants),
        interventions=tuple(tuple(describe(one) for one in as_tuple(changes)) for changes in variants.values()),
        tokens=np.stack([run.tokens for run in own]),
        top_tokens=np.stack([run.top_tokens for run in own]),
        top_probabilities=np.stack([run.top_probabilities for run in own]),
        followed_tokens=np.stack([run.top_tokens for run in followed]),
        followed_probabilities=np.stack([run.top_probabilities for run in followed]),
        probability=np.stack([run.probability for run in followed]),
    )


@dataclass(frozen=True)
class _Run:
    """tokens: taken at each step; probability: of them."""

    tokens: Int[np.ndarray, " step"]
    top_tokens: Int[np.ndarray, "step k"]
    top_probabilities: Float[np.ndarray, "step k"]
    probability: Float[np.ndarray, " step"]


def _run(
    model: HookedMamba,
    tokens: Tensor,
    n_steps: int,
    top_k: int,
    temperature: float,
    seed: int,
    given: Int[np.ndarray, " step"] | None,
) -> _Run:
    """The model's own continuation, or what it finds likely while it reads a given one."""
    n_real = model.cfg.d_vocab - model.cfg.d_vocab_padding
    generator = torch.Generator().manual_seed(seed)
    logits, state = model.forward_with_state(tokens, last_only=True)
    steps: list[tuple[int, Tensor, Tensor, float]] = []
    for step in range(n_steps):
        real = logits[0, -1, :n_real].float().cpu()
        probabilities = torch.softmax(real, dim=-1)
        if given is not None:
            token = int(given[step])
        elif temperature == 0:
            token = int(real.argmax())
        else:
            token = int(torch.multinomial(torch.softmax(real / temperature, dim=-1), 1, generator=generator))
        best = probabilities.topk(min(top_k, n_real))
        steps.append((token, best.indices, best.values, float(probabilities[token])))
        if step + 1 < n_steps:
            logits, state = model.forward_with_state(torch.tensor([[token]], device=tokens.device), state)
    return _Run(
        tokens=np.array([token for token, *_ in steps], dtype=np.int64),
        top_tokens=np.stack([indices.numpy() for _, indices, _, _ in steps]),
        top_probabilities=np.stack([values.numpy() for _, _, values, _ in steps]),
        probability=np.array([probability for *_, probability in steps], dtype=np.float32),
    )
