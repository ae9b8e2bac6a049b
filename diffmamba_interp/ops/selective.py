"""The selective scan of Mamba-1 (S6, arXiv 2312.00752) in plain PyTorch: definition, matrix form, chunked form.

Letters: t destination and s source position, d channel, N = d_state. Every channel has its own step size and a
decay of its own for each of its N states; B and C are shared by all channels.

    state[t,d] = exp(dt[t,d] A[d]) * state[t-1,d] + dt[t,d] x[t,d] B[t]         A, B, state[t,d]: N entries
    y[t,d]     = <C[t], state[t,d]> + D[d] x[t,d]
    H[d,t,s]   = sum_n C[t,n] exp(A[d,n] (cum[t,d] - cum[s,d])) dt[s,d] B[s,n]  for s <= t    cum = cumsum(dt)
    y          = H x + D x + sum_n C[t,n] exp(A cum[t]) state[-1]               the last term: an initial state

Sums are taken in float32 (float64 for float64 input); outputs have the dtype of x, states that of the sums. The
running sum of dt is taken in float64, as in `ops.reference` and for the same reason.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.ops.precision import running_sum, upcast
from diffmamba_interp.ops.reference import ScanOutput

CHUNK_SIZE = 32
"""Positions per chunk of the reference: a sequence of L costs 2 CHUNK_SIZE + L / CHUNK_SIZE steps one after another."""


def selective_states(
    x: Float[Tensor, "batch pos channel"],
    dt: Float[Tensor, "batch pos channel"],
    A: Float[Tensor, "channel d_state"],
    B: Float[Tensor, "batch pos d_state"],
    initial_state: Float[Tensor, "batch channel d_state"] | None = None,
) -> Float[Tensor, "batch pos channel d_state"]:
    """Every state of the recurrence, position by position: the definition. Memory: d_state times that of x."""
    x, dt, A, B = (upcast(value) for value in (x, dt, A, B))
    state, states = _first_state(x, A, initial_state), []
    for t in range(x.shape[1]):
        state = _step(state, x[:, t], dt[:, t], A, B[:, t])
        states.append(state)
    return torch.stack(states, dim=1)


def read_selective_states(
    states: Float[Tensor, "batch pos channel d_state"],
    C: Float[Tensor, "batch pos d_state"],
    x: Float[Tensor, "batch pos channel"],
    D: Float[Tensor, " channel"],
) -> Float[Tensor, "batch pos channel"]:
    """y[t] = <C[t], state[t]> + D x[t]."""
    y = torch.einsum("btdn,btn->btd", states, C.to(states.dtype)) + D.to(states.dtype) * x.to(states.dtype)
    return y.to(x.dtype)


def selective_sequential(
    x: Float[Tensor, "batch pos channel"],
    dt: Float[Tensor, "batch pos channel"],
    A: Float[Tensor, "channel d_state"],
    B: Float[Tensor, "batch pos d_state"],
    C: Float[Tensor, "batch pos d_state"],
    D: Float[Tensor, " channel"],
    initial_state: Float[Tensor, "batch channel d_state"] | None = None,
) -> ScanOutput:
    """The recurrence itself: slow, exact, and the yardstick of the other forms."""
    states = selective_states(x, dt, A, B, initial_state)
    return ScanOutput(read_selective_states(states, C, x, D), states[:, -1])


def selective_chunked(
    x: Float[Tensor, "batch pos channel"],
    dt: Float[Tensor, "batch pos channel"],
    A: Float[Tensor, "channel d_state"],
    B: Float[Tensor, "batch pos d_state"],
    C: Float[Tensor, "batch pos d_state"],
    D: Float[Tensor, " channel"],
    initial_state: Float[Tensor, "batch channel d_state"] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> ScanOutput:
    """The recurrence in all chunks at once, twice: from zeros, for what each chunk adds, then from its true start.

    A position behind the end has dt = 0, which keeps the state. Without gradients it holds one state per chunk.
    """
    n_pos, dtype = x.shape[1], x.dtype
    x, dt, A, B, C, D = (upcast(value) for value in (x, dt, A, B, C, D))
    behind = -n_pos % chunk_size
    x_at, dt_at, B_at, C_at = (
        rearrange(F.pad(value, (0, 0, 0, behind)), "batch (chunk t) d -> t batch chunk d", t=chunk_size)
        for value in (x, dt, B, C)
    )
    zeros = x.new_zeros(x.shape[0], x_at.shape[2], *A.shape)
    _, added = _scan_steps(x_at, dt_at, B_at, C_at, A, zeros, read=False)
    decays = torch.exp(dt_at.sum(dim=0)[..., None] * A)
    state, starts = _first_state(x, A, initial_state), []
    for chunk in range(added.shape[1]):
        starts.append(state)
        state = decays[:, chunk] * state + added[:, chunk]
    y, _ = _scan_steps(x_at, dt_at, B_at, C_at, A, torch.stack(starts, dim=1), read=True)
    y = rearrange(y, "t batch chunk d -> batch (chunk t) d")[:, :n_pos] + D * x
    return ScanOutput(y.to(dtype), state)


def selective_attention_matrix(
    dt: Float[Tensor, "batch pos channel"],
    A: Float[Tensor, "channel d_state"],
    B: Float[Tensor, "batch pos d_state"],
    C: Float[Tensor, "batch pos d_state"],
    rows: Int[Tensor, "batch row"] | None = None,
) -> Float[Tensor, "batch channel row pos"]:
    """H[d,t,s] for the given destinations t (all if None), exactly 0 for s > t; summed over states one by one."""
    n_batch, n_pos = dt.shape[:2]
    cum = running_sum(dt, dim=1)
    dt, A, B, C = (upcast(value) for value in (dt, A, B, C))
    at = torch.arange(n_pos, device=dt.device).expand(n_batch, -1) if rows is None else rows
    sample = torch.arange(n_batch, device=dt.device)[:, None]
    elapsed = rearrange(cum[sample, at], "b t d -> b d t 1") - rearrange(cum, "b s d -> b d 1 s")
    after = torch.arange(n_pos, device=dt.device) > at[..., None]
    # Masked before exp, where the argument would be positive; by 0, since A times infinity has no gradient.
    elapsed = elapsed.to(dt.dtype).masked_fill(after[:, None], 0.0)
    C_rows = C[sample, at]
    H = torch.zeros_like(elapsed)
    for n in range(A.shape[1]):
        scores = C_rows[:, None, :, None, n] * B[:, None, None, :, n]
        H = H + scores * torch.exp(A[:, n, None, None] * elapsed)
    return H.masked_fill(after[:, None], 0.0) * rearrange(dt, "b s d -> b d 1 s")


def read_initial_state(
    dt: Float[Tensor, "batch pos channel"],
    A: Float[Tensor, "channel d_state"],
    C: Float[Tensor, "batch pos d_state"],
    initial_state: Float[Tensor, "batch channel d_state"],
) -> tuple[Float[Tensor, "batch pos channel"], Float[Tensor, "batch channel d_state"]]:
    """What an initial state adds to y, and what is left of it after the last position; state by state."""
    cum = running_sum(dt, dim=1).to(upcast(dt).dtype)
    A, C, start = upcast(A), upcast(C), upcast(initial_state)
    y = sum(C[:, :, n, None] * torch.exp(A[:, n] * cum) * start[:, None, :, n] for n in range(A.shape[1]))
    assert isinstance(y, Tensor)
    return y, torch.exp(cum[:, -1, :, None] * A) * start


def _scan_steps(
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor, *, read: bool
) -> tuple[Tensor, Tensor]:
    """One position of every chunk after another: y without D x, [t, batch, chunk, channel], and the last states."""
    outputs = [x.new_zeros(0)]
    for t in range(x.shape[0]):
        state = _step(state, x[t], dt[t], A, B[t])
        if read:
            outputs.append((state @ C[t][..., None])[..., 0])
    return torch.stack(outputs[1:]) if read else outputs[0], state


def _step(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return torch.exp(dt[..., None] * A) * state + (dt * x)[..., None] * B[..., None, :]


def _first_state(x: Tensor, A: Tensor, initial_state: Tensor | None) -> Tensor:
    """The given state in the dtype of the sums, or zeros: [batch, channel, d_state]."""
    return x.new_zeros(x.shape[0], *A.shape) if initial_state is None else initial_state.to(x.dtype)
