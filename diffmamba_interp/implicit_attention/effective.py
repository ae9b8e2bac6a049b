"""Effective attention: the whole mixer as one linear operator per channel, on its inputs before the convolution.

    E[ch,t,j] = gate[t,ch] sum_{s=j}^{min(j+K-1,t)} (H[h(ch),t,s] + D[h] [t=s]) sigmoid(c[s,ch]) w[ch,s-j]
    branch_out[t] = W_out ( sum_j E[:,t,j] x_in[j,:] + bias[:,t] ) + b_out           gate: see `activations`

Unified implicit attention (Zimerman et al. 2024, arXiv 2405.16504; Diff-Mamba, arXiv 2507.06204, Eq. 17), with
the gate, the norm's scale, sigmoid(c), B, C and dt frozen. w[ch,k] is the convolution's weight at lag k;
`bias` is what its bias makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.implicit_attention.activations import BranchActivations
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES, require_memory
from diffmamba_interp.models.token_checks import Rows, select_rows


class EffectiveAttention(NamedTuple):
    """weights: [batch, channel, row, src], on x_in. bias: [batch, channel, row], from the convolution's bias."""

    weights: Tensor
    bias: Tensor


@checked
def effective_attention(
    branch: BranchActivations,
    rows: Rows,
    channels: Sequence[int] | None = None,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> EffectiveAttention:
    """E of one mixer or branch, for chosen rows and channels (of d_inner; all when None).

    Raises:
        ValueError: rows or channels that do not exist. MemoryLimitError: the estimate exceeds max_bytes.
    """
    n_batch, n_pos, n_heads, d_head = branch.x.shape
    chosen = list(range(n_heads * d_head)) if channels is None else [int(channel) for channel in channels]
    if not chosen or not all(0 <= channel < n_heads * d_head for channel in chosen):
        raise ValueError(f"channels is {chosen}: give indices in 0 to {n_heads * d_head - 1}, at least one.")
    at = select_rows(rows, torch.full((n_batch,), n_pos, device=branch.x.device), n_pos)
    if at is None:
        at = torch.arange(n_pos, device=branch.x.device).expand(n_batch, -1)
    require_memory(
        f"effective attention of {len(chosen)} channels, {n_batch} x {at.shape[1]} rows and {n_pos} positions",
        3 * n_batch * len(chosen) * at.shape[1] * n_pos * branch.x.element_size(),
        max_bytes,
        "Ask for fewer rows= or channels=",
    )
    heads = tuple(sorted({channel // d_head for channel in chosen}))
    per_head = [heads.index(channel // d_head) * d_head + channel % d_head for channel in chosen]
    rows_of_E, rows_of_bias = [], []
    for i in range(at.shape[1]):
        operator = branch.scan.operator(at[:, i : i + 1], heads)[:, :, 0]
        whole = slice(0, n_pos)
        weights, _ = channel_rows(branch, operator, at[:, i], heads, whole, "input")
        rows_of_E.append(weights[:, per_head])
        made, _ = channel_rows(branch, operator, at[:, i], heads, whole, "bias")
        conv_bias = branch.x.new_zeros(n_heads * d_head) if branch.conv_bias is None else branch.conv_bias
        rows_of_bias.append(made[:, per_head].sum(dim=-1) * conv_bias[chosen])
    return EffectiveAttention(torch.stack(rows_of_E, dim=2), torch.stack(rows_of_bias, dim=2))


def channel_rows(
    branch: BranchActivations,
    operator: Float[Tensor, "batch selected pos"],
    t: Int[Tensor, " batch"],
    heads: Sequence[int],
    src: slice,
    sources: Literal["convolved", "input", "bias"],
) -> tuple[Float[Tensor, "batch channel src"], Float[Tensor, "batch channel src"]]:
    """Frozen weights of one destination per channel of the chosen heads, and the inputs that they weigh.

    "convolved": gate (H + D) on x. "input": E on x_in. "bias": gate (H + D) sigmoid(c), on ones, which the
    convolution's bias multiplies.
    """
    chosen, d_head = list(heads), branch.x.shape[3]
    gate = rearrange(branch.gate_at(t[:, None])[:, 0, chosen], "b h p -> b (h p) 1")

    def by_channel(value: Tensor, at: slice) -> Tensor:
        return rearrange(value[:, at][:, :, chosen], "b s h p -> b (h p) s")

    def operator_at(at: slice) -> Tensor:
        return operator[:, :, at].repeat_interleave(d_head, dim=1)

    if sources == "convolved" or branch.conv is None or branch.conv_weight is None:
        return gate * operator_at(src), by_channel(branch.x, src)
    if sources == "bias":
        weights = gate * operator_at(src) * torch.sigmoid(by_channel(branch.conv, src))
        return weights, torch.ones_like(weights)
    width, n_pos = branch.conv_weight.shape[1], branch.x.shape[1]
    reach = slice(src.start, min(src.stop + width - 1, n_pos))
    read = operator_at(reach) * torch.sigmoid(by_channel(branch.conv, reach))
    read = F.pad(read, (0, src.stop + width - 1 - reach.stop))
    taps = rearrange(branch.conv_weight, "(h p) k -> h p k", p=d_head)[chosen].flatten(0, 1)
    n_src = src.stop - src.start
    spread = sum(read[..., lag : lag + n_src] * taps[:, width - 1 - lag, None] for lag in range(width))
    return gate * spread, by_channel(branch.x_in, src)
