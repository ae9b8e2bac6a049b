"""Loss and gradient of all translators, written out: no autograd graph, no [tokens, d_vocab] tensor kept.

For one token (Belrose et al. 2023, arXiv 2303.08112; weights as stored, h a column):

    x = h + W h + b        r = sqrt(mean(x^2) + eps)        y = x / r        n = g y        l = U n
    q = softmax(l),  lse = logsumexp(l)

    KL(p || q) = lse - n . T - H        T = U^T p,   H = entropy of p = lse_final - n_final . T
    dn = U^T q - T                      dy = g dn
    dx = (dy - y mean(dy y)) / r        dW = dx h^T,   db = dx

The loss needs the final softmax p only through T and H, which are the same for every block: they are made once
per chunk of tokens, and a block then costs two products with U and one pass over its logits, which is
exponentiated in place. Cross entropy with the next token is the same with T = U[next token] and H = 0.
With a float32 U everything is float32. With a bfloat16 U the products take bfloat16 and sum in float32, and the
loss of a block that agrees with the output to that precision may come out slightly below 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.lens.unembedding import ModelUnembed
from diffmamba_interp.ops import kernels
from diffmamba_interp.ops.kernel_use import kernels_serve

Impl = Literal["auto", "fused", "reference"]

# Rows whose float32 copy is alive at a time when the logits are narrower than float32.
_ROWS_AT_ONCE = 256
# Before PyTorch 2.8 a product has the dtype of its factors, and they are copied to float32 instead.
_MM_WIDENS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)


@dataclass(frozen=True, kw_only=True)
class ReadOut:
    """Final norm and unembedding as plain tensors, and how the work between the products is done.

    weight: U, [d_vocab, d_model], in the dtype of the products. gain: g, [d_model] float32. eps: of the norm.
    fused: one kernel for the pass over the logits and compiled element-wise work; else plain PyTorch.
    """

    weight: Tensor
    gain: Tensor
    eps: float
    fused: bool

    @classmethod
    def of(cls, unembed: ModelUnembed, dtype: torch.dtype | None = None, *, impl: Impl = "auto") -> ReadOut:
        """The read-out of `unembed`; `dtype` (of the products) defaults to that of the unembedding.

        impl: "fused" raises ImportError or RuntimeError where kernels cannot run, "auto" then takes "reference".
        """
        weight = unembed.weight.detach().to(dtype or unembed.weight.dtype)
        if impl == "fused":
            kernels.check_launchable("the lens objective", weight)
        fused = impl == "fused" or (impl == "auto" and kernels_serve(weight))
        return cls(weight=weight, gain=unembed.gain.detach().float(), eps=unembed.eps, fused=fused)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a chunk of tokens is to predict: a distribution p, seen through the unembedding.

    mean_row: T = U^T p, [tokens, d_model] float32. entropy_nats: of p, [tokens] float32.
    """

    mean_row: Tensor
    entropy_nats: Tensor


@dataclass(frozen=True, kw_only=True)
class Translators:
    """All translators or their gradients, float32: weight [block, d_model, d_model], bias [block, d_model]."""

    weight: Tensor
    bias: Tensor

    def zeros_like(self) -> Translators:
        """As many zeros."""
        return Translators(weight=torch.zeros_like(self.weight), bias=torch.zeros_like(self.bias))


def final_target(read_out: ReadOut, final: Float[Tensor, "tokens d_model"]) -> Target:
    """Target of the KL objective: the model's own prediction, from the residual stream after its last block."""
    n = _normalised(final.float(), read_out.gain, read_out.eps)[0].to(read_out.weight.dtype)
    weighted_sum, total, lse = _weighted_sum(n, read_out)
    mean_row = weighted_sum / total
    return Target(mean_row=mean_row, entropy_nats=lse - (n.float() * mean_row).sum(dim=-1))


def token_target(read_out: ReadOut, next_tokens: Int[Tensor, " tokens"]) -> Target:
    """Target of the cross-entropy objective: the token that follows."""
    mean_row = read_out.weight[next_tokens].float()
    return Target(mean_row=mean_row, entropy_nats=mean_row.new_zeros(mean_row.shape[0]))


def add_block_gradient(
    block: int,
    h: Float[Tensor, "tokens d_model"],
    target: Target,
    translators: Translators,
    gradient: Translators,
    read_out: ReadOut,
) -> Float[Tensor, ""]:
    """Add one block's gradient over a chunk of tokens to `gradient`, and return its loss.

    Args:
        block: which translator.
        h: the residual stream that enters that block.
        target: what it is to predict.
        translators: their values; not changed.
        gradient: float32 sums of the gradients of the tokens' losses, changed in place.
        read_out: the model's final norm and unembedding.

    Returns:
        The sum of the tokens' losses in nats, float32.
    """
    h = h.to(read_out.weight.dtype)
    W, b = translators.weight[block].to(h.dtype), translators.bias[block]
    n, y, r = _maybe_compiled(_translated_and_normalised, read_out)(h, h @ W.mT, b, read_out.gain, read_out.eps)
    weighted_sum, total, lse = _weighted_sum(n, read_out)
    loss, dx, db = _maybe_compiled(_loss_and_dx, read_out)(
        n, y, r, weighted_sum, total, lse, target.mean_row, target.entropy_nats, read_out.gain
    )
    gradient.weight[block] += product_float32(dx.mT, h)
    gradient.bias[block] += db
    return loss


def log_probabilities(read_out: ReadOut, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_vocab"]:
    """log softmax(U n) of residual-stream vectors, in float32: for measuring, where every value is wanted."""
    n = _normalised(x.float(), read_out.gain, read_out.eps)[0].to(read_out.weight.dtype)
    return torch.log_softmax(product_float32(n, read_out.weight.mT), dim=-1)


def exponentiate_rows_(
    logits: Float[Tensor, "tokens d_vocab"],
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Replace l by exp(l - max(l)) in place; return (logsumexp(l), sum of what was written), both float32.

    The sum differs from that behind the logsumexp by the rounding of what was written, so dividing by it gives
    weights that sum to 1. The plain form of `ops.kernels.exponentiate_rows_fused_`.
    """
    lse = torch.empty(logits.shape[0], device=logits.device)
    total = torch.empty_like(lse)
    for first in range(0, logits.shape[0], _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        # A view for float32 logits, so that everything below is in place; a float32 copy otherwise.
        e = logits[rows].float()
        top = e.amax(dim=-1, keepdim=True)
        e.sub_(top).exp_()
        lse[rows] = top[:, 0] + e.sum(dim=-1).log()
        logits[rows] = e
        total[rows] = logits[rows].sum(dim=-1, dtype=torch.float32)
    return lse, total


def product_float32(a: Float[Tensor, "i j"], b: Float[Tensor, "j k"]) -> Float[Tensor, "i k"]:
    """a b with a float32 result, whatever the dtype of the factors."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda and _MM_WIDENS:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _weighted_sum(n: Tensor, read_out: ReadOut) -> tuple[Tensor, Tensor, Tensor]:
    """U^T e in float32, [tokens, d_model], the sum of e, [tokens, 1], and logsumexp(U n), [tokens].

    e are the weights of softmax(U n) before they are divided by their sum; the division is left to a pass that is
    made in any case.
    """
    logits = n @ read_out.weight.mT
    lse, total = (kernels.exponentiate_rows_fused_ if read_out.fused else exponentiate_rows_)(logits)
    return product_float32(logits, read_out.weight), total[:, None], lse


def _normalised(x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """n = g y, y = x / r, and r, all float32."""
    r = torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    y = x / r
    return gain * y, y, r


def _translated_and_normalised(
    h: Tensor, Wh: Tensor, b: Tensor, gain: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """n in the dtype of h, y and r in float32."""
    n, y, r = _normalised(h.float() + Wh.float() + b, gain, eps)
    return n.to(h.dtype), y, r


def _loss_and_dx(
    n: Tensor,
    y: Tensor,
    r: Tensor,
    weighted_sum: Tensor,
    total: Tensor,
    lse: Tensor,
    T: Tensor,
    H: Tensor,
    gain: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of the losses, dx in the dtype of n, and db."""
    loss = (lse - (n.float() * T).sum(dim=-1) - H).sum()
    dy = gain * (weighted_sum / total - T)
    dx = (dy - y * (dy * y).mean(dim=-1, keepdim=True)) / r
    return loss, dx.to(n.dtype), dx.sum(dim=0)


def _maybe_compiled(function: Callable[..., Any], read_out: ReadOut) -> Callable[..., Any]:
    # The interpreter that stands in for a GPU in tests serves kernels, not compiled PyTorch.
    return _compiled(function) if read_out.fused and read_out.weight.is_cuda else function


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)
