"""Cross-entropy from the final hidden values, by chunks of tokens, with the gradient made in the forward pass.

    nll[t] = logsumexp(W h[t]) - (W h[t])[target[t]]        loss = sum_t w[t] nll[t]
    d loss / d logits[t] = w[t] (softmax(W h[t]) - onehot(target[t]))

The gradient is ready as soon as the logits are, so no [tokens, vocabulary] tensor outlives its chunk: 65,536
tokens and 4,096 entries would take 1 GB in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from diffmamba_interp.lm_training.mixture import Role
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.ops.precision import upcast

CHUNK_TOKENS = 8192


class RoleSums:
    """Sums over tokens by role: nats, right predictions, tokens. [role] each, float64, on the model's device."""

    def __init__(self, device: torch.device | str) -> None:
        self.values = torch.zeros(3, len(Role), dtype=torch.float64, device=device)

    def add(self, nll: Float[Tensor, " token"], right: Tensor, roles: UInt8[Tensor, " token"]) -> None:
        """Count tokens in."""
        stacked = torch.stack([nll.double(), right.double(), torch.ones_like(nll, dtype=torch.float64)])
        self.values += stacked @ torch.nn.functional.one_hot(roles.long(), len(Role)).double()

    def read(self) -> dict[str, float]:
        """Means so far: `text_loss`, `context_loss`, `answer_loss` (nats per token), `answer_accuracy`."""
        nats, right, n = self.values.tolist()
        means = {f"{role.name.lower()}_loss": nats[role] / n[role] for role in Role if role and n[role]}
        if n[Role.ANSWER]:
            means["answer_accuracy"] = right[Role.ANSWER] / n[Role.ANSWER]
        return means


def weighted_loss(
    model: HookedMamba,
    tokens: Int[Tensor, "row pos"],
    targets: Int[Tensor, "row pos"],
    roles: UInt8[Tensor, "row pos"],
    role_weights: Float[Tensor, " role"],
    sums: RoleSums,
    *,
    scale: float | Tensor,
    compute_dtype: torch.dtype,
) -> Float[Tensor, ""]:
    """scale * sum of weight * nll over all targets; `sums` counts every token in, whatever its weight.

    compute_dtype: of the logits' matrix products; sums and exponentials are in float32 or wider.
    """
    resid = model(tokens, stop_at_block=model.cfg.n_layers)
    h = model.ln_final(resid).flatten(0, 1)
    n_real = model.cfg.d_vocab - model.cfg.d_vocab_padding
    weights = role_weights[roles.long()].flatten() * scale
    loss, nll, right = _LinearCrossEntropy.apply(
        h, model.unembed.weight[:n_real], targets.flatten(), weights, compute_dtype
    )
    sums.add(nll, right, roles.flatten())
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """(h, W, targets, weights) to the weighted sum, and per token the nll and whether the prediction is right."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, W: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        d_h, d_W = torch.empty_like(h), torch.zeros_like(W)
        nll, right = torch.empty_like(weights), torch.empty_like(targets, dtype=torch.bool)
        matrix = W.to(dtype)
        with torch.autocast(h.device.type, enabled=False):
            for start in range(0, len(h), CHUNK_TOKENS):
                piece = slice(start, start + CHUNK_TOKENS)
                inputs = h[piece].to(dtype)
                gradient, nll[piece], right[piece] = _chunk(inputs @ matrix.T, targets[piece], weights[piece])
                gradient = gradient.to(dtype)
                d_h[piece] = gradient @ matrix
                d_W += (gradient.T @ inputs).to(d_W.dtype)
        ctx.save_for_backward(d_h, d_W)
        ctx.mark_non_differentiable(nll, right)
        return (nll * weights).sum(), nll, right

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_h, d_W = ctx.saved_tensors
        return d_h * upstream[0], d_W * upstream[0], None, None, None


def _chunk(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient by the logits, nll, and whether the greatest logit is the target's."""
    logits = upcast(logits)
    log_z = logits.logsumexp(dim=-1, keepdim=True)
    at_target = logits.gather(-1, targets[:, None])
    right = at_target[:, 0] >= logits.amax(dim=-1)
    gradient = torch.exp(logits - log_z)
    gradient.scatter_add_(-1, targets[:, None], torch.full_like(at_target, -1.0))
    return gradient.mul_(weights[:, None]), (log_z - at_target)[:, 0], right
