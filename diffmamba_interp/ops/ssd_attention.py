"""Mamba-2's scan as implicit attention sees it: pairs in tiles on any device (`scan_pairs`), or the Triton kernels."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from diffmamba_interp.ops import reference
from diffmamba_interp.ops.frozen_scan import FrozenScan
from diffmamba_interp.ops.kernel_use import launched, use_fused
from diffmamba_interp.ops.scan_pairs import Along, Reduction, ScanPairs, all_rows, chosen_rows, form_of
from diffmamba_interp.ops.select import Impl
from diffmamba_interp.ops.writes import ssd_reads


class FrozenSSD(FrozenScan):
    """y = H x + D x with H[h,t,s] = (C[t,g(h)] . B[s,g(h)]) exp(cum[t] - cum[s]) dt[s,h], cum = cumsum(log_decay).

    dt, log_decay: [batch, pos, head]. B, C: [batch, pos, group, d_state]. D: [head].
    """

    def __init__(self, dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, D: Tensor) -> None:
        self.dt, self.log_decay, self.B, self.C, self.D = dt, log_decay, B, C, D
        self.n_batch, self.n_pos = dt.shape[:2]

    def matrix(self, rows: Tensor | None, heads: tuple[int, ...]) -> Tensor:
        return self.hidden(rows, heads, impl="reference")

    def apply(self, x: Tensor) -> Tensor:
        return reference.ssd_chunked(x, self.dt, self.log_decay, self.B, self.C, self.D).y

    def state_reads(self, rows: Tensor) -> Tensor:
        return ssd_reads(self.log_decay, reference.expand_groups(self.C, self.dt.shape[2]), rows)

    def hidden(
        self,
        rows: Tensor | None,
        heads: tuple[int, ...],
        reduce: Reduction | None = None,
        *,
        impl: Impl = "auto",
    ) -> Tensor:
        if use_fused(impl, self.dt, self.B, self.C):
            return self._fused_hidden(rows, heads, reduce)
        scan = self._pairs(heads)
        form = form_of(scan.groups, reduce)
        return all_rows(scan, form) if rows is None else chosen_rows(scan, form, rows)

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
        if not per_head and use_fused(impl, v, x, self.dt):
            return self._fused_along(v, x, rows, heads)
        if per_head and impl == "fused":
            raise ValueError('per_head contributions have no kernel: use impl="auto" or "reference".')
        scan, chosen = self._pairs(heads), list(heads)
        form = Along(
            groups=scan.groups,
            v=rearrange(v[:, :, chosen], "b t h p -> b h t p"),
            x=rearrange(x[:, :, chosen], "b s h p -> b h s p"),
            D=self.D[chosen],
            per_head=per_head,
        )
        return all_rows(scan, form) if rows is None else chosen_rows(scan, form, rows)

    def _pairs(self, heads: tuple[int, ...]) -> ScanPairs:
        return ScanPairs.of(self.dt, self.log_decay, self.B, self.C, heads)

    def _fused_hidden(self, rows: Tensor | None, heads: tuple[int, ...], reduce: Reduction | None) -> Tensor:
        from diffmamba_interp.ops.kernels import fused_hidden_attention

        def launch(samples: slice, rows: Tensor | None) -> Tensor:
            return fused_hidden_attention(
                self.dt[samples], None, self.B[samples], self.C[samples],
                log_decay=self.log_decay[samples], rows=rows, heads=heads, reduce=reduce,
            )  # fmt: skip

        return launched(launch, rows)

    def _fused_along(self, v: Tensor, x: Tensor, rows: Tensor | None, heads: tuple[int, ...]) -> Tensor:
        from diffmamba_interp.ops.kernels import fused_contribution

        def launch(samples: slice, rows: Tensor | None) -> Tensor:
            return fused_contribution(
                v[samples], x[samples], self.dt[samples], None, self.B[samples], self.C[samples], self.D,
                log_decay=self.log_decay[samples], rows=rows, heads=heads,
            )  # fmt: skip

        return launched(launch, rows)
