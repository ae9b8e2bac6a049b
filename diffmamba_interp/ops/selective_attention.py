"""Mamba-1's scan as implicit attention sees it: a head is a channel, whose matrix sums over its states.

    H[d,t,s] = sum_n C[t,n] exp(A[d,n] (cum[t,d] - cum[s,d])) dt[s,d] B[s,n]      s <= t, cum = cumsum(dt)

A tile is 64 destinations. Its first row t0 splits the decay of every source before it into two factors,

    late[t,n] = C[t,n] exp(A[d,n] (cum[t] - cum[t0]))     early[s,n] = exp(A[d,n] (cum[t0] - cum[s])) dt[s] B[s,n]

neither of which can overflow; their product over n is the tile, and no exponential is taken per pair. Only the square
on the diagonal, and rows chosen one by one, are computed pair by pair.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.ops import kernels, selective
from diffmamba_interp.ops.frozen_scan import FrozenScan
from diffmamba_interp.ops.kernel_use import use_fused
from diffmamba_interp.ops.precision import running_sum, upcast
from diffmamba_interp.ops.scan_pairs import Reduction
from diffmamba_interp.ops.select import Impl
from diffmamba_interp.ops.writes import selective_reads

TILE = 64
"""Destinations per tile: the square on the diagonal costs TILE * length * d_state exponentials per channel."""


class FrozenSelective(FrozenScan):
    """dt: [batch, pos, channel]. A: [channel, d_state]. B, C: [batch, pos, d_state]. D: [channel]."""

    def __init__(self, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> None:
        self.dt, self.A, self.B, self.C, self.D = (upcast(value) for value in (dt, A, B, C, D))
        self.n_batch, self.n_pos = dt.shape[:2]

    def matrix(self, rows: Tensor | None, heads: tuple[int, ...]) -> Tensor:
        chosen = list(heads)
        dt, A = self.dt[:, :, chosen], self.A[chosen]
        if rows is not None:
            return selective.selective_attention_matrix(dt, A, self.B, self.C, rows)
        cum = running_sum(dt, dim=1)
        return torch.cat([self._tile(dt, cum, A, start) for start in range(0, self.n_pos, TILE)], dim=2)

    def state_reads(self, rows: Tensor) -> Tensor:
        return selective_reads(self.dt, self.A, self.C, rows)

    def hidden(
        self,
        rows: Tensor | None,
        heads: tuple[int, ...],
        reduce: Reduction | None = None,
        *,
        impl: Impl = "auto",
    ) -> Tensor:
        if not self._kernel_serves(impl, rows, self.dt):
            return super().hidden(rows, heads, reduce)
        return kernels.fused_selective_attention(self.dt, self.A, self.B, self.C, heads=heads, reduce=reduce)

    def along(
        self,
        v: Tensor,
        x: Tensor,
        rows: Tensor | None,
        heads: tuple[int, ...],
        *,
        per_head: bool = False,
        impl: Impl = "auto",
    ) -> Tensor:
        if per_head and impl == "fused":
            raise ValueError('per_head contributions have no kernel: use impl="auto" or "reference".')
        if per_head or not self._kernel_serves(impl, rows, v, x, self.dt):
            return super().along(v, x, rows, heads, per_head=per_head)
        scan = (self.dt, self.A, self.B, self.C, self.D)
        return kernels.fused_selective_contribution(v[..., 0], x[..., 0], *scan, heads=heads)

    def _kernel_serves(self, impl: Impl, rows: Tensor | None, *tensors: Tensor) -> bool:
        """The kernel makes every destination, and no gradient; `"fused"` says so where that is not what is wanted."""
        wants_gradient = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in (*tensors, self.A, self.B, self.C)
        )
        if impl == "fused" and (rows is not None or wants_gradient):
            what = "gradients" if wants_gradient else "chosen rows"
            raise ValueError(f'the kernel of this mixer serves no {what}: use impl="auto" or "reference".')
        return rows is None and not wants_gradient and use_fused(impl, *tensors)

    def apply(self, x: Tensor) -> Tensor:
        y = selective.selective_chunked(x[..., 0], self.dt, self.A, self.B, self.C, self.D).y
        return y[..., None]

    def _tile(self, dt: Tensor, cum: Tensor, A: Tensor, start: int) -> Tensor:
        """Rows start to start + TILE over all positions, [batch, channel, row, pos]; 0 above the diagonal."""
        end = min(start + TILE, self.n_pos)
        here, past = slice(start, end), slice(0, start)
        B, C = self.B, self.C
        parts = [selective.selective_attention_matrix(dt[:, here], A, B[:, here], C[:, here])]
        if start > 0:
            base = cum[:, start : start + 1]
            since = rearrange((cum[:, here] - base).to(dt.dtype), "b t d -> b d t 1")
            until = rearrange((base - cum[:, past]).to(dt.dtype), "b s d -> b d s 1")
            late = torch.exp(A[:, None] * since) * C[:, None, here]
            early = torch.exp(A[:, None] * until) * B[:, None, past]
            parts.insert(0, late @ early.mT * rearrange(dt[:, past], "b s d -> b d 1 s"))
        return F.pad(torch.cat(parts, dim=-1), (0, self.n_pos - end))
