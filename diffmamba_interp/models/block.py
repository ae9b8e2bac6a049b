"""A block: norm, mixer, residual add. One sublayer, so the stream has only `resid_pre` and `resid_post`.

resid_post = resid_pre + mixer(norm(resid_pre))
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.models import mamba1_mixer, mamba2_mixer  # noqa: F401 - each registers its kind
from diffmamba_interp.models.branch_stack import BranchStack
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from diffmamba_interp.models.mixer import BlockState, new_mixer
from diffmamba_interp.models.rms_norm import RMSNorm


class Block(nn.Module):
    """Block `index` of the model, plain or differential as the config says."""

    def __init__(self, cfg: HookedMambaConfig, index: int) -> None:
        super().__init__()
        self.kind = cfg.block_kind(index)
        self.hook_resid_pre = HookPoint()
        self.norm = RMSNorm(cfg.d_model, cfg.norm_eps)
        self.hook_mixer_in = HookPoint()
        self.mixer = make_mixer(cfg, index)
        self.hook_mixer_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        state: BlockState | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
        *,
        fused: bool = False,
        keep_state: bool = True,
    ) -> tuple[Float[Tensor, "batch pos d_model"], BlockState | None]:
        """resid_post, and the mixer's state after the last valid position; arguments as in `Mixer`."""
        resid = self.hook_resid_pre(resid)
        u = self.hook_mixer_in(self.norm(resid, fused=fused))
        mixer_out, state = self.mixer(u, state, valid, fused=fused, keep_state=keep_state)
        return self.hook_resid_post(resid + self.hook_mixer_out(mixer_out)), state


def make_mixer(cfg: HookedMambaConfig, index: int) -> nn.Module:
    """The mixer of block `index`, a `Mixer` or a differential one over two of them."""
    kind = cfg.block_kind(index)
    if kind == "plain":
        return new_mixer(cfg, kind)
    differential = cfg.differential
    assert differential is not None
    return DifferentialMixer(
        lambda: new_mixer(cfg, kind),
        differential,
        block=index,
        d_model=cfg.d_model,
        d_lambda=cfg.d_model if differential.lambda_form == "sigmoid_sum" else cfg.d_state,
        stack=BranchStack.of(cfg, cfg.mixer_sizes(kind)),
    )


def residual_dtype(cfg: HookedMambaConfig, dtype: torch.dtype) -> torch.dtype:
    """dtype of the residual stream of a model whose weights have `dtype`."""
    return torch.promote_types(dtype, torch.float32) if cfg.residual_in_fp32 else dtype
