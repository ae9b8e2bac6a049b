"""A scan as it ran, everything but its input x held: a linear map per head, told by its hidden attention.

    y[t,h] = sum_s H[h,t,s] x[s,h] + D[h] x[t,h]          H[h,t,s] = 0 for s > t; x, y: d_head numbers per head

A mixer gives its scan in this form, and implicit attention asks nothing else of it. Who can do no better gives H
itself (`DenseScan`); a scan of known structure makes what is asked for only, or sums over heads by a kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.ops.scan_pairs import Reduction
from diffmamba_interp.ops.select import Impl

HEAD_CHUNK_BYTES = 32 * 2**20
"""Memory of the matrices of the heads that are at work at one time."""


class FrozenScan(ABC):
    """What implicit attention asks of a scan. Subclasses give `matrix`, `apply`, D and the number of positions.

    D: [head], in the dtype of the sums. n_batch, n_pos: of the run.
    """

    D: Tensor
    n_batch: int
    n_pos: int

    @abstractmethod
    def matrix(
        self, rows: Int[Tensor, "batch row"] | None, heads: tuple[int, ...]
    ) -> Float[Tensor, "batch selected row pos"]:
        """H of the chosen heads for the destinations `rows` of each sample (all if None)."""

    @abstractmethod
    def apply(self, x: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        """H x + D x, for any x."""

    def state_reads(self, rows: Int[Tensor, "batch row"]) -> Float[Tensor, "batch row pos head d_state"]:
        """What the destinations read with of a write at s: C[t] times the state's decay from s to t; 0 for s > t.

        Raises ValueError for a scan that has no states to write into.
        """
        raise ValueError("this mixer's scan is given by its matrix alone: it has no state that a write enters.")

    def hidden(
        self,
        rows: Int[Tensor, "batch row"] | None,
        heads: tuple[int, ...],
        reduce: Reduction | None = None,
        *,
        impl: Impl = "auto",
    ) -> Float[Tensor, "batch selected row pos"] | Float[Tensor, "batch row pos"]:
        """H per head, or its reduction over the chosen heads: [batch, row, pos].

        Raises ValueError for impl "fused" where the scan has no kernel.
        """
        if reduce is None:
            return self.per_head(rows, heads, impl)
        result: Tensor | None = None
        for some in self._head_chunks(rows, heads):
            H = self.per_head(rows, some, impl)
            if reduce == "max_abs":
                part = H.abs().amax(dim=1)
                result = part if result is None else torch.maximum(result, part)
            else:
                part = (H if reduce == "mean" else H.abs()).sum(dim=1) / len(heads)
                result = part if result is None else result + part
        assert result is not None
        return result

    def per_head(
        self, rows: Int[Tensor, "batch row"] | None, heads: tuple[int, ...], impl: Impl
    ) -> Float[Tensor, "batch selected row pos"]:
        """`matrix`, by the kernel where there is one. Raises ValueError for impl "fused" where there is none."""
        self._require_no_kernel_asked(impl, "hidden attention")
        return self.matrix(rows, heads)

    def along(
        self,
        v: Float[Tensor, "batch row head d_head"],
        x: Float[Tensor, "batch pos head d_head"],
        rows: Int[Tensor, "batch row"] | None,
        heads: tuple[int, ...],
        *,
        per_head: bool = False,
        impl: Impl = "auto",
    ) -> Float[Tensor, "batch selected row pos"] | Float[Tensor, "batch row pos"]:
        """sum_h (H[h,t,s] + D[h] [t=s]) <v[t,h], x[s,h]> over the chosen heads, or each of them.

        Raises ValueError for impl "fused" where there is no kernel.
        """
        self._require_no_kernel_asked(impl, "contributions")
        parts: list[Tensor] = []
        for some in self._head_chunks(rows, heads):
            products = torch.einsum("bthp,bshp->bhts", v[:, :, list(some)], x[:, :, list(some)])
            part = self.operator(rows, some) * products
            parts = [*parts, part] if per_head else [sum(parts, start=part.sum(dim=1))]
        return torch.cat(parts, dim=1) if per_head else parts[0]

    def operator(
        self, rows: Int[Tensor, "batch row"] | None, heads: tuple[int, ...]
    ) -> Float[Tensor, "batch selected row pos"]:
        """H + D on the diagonal: all that the scan does to x."""
        sources = torch.arange(self.n_pos, device=self.D.device)
        at = sources[None] if rows is None else rows
        here = at[:, None, :, None] == sources
        return self.matrix(rows, heads) + self.D[list(heads), None, None] * here

    def _head_chunks(self, rows: Tensor | None, heads: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """The chosen heads, as many at a time as `HEAD_CHUNK_BYTES` hold."""
        n_rows = self.n_pos if rows is None else rows.shape[1]
        step = max(1, HEAD_CHUNK_BYTES // (self.D.element_size() * self.n_batch * n_rows * self.n_pos))
        for at in range(0, len(heads), step):
            yield heads[at : at + step]

    def _require_no_kernel_asked(self, impl: Impl, what: str) -> None:
        if impl == "fused":
            raise ValueError(f'{what} of this mixer has no kernel: use impl="auto" or "reference".')


class WeightedScan(FrozenScan):
    """A scan whose output is weighed by position and head: weight[t,h] y[t,h].

    weight: [batch, pos, head], each axis whole or of length 1.
    """

    def __init__(self, scan: FrozenScan, weight: Float[Tensor, "samples positions heads"]) -> None:
        self.scan, self.D = scan, scan.D
        self.n_batch, self.n_pos = scan.n_batch, scan.n_pos
        self.weight = weight.expand(scan.n_batch, scan.n_pos, len(scan.D))

    def matrix(self, rows: Tensor | None, heads: tuple[int, ...]) -> Tensor:
        return self._weight_at(rows, heads) * self.scan.matrix(rows, heads)

    def per_head(self, rows: Tensor | None, heads: tuple[int, ...], impl: Impl) -> Tensor:
        return self._weight_at(rows, heads) * self.scan.hidden(rows, heads, impl=impl)

    def operator(self, rows: Tensor | None, heads: tuple[int, ...]) -> Tensor:
        return self._weight_at(rows, heads) * self.scan.operator(rows, heads)

    def apply(self, x: Tensor) -> Tensor:
        return self.weight[..., None] * self.scan.apply(x)

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
        weighed = v * _at_rows(self.weight, rows)[..., None]
        return self.scan.along(weighed, x, rows, heads, per_head=per_head, impl=impl)

    def _weight_at(self, rows: Tensor | None, heads: tuple[int, ...]) -> Float[Tensor, "batch selected row 1"]:
        return _at_rows(self.weight, rows)[..., list(heads)].mT[..., None]


def _at_rows(weight: Float[Tensor, "batch pos head"], rows: Int[Tensor, "batch row"] | None) -> Tensor:
    return weight if rows is None else weight.gather(1, rows[..., None].expand(-1, -1, weight.shape[2]))


class DenseScan(FrozenScan):
    """A scan given by its whole matrix H [batch, head, pos, pos] and D [head]."""

    def __init__(self, H: Float[Tensor, "batch head pos pos"], D: Float[Tensor, " head"]) -> None:
        self.H, self.D = H, D
        self.n_batch, self.n_pos = H.shape[0], H.shape[-1]

    def matrix(self, rows: Tensor | None, heads: tuple[int, ...]) -> Tensor:
        H = self.H[:, list(heads)]
        return H if rows is None else H.gather(2, rows[:, None, :, None].expand(-1, len(heads), -1, self.n_pos))

    def apply(self, x: Tensor) -> Tensor:
        return torch.einsum("bhts,bshp->bthp", self.H, x) + self.D[:, None] * x
