"""State-space duality (SSD) in plain PyTorch: the definition, the matrix form, and a chunked form.

Letters (Mamba-2, arXiv 2405.21060): t destination and s source position, h head, g group, P = d_head,
N = d_state. Head h reads group h // (n_heads / n_groups).

    state[t] = exp(log_decay[t]) state[t-1] + dt[t] x[t] B[t]^T       log_decay = dt A
    y[t]     = state[t] C[t] + D x[t]
    H[t,s]   = (C[t] . B[s]) exp(cum[t] - cum[s]) dt[s]  for s <= t    cum = cumsum(log_decay)
    y        = H x + D x + exp(cum) C state[-1]                        the last term carries an initial state

Sums are taken in float32 (float64 for float64 input); outputs have the dtype of x, states that of the sums.
The running sum of log_decay and its differences are taken in float64: in float32 they cost 1e-4 of relative
error over 8,192 positions, and 2e-5 over a chunk of 64 in which strong and weak decay mix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.ops.precision import running_sum, upcast


class ScanOutput(NamedTuple):
    """y: [batch, pos, head, d_head]. final_state: [batch, head, d_head, d_state], after the last position."""

    y: Tensor
    final_state: Tensor


def causal_conv1d(
    x: Float[Tensor, "batch pos channel"],
    weight: Float[Tensor, "channel width"],
    bias: Float[Tensor, " channel"] | None = None,
    initial: Float[Tensor, "batch channel before"] | None = None,
) -> Float[Tensor, "batch pos channel"]:
    """Depthwise causal convolution: c[t] = sum_k weight[K-1-k] x[t-k] + bias, without activation.

    `initial` holds the K - 1 inputs before position 0; zeros if None.
    """
    width = weight.shape[-1]
    inputs = rearrange(x, "batch pos channel -> batch channel pos")
    if initial is None:
        padded = F.pad(inputs, (width - 1, 0))
    else:
        padded = torch.cat([initial.to(inputs.dtype), inputs], dim=-1)
    out = F.conv1d(padded, weight[:, None].to(x.dtype), None if bias is None else bias.to(x.dtype), groups=x.shape[-1])
    return rearrange(out, "batch channel pos -> batch pos channel")


def ssd_states(
    x: Float[Tensor, "batch pos head d_head"],
    dt: Float[Tensor, "batch pos head"],
    log_decay: Float[Tensor, "batch pos head"],
    B: Float[Tensor, "batch pos group d_state"],
    initial_state: Float[Tensor, "batch head d_head d_state"] | None = None,
) -> Float[Tensor, "batch pos head d_head d_state"]:
    """Every state of the recurrence, position by position: the definition. Memory: d_state times that of x."""
    x, dt, log_decay, B = upcast(x), upcast(dt), upcast(log_decay), expand_groups(upcast(B), x.shape[2])
    state = _first_state(x, B, initial_state)
    states = []
    for t in range(x.shape[1]):
        write = (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None, :]
        state = torch.exp(log_decay[:, t])[..., None, None] * state + write
        states.append(state)
    return torch.stack(states, dim=1)


def read_states(
    states: Float[Tensor, "batch pos head d_head d_state"],
    C: Float[Tensor, "batch pos group d_state"],
    x: Float[Tensor, "batch pos head d_head"],
    D: Float[Tensor, " head"],
) -> Float[Tensor, "batch pos head d_head"]:
    """y[t] = state[t] C[t] + D x[t]."""
    C = expand_groups(C.to(states.dtype), x.shape[2])
    y = torch.einsum("bthpn,bthn->bthp", states, C) + D[:, None].to(states.dtype) * x.to(states.dtype)
    return y.to(x.dtype)


def ssd_sequential(
    x: Float[Tensor, "batch pos head d_head"],
    dt: Float[Tensor, "batch pos head"],
    log_decay: Float[Tensor, "batch pos head"],
    B: Float[Tensor, "batch pos group d_state"],
    C: Float[Tensor, "batch pos group d_state"],
    D: Float[Tensor, " head"],
    initial_state: Float[Tensor, "batch head d_head d_state"] | None = None,
) -> ScanOutput:
    """The recurrence itself: slow, exact, and the yardstick of the other forms."""
    states = ssd_states(x, dt, log_decay, B, initial_state)
    return ScanOutput(read_states(states, C, x, D), states[:, -1])


def hidden_attention_matrix(
    dt: Float[Tensor, "batch pos head"],
    log_decay: Float[Tensor, "batch pos head"],
    B: Float[Tensor, "batch pos group d_state"],
    C: Float[Tensor, "batch pos group d_state"],
) -> Float[Tensor, "batch head pos pos"]:
    """H[t,s] = (C[t] . B[s]) exp(cum[t] - cum[s]) dt[s] for s <= t, exactly 0 above the diagonal."""
    n_heads = dt.shape[2]
    scores = torch.einsum("btgn,bsgn->bgts", upcast(C), upcast(B))
    scores = repeat(scores, "batch group t s -> batch (group r) t s", r=n_heads // scores.shape[1])
    return scores * _decay_matrix(log_decay) * rearrange(upcast(dt), "batch s head -> batch head 1 s")


def ssd_matrix(
    x: Float[Tensor, "batch pos head d_head"],
    dt: Float[Tensor, "batch pos head"],
    log_decay: Float[Tensor, "batch pos head"],
    B: Float[Tensor, "batch pos group d_state"],
    C: Float[Tensor, "batch pos group d_state"],
    D: Float[Tensor, " head"],
    initial_state: Float[Tensor, "batch head d_head d_state"] | None = None,
) -> ScanOutput:
    """y = H x + D x: memory grows with the square of the length."""
    H = hidden_attention_matrix(dt, log_decay, B, C)
    return apply_hidden_attention(H, x, dt, log_decay, B, C, D, initial_state)


def apply_hidden_attention(
    H: Float[Tensor, "batch head pos pos"],
    x: Float[Tensor, "batch pos head d_head"],
    dt: Float[Tensor, "batch pos head"],
    log_decay: Float[Tensor, "batch pos head"],
    B: Float[Tensor, "batch pos group d_state"],
    C: Float[Tensor, "batch pos group d_state"],
    D: Float[Tensor, " head"],
    initial_state: Float[Tensor, "batch head d_head d_state"] | None = None,
) -> ScanOutput:
    """The scan's output from a given matrix H, which need not be the one that B, C and dt make."""
    values, n_heads = upcast(x), x.shape[2]
    cum = running_sum(log_decay, dim=1)
    y = torch.einsum("bhts,bshp->bthp", H, values) + D[:, None].to(values.dtype) * values
    weight = torch.exp(cum[:, -1:] - cum).to(values.dtype) * upcast(dt)
    final = torch.einsum("bsh,bshp,bshn->bhpn", weight, values, expand_groups(upcast(B), n_heads))
    if initial_state is not None:
        start = initial_state.to(values.dtype)
        decay = torch.exp(cum).to(values.dtype)
        y = y + decay[..., None] * torch.einsum("bthn,bhpn->bthp", expand_groups(upcast(C), n_heads), start)
        final = final + decay[:, -1, :, None, None] * start
    return ScanOutput(y.to(x.dtype), final)


def ssd_chunked(
    x: Float[Tensor, "batch pos head d_head"],
    dt: Float[Tensor, "batch pos head"],
    log_decay: Float[Tensor, "batch pos head"],
    B: Float[Tensor, "batch pos group d_state"],
    C: Float[Tensor, "batch pos group d_state"],
    D: Float[Tensor, " head"],
    initial_state: Float[Tensor, "batch head d_head d_state"] | None = None,
    chunk_size: int = 64,
) -> ScanOutput:
    """Matrix form inside a chunk, recurrence between chunks: time and memory linear in the length.

    Beside its inputs and output it holds one chunk's matrices, [batch, head, chunk_size, chunk_size].
    """
    n_groups, dtype, n_pos = B.shape[2], x.dtype, x.shape[1]
    x, dt, log_decay, B, C = (upcast(value) for value in (x, dt, log_decay, B, C))
    state = _first_state(x, expand_groups(B[:, :1], x.shape[2]), initial_state)
    values = rearrange(x, "b t (g r) p -> b g r t p", g=n_groups)
    dt, log_decay = (rearrange(value, "b t (g r) -> b g r t", g=n_groups) for value in (dt, log_decay))
    B, C = (rearrange(value, "b t g n -> b g t n") for value in (B, C))
    state = rearrange(state, "b (g r) p n -> b g r p n", g=n_groups)
    outputs = []
    for start in range(0, n_pos, chunk_size):
        at = slice(start, start + chunk_size)
        y, state = _scan_chunk(values[..., at, :], dt[..., at], log_decay[..., at], B[..., at, :], C[..., at, :], state)
        outputs.append(y)
    y = rearrange(torch.cat(outputs, dim=3), "b g r t p -> b t (g r) p") + D[:, None].to(x.dtype) * x
    return ScanOutput(y.to(dtype), rearrange(state, "b g r p n -> b (g r) p n"))


def expand_groups(value: Tensor, n_heads: int) -> Tensor:
    """[batch, pos, group, d_state] -> [batch, pos, head, d_state]: each group's value for each of its heads."""
    return repeat(value, "batch pos group n -> batch pos (group r) n", r=n_heads // value.shape[2])


def _scan_chunk(x: Tensor, dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk, with heads as [group, head in group]: its y without D x, and the state after it."""
    cum = running_sum(log_decay, dim=-1)
    dx = dt[..., None] * x
    scores = (C @ B.mT)[:, :, None] * _masked_exp_difference(cum, x.dtype)
    decay = torch.exp(cum).to(x.dtype)
    y = scores @ dx + decay[..., None] * (C[:, :, None] @ state.mT)
    remaining = torch.exp(cum[..., -1:] - cum).to(x.dtype)[..., None]
    state = decay[..., -1, None, None] * state + (remaining * dx).mT @ B[:, :, None]
    return y, state


def _masked_exp_difference(cum: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., t, s] = exp(cum[t] - cum[s]) for s <= t, else 0; masked before exp, where the argument is positive."""
    difference = (cum[..., :, None] - cum[..., None, :]).to(dtype)
    above = torch.ones(cum.shape[-1], cum.shape[-1], dtype=torch.bool, device=cum.device).triu(1)
    return torch.exp(difference.masked_fill(above, float("-inf")))


def _decay_matrix(log_decay: Tensor) -> Tensor:
    """[batch, head, t, s] = exp(cum[t] - cum[s]), 0 above the diagonal."""
    cum = running_sum(rearrange(log_decay, "batch pos head -> batch head pos"), dim=-1)
    return _masked_exp_difference(cum, upcast(log_decay).dtype)


def _first_state(x: Tensor, B: Tensor, initial_state: Tensor | None) -> Tensor:
    """The given state in the dtype of the sums, or zeros: [batch, head, d_head, d_state]."""
    if initial_state is not None:
        return initial_state.to(x.dtype)
    return x.new_zeros(x.shape[0], x.shape[2], x.shape[3], B.shape[-1])
