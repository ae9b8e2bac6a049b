"""Random scan inputs, and H by definition: what a recurrence makes of unit impulses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Scan(NamedTuple):
    """dt: [batch, pos, head]. A: [head]. B, C: [batch, pos, group, d_state]."""

    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


def random_scan(
    n_pos: int,
    *,
    n_batch: int = 2,
    n_heads: int = 4,
    n_groups: int = 2,
    d_state: int = 5,
    dt_scale: float = 0.1,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Scan:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return Scan(
        dt=dt_scale * torch.nn.functional.softplus(normal(n_batch, n_pos, n_heads)),
        A=-torch.arange(1, n_heads + 1, dtype=dtype),
        B=normal(n_batch, n_pos, n_groups, d_state),
        C=normal(n_batch, n_pos, n_groups, d_state),
    )


def impulse_response(dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """[batch, head, t, s]: what position t reads of an impulse of size 1 at position s, in float64.

    One state per impulse, run side by side through state = exp(log_decay) state + dt B x.
    """
    dt, log_decay, B, C = (value.detach().double() for value in (dt, log_decay, B, C))
    n_batch, n_pos, n_heads = dt.shape
    group = torch.arange(n_heads) // (n_heads // B.shape[2])
    state = torch.zeros(n_batch, n_heads, n_pos, B.shape[3], dtype=torch.float64)
    read = []
    for t in range(n_pos):
        state = state * log_decay[:, t, :, None, None].exp()
        state[:, :, t] += dt[:, t, :, None] * B[:, t, group]
        read.append(torch.einsum("bhsn,bhn->bhs", state, C[:, t, group]))
    return torch.stack(read, dim=2)
