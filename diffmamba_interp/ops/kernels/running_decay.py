"""Running sums of the log decay, exact enough to be subtracted anywhere in a long sequence.

    cum[t] = sum_{k <= t} log_decay[k],   log_decay = dt A
    high = float32(cum / ln 2),   low = float32(cum / ln 2 - high)     summed in float64, kept as two float32

so that exp(cum[t] - cum[s]) = exp2((high[t] - high[s]) + (low[t] - low[s])), with a relative error of about
1e-7 |cum[t] - cum[s]| at any length. Backward: dlog_decay[k] = sum_{t >= k} dcum[t], in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.ops.kernels.triton_import import tl, triton

BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class HeadPlan:
    """The heads that were asked for, sorted by the group that they read, as int32 index tensors.

    Attributes:
        head: [selected] head of the model.
        slot: [selected] place of that head in the order asked for.
        group: [used groups] groups that at least one head reads.
        offset: [used groups + 1] where a group's heads begin in `head` and `slot`.
    """

    head: Tensor
    slot: Tensor
    group: Tensor
    offset: Tensor

    @property
    def n_heads(self) -> int:
        """How many heads were asked for."""
        return self.head.numel()

    @property
    def n_groups(self) -> int:
        """How many groups they read."""
        return self.group.numel()


def plan_heads(heads: Sequence[int] | None, n_heads: int, n_groups: int, device: torch.device) -> HeadPlan:
    """The plan for `heads` (all if None) of a scan with `n_heads` heads in `n_groups` groups.

    Raises:
        ValueError: n_heads is not a multiple of n_groups, or `heads` is empty, repeats or exceeds the heads.
    """
    if n_groups == 0 or n_heads % n_groups:
        raise ValueError(f"n_heads must be a multiple of n_groups, but got {n_heads} and {n_groups}.")
    chosen = tuple(range(n_heads)) if heads is None else tuple(heads)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= head < n_heads for head in chosen):
        raise ValueError(f"heads must be different indices in [0, {n_heads}) and at least one, but are {list(chosen)}.")
    return _cached_plan(chosen, n_heads // n_groups, device)


def running_decay(
    dt: Float[Tensor, "batch pos head"], log_decay: Float[Tensor, "batch pos head"], plan: HeadPlan
) -> Float[Tensor, "batch selected 3 pos"]:
    """For each selected head, in the plan's order: high and low part of cum / ln 2, and dt; in float32."""
    batch, length, _ = dt.shape
    out = torch.empty(batch, plan.n_heads, 3, length, dtype=torch.float32, device=dt.device)
    if out.numel() > 0:
        with torch.cuda.device_of(dt):
            _running_decay_kernel[(plan.n_heads, batch)](
                out,
                dt,
                log_decay,
                plan.head,
                length,
                plan.n_heads,
                *dt.stride(),
                *log_decay.stride(),
                BLOCK=BLOCK,
            )
    return out


def decay_gradients(
    d_cum: Float[Tensor, "batch selected pos"],
    d_dt: Float[Tensor, "batch selected pos"],
    plan: HeadPlan,
    n_heads: int,
) -> tuple[Float[Tensor, "batch pos head"], Float[Tensor, "batch pos head"]]:
    """Gradients of dt and log_decay, in float32, from those of dt and cum in the plan's order."""
    later = d_cum.double().sum(-1, keepdim=True) - d_cum.double().cumsum(-1) + d_cum
    shape = (*d_dt.shape[:1], d_dt.shape[2], n_heads)
    gradients = []
    for gradient in (d_dt, later):
        full = torch.zeros(shape, dtype=torch.float32, device=d_dt.device)
        full[:, :, plan.head.long()] = gradient.float().transpose(1, 2)
        gradients.append(full)
    return gradients[0], gradients[1]


@lru_cache(maxsize=64)
def _cached_plan(heads: tuple[int, ...], heads_per_group: int, device: torch.device) -> HeadPlan:
    # Copying indices to the GPU waits for it, so it is done once per choice of heads.
    order = sorted(range(len(heads)), key=lambda slot: heads[slot] // heads_per_group)
    groups = [heads[slot] // heads_per_group for slot in order]
    used = sorted(set(groups))
    lists = ([heads[slot] for slot in order], order, used, [groups.index(g) for g in used] + [len(heads)])
    head, slot, group, offset = (torch.tensor(values, dtype=torch.int32, device=device) for values in lists)
    return HeadPlan(head=head, slot=slot, group=group, offset=offset)


@triton.jit
@no_type_check
def _running_decay_kernel(
    out, dt, log_decay, heads, length, n_selected,
    stride_dt_b, stride_dt_t, stride_dt_h, stride_log_b, stride_log_t, stride_log_h,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one sequence, BLOCK positions at a time; the sum so far is carried in float64."""
    selected = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    head = tl.load(heads + selected)
    out += (batch * n_selected + selected) * 3 * length
    dt += batch * stride_dt_b + head * stride_dt_h
    log_decay += batch * stride_log_b + head * stride_log_h
    carried = tl.zeros((1,), tl.float64)
    for start in range(0, length, BLOCK):
        t = start + tl.arange(0, BLOCK)
        ok = t < length
        step = tl.load(log_decay + t.to(tl.int64) * stride_log_t, mask=ok, other=0.0).to(tl.float64)
        step *= 1.4426950408889634
        total = carried + tl.cumsum(step, 0)
        high = total.to(tl.float32)
        tl.store(out + t, high, mask=ok)
        tl.store(out + length + t, (total - high.to(tl.float64)).to(tl.float32), mask=ok)
        dt_t = tl.load(dt + t.to(tl.int64) * stride_dt_t, mask=ok, other=0.0).to(tl.float32)
        tl.store(out + 2 * length + t, dt_t, mask=ok)
        carried += tl.sum(step, 0, keep_dims=True)
