"""How far influence reaches: rollout over blocks, and how long a head remembers.

rollout:    R_0 = I,  R_{i+1} = (a I + (1 - a) W_i) R_i,   W_i[t,s] = |w_i[t,s]| / sum_s |w_i[t,s]|
half-life:  tau[h] = ln 2 / mean_t |log_decay[t,h]|        tokens until a written state has halved
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.argument_checks import Share, checked
from diffmamba_interp.models.token_checks import Lengths, valid_positions


@checked
def rollout(
    matrices: Iterable[Float[Tensor, "batch row src"]], residual_share: float = 0.5
) -> Float[Tensor, "batch pos pos"]:
    """R[t,s]: share of position t of the last residual stream that came from token s; every row sums to 1.

    What it assumes (Abnar & Zuidema 2020, arXiv 2005.00928, carried over from attention): magnitudes add along
    paths, so signs and cancellation are lost; each block passes `residual_share` of the stream on unchanged, at
    every position, and mixes the rest in proportion to |w|; a row of zeros passes everything on. It is a sketch
    of reach, not an exact account: `residual_attribution` is one.

    Args:
        matrices: one per block, first block first, each over all rows, for example
            `(r.net for r in extract_attention(model, tokens, kind="contribution_norm"))`.
        residual_share: a, in [0, 1].

    Raises ValueError for a share outside [0, 1], no matrices, or matrices that are not square.
    """
    if not 0 <= residual_share <= 1:
        raise ValueError(f"residual_share is {residual_share}: it must lie in [0, 1].")
    reach = None
    for weights in matrices:
        if weights.ndim != 3 or weights.shape[1] != weights.shape[2]:
            raise ValueError(
                f"a matrix has shape {tuple(weights.shape)}: rollout needs [batch, pos, pos] with every row "
                "(rows=None), and heads reduced."
            )
        identity = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
        size = weights.abs()
        total = size.sum(dim=-1, keepdim=True)
        mixed = torch.where(total > 0, size / total.clamp(min=torch.finfo(size.dtype).tiny), identity)
        step = residual_share * identity + (1 - residual_share) * mixed
        reach = step if reach is None else step @ reach
    if reach is None:
        raise ValueError("matrices is empty: give one matrix per block.")
    return reach


@dataclass(frozen=True, kw_only=True)
class HalfLife:
    """How long the state of each head lasts, in tokens.

    mean: ln 2 over the mean decay rate, [batch, head]; inf for a head that never decays.
    quantiles: of the half-life per position, ln 2 / |log_decay[t]|, [level, batch, head]; levels in [0, 1].
    """

    mean: Float[Tensor, "batch head"]
    quantiles: Float[Tensor, "level batch head"]
    levels: tuple[float, ...]


@checked
def memory_half_life(
    log_decay: Float[Tensor, "batch pos head"],
    lengths: Lengths | None = None,
    levels: Sequence[Share] = (0.1, 0.5, 0.9),
) -> HalfLife:
    """Half-life per sample and head from `hook_log_decay`; positions behind `lengths` are left out."""
    rate = log_decay.abs()
    if lengths is not None:
        valid = valid_positions(rate[..., 0], lengths)
        assert valid is not None
        rate = rate.masked_fill(~valid[..., None], float("nan"))
    # The half-life falls with the rate, so its quantile q is that of the rate at 1 - q.
    at = torch.tensor([1 - level for level in levels], dtype=rate.dtype, device=rate.device)
    return HalfLife(
        mean=math.log(2) / rate.nanmean(dim=1),
        quantiles=math.log(2) / torch.nanquantile(rate, at, dim=1),
        levels=tuple(levels),
    )
