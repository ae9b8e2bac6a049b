"""What a scan writes into its state at every position, and what becomes of writes that a hook has changed.

    write[t] = dt[t] x[t] B[t]^T;   state[t] = decay[t] * state[t-1] + write[t];   y[t] = state[t] C[t] + D x[t]

The state is linear in the writes, so an edit adds to the scan as it is, whatever form or kernel has computed it:

    change[t] = decay[t] * change[t-1] + (edited - write)[t]                y[t] += change[t] C[t]

A write that is replaced by itself then changes no bit. What is read of a change at s alone is known without the steps
between (`ssd_reads`, `selective_reads`):

    y[t] += change[s] (exp(cum[t] - cum[s]) * C[t])         cum: running sum of the log of the decay

Sums are taken in float32, or in float64 for float64 input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.ops.precision import running_sum, upcast
from diffmamba_interp.ops.reference import ScanOutput, expand_groups


def ssd_writes(
    x: Float[Tensor, "batch pos head d_head"],
    dt: Float[Tensor, "batch pos head"],
    B: Float[Tensor, "batch pos group d_state"],
) -> Float[Tensor, "batch pos head d_head d_state"]:
    """dt x B^T of a Mamba-2 scan. Memory: d_state times that of x."""
    return (upcast(dt)[..., None] * upcast(x))[..., None] * expand_groups(upcast(B), x.shape[2])[..., None, :]


def selective_writes(
    x: Float[Tensor, "batch pos channel"],
    dt: Float[Tensor, "batch pos channel"],
    B: Float[Tensor, "batch pos d_state"],
) -> Float[Tensor, "batch pos channel d_state"]:
    """dt x B of a Mamba-1 scan, channel by channel. Memory: d_state times that of x."""
    return (upcast(dt) * upcast(x))[..., None] * upcast(B)[:, :, None, :]


def ssd_reads(
    log_decay: Float[Tensor, "batch pos head"],
    C: Float[Tensor, "batch pos head d_state"],
    rows: Int[Tensor, "batch row"],
) -> Float[Tensor, "batch row pos head d_state"]:
    """exp(cum[t] - cum[s]) C[t] of a Mamba-2 scan for the destinations t = rows; 0 for s > t."""
    elapsed, later = _elapsed(log_decay, rows)
    return (torch.exp(elapsed)[..., None] * _at(C, rows)[:, :, None]).masked_fill(later[..., None], 0.0)


def selective_reads(
    dt: Float[Tensor, "batch pos channel"],
    A: Float[Tensor, "channel d_state"],
    C: Float[Tensor, "batch pos d_state"],
    rows: Int[Tensor, "batch row"],
) -> Float[Tensor, "batch row pos channel d_state"]:
    """exp(A (cum[t] - cum[s])) C[t] of a Mamba-1 scan, cum = cumsum(dt), for the destinations t = rows; 0 for s > t."""
    elapsed, later = _elapsed(dt, rows)
    return (torch.exp(A * elapsed[..., None]) * _at(C, rows)[:, :, None, None]).masked_fill(later[..., None], 0.0)


def _elapsed(value: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """sum of value[s+1 .. t] for t = rows, 0 for s > t where exp of it could overflow; and where that is so.

    [batch, row, pos, head] and [batch, row, pos, 1].
    """
    total = running_sum(value, dim=1)
    later = (torch.arange(value.shape[1], device=rows.device) > rows[..., None])[..., None]
    elapsed = (_at(total, rows)[:, :, None] - total[:, None]).to(upcast(value).dtype)
    return elapsed.masked_fill(later, 0.0), later


def _at(value: Tensor, rows: Tensor) -> Tensor:
    return value[torch.arange(len(value), device=rows.device)[:, None], rows]


@dataclass(frozen=True)
class WriteChange:
    """What edited writes add to a scan.

    difference: edited less clean writes, [batch, pos, ..., d_state]. decay: of the state, [batch, pos, ...], broadcast
    against it. is_edit: whether a hook has replaced the writes; else their gradient alone is wanted.
    """

    difference: Tensor
    decay: Tensor
    is_edit: bool

    def states(self) -> Float[Tensor, "batch pos *rest d_state"]:
        """What is added to every state."""
        return torch.stack(list(self._steps()), dim=1)

    def added_to(self, result: ScanOutput, C: Float[Tensor, "batch pos *head d_state"]) -> ScanOutput:
        """The scan's output with what is read of the change; C as each row of a state is read with."""
        C = C.to(self.difference.dtype)
        read, state = [], self.difference[:, 0]
        for t, state in enumerate(self._steps()):
            read.append((state @ C[:, t, ..., None])[..., 0])
        y = result.y + torch.stack(read, dim=1).to(result.y.dtype)
        return ScanOutput(y, result.final_state + state.to(result.final_state.dtype))

    def _steps(self) -> Iterator[Tensor]:
        state = torch.zeros_like(self.difference[:, 0])
        for t in range(self.difference.shape[1]):
            state = self.decay[:, t] * state + self.difference[:, t]
            yield state


def change_of_writes(
    hook: Callable[[Tensor], Tensor], writes: Float[Tensor, "batch pos *rest d_state"], decay: Tensor
) -> WriteChange | None:
    """What a hook that is shown the writes makes of them; None if it keeps them and no gradient is wanted.

    Where one is wanted, the hook sees a tensor of its own on the way to the output, so that the gradient there is that
    of a write and not what is left of it beside the same write in the scan.
    """
    wants_gradient = torch.is_grad_enabled() and writes.requires_grad
    shown = writes.view_as(writes) if wants_gradient else writes
    edited = hook(shown)
    if edited is shown and not wants_gradient:
        return None
    return WriteChange(edited - writes, decay, is_edit=edited is not shown)
