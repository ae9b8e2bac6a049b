"""Inputs of a Mamba-2 scan and its hidden attention written out, for the kernels' tests."""

import torch
from torch import Tensor


def make_scan_inputs(
    length: int, n_heads: int = 4, n_groups: int = 1, d_state: int = 8, *, device: torch.device, batch: int = 2
) -> dict[str, Tensor]:
    """dt, A, B and C as a mixer makes them; B and C are strided slices of one wider tensor."""
    wide = torch.randn(batch, length, 2 * n_groups * d_state + 8, device=device)
    maps = wide[..., 8:].unflatten(-1, (2, n_groups, d_state))
    return {
        "dt": torch.rand(batch, length, n_heads, device=device) * 0.2 + 1e-3,
        "A": -torch.rand(n_heads, device=device) * 15 - 0.1,
        "B": maps[:, :, 0],
        "C": maps[:, :, 1],
    }


def hidden_attention_reference(
    dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, rows: Tensor | None = None, heads: list[int] | None = None
) -> Tensor:
    """H[h,t,s] = (C[t] . B[s]) exp(cum[t] - cum[s]) dt[s] for s <= t, [batch, head, row, pos], all heads kept."""
    length, per_group = dt.shape[1], dt.shape[2] // B.shape[2]
    B, C = (value.repeat_interleave(per_group, dim=2) for value in (B, C))
    cum = log_decay.cumsum(1).transpose(1, 2)
    position = torch.arange(length, device=dt.device)
    gap = (cum[..., :, None] - cum[..., None, :]).masked_fill(position > position[:, None], float("-inf"))
    hidden = torch.einsum("bthn,bshn->bhts", C, B) * gap.exp() * dt.transpose(1, 2)[:, :, None]
    hidden = hidden if heads is None else hidden[:, heads]
    return hidden if rows is None else hidden[:, :, rows]


def reduce_reference(hidden: Tensor, reduce: str | None) -> Tensor:
    """The reductions over heads, by their definition."""
    if reduce == "mean":
        return hidden.mean(1)
    if reduce == "abs_mean":
        return hidden.abs().mean(1)
    return hidden.abs().max(1).values if reduce == "max_abs" else hidden


def doubled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float64 copies that require gradients."""
    return {name: value.detach().double().requires_grad_() for name, value in inputs.items()}


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute value, or over 0.01 where all are smaller."""
    value, expected = value.detach().double(), expected.detach()
    return float((value - expected).abs().max() / expected.abs().max().clamp_min(0.01))
