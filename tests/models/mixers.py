"""A toy mixer, to test that a kind of mixer is one class and one entry: a plain linear recurrence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.mixer_sizes import MixerEntry, MixerSizes
from diffmamba_interp.models.mixer import FrozenMixer, MixerState, register_mixer
from diffmamba_interp.ops.frozen_scan import DenseScan


def sizes(cfg: HookedMambaConfig, kind: str) -> MixerSizes:
    d_inner = cfg.d_model // (2 if kind == "differential" else 1)
    return MixerSizes(d_model=cfg.d_model, d_inner=d_inner, d_head=1, d_state=1, d_conv=1)


@register_mixer("toy", MixerEntry(sizes=sizes))  # type: ignore[arg-type]
class LinearRecurrence(nn.Module):
    """y[t] = a y[t-1] + x[t] per channel, x = in_proj(u), out = out_proj(y)."""

    frozen_points = ("hook_x",)
    gated_point = "hook_ssm_y"

    def __init__(self, cfg: HookedMambaConfig, sizes: MixerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.in_proj = nn.Linear(sizes.d_model, sizes.d_inner, bias=False)
        self.decay = nn.Parameter(torch.rand(sizes.d_inner))
        self.out_proj = nn.Linear(sizes.d_inner, sizes.d_model, bias=False)
        self.hook_x, self.hook_ssm_y = HookPoint(), HookPoint()

    def writing_weights(self) -> list[Tensor]:
        return [self.out_proj.weight]

    def forward(
        self,
        u: Tensor,
        state: MixerState | None = None,
        valid: Tensor | None = None,
        *,
        fused: bool = False,
        keep_state: bool = True,
    ) -> tuple[Tensor, MixerState | None]:
        x = self.hook_x(self.in_proj(u))
        y, rows = torch.zeros_like(x[:, 0]) if state is None else state.ssm[..., 0], []
        for t in range(x.shape[1]):
            new = self.decay.sigmoid() * y + x[:, t]
            y = new if valid is None else torch.where(valid[:, t, None], new, y)
            rows.append(y)
        out = self.out_proj(self.hook_ssm_y(torch.stack(rows, dim=1)))
        return out, MixerState(conv=x.new_zeros(*y.shape, 0), ssm=y[..., None]) if keep_state else None

    def freeze(self, seen: Callable[[str], Tensor]) -> FrozenMixer:
        x = seen("hook_x")
        lag = torch.arange(x.shape[1]).view(-1, 1) - torch.arange(x.shape[1])
        H = torch.where(lag >= 0, self.decay.sigmoid()[:, None, None] ** lag.clamp(min=0), 0.0)
        scan = DenseScan(H.expand(len(x), -1, -1, -1), torch.zeros_like(self.decay))
        x = x[..., None]
        return FrozenMixer(scan=scan, x_in=x, x=x, gate=torch.ones_like(x), out_weight=self.out_proj.weight)
