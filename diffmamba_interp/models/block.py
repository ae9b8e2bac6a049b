"""A block: norm, mixer, residual add. One sublayer, so the stream has only `resid_pre` and `resid_post`.

resid_post = resid_pre + mixer(norm(resid_pre))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.models import mamba1_mixer, mamba2_mixer  # noqa: F401 - each registers its kind
from diffmamba_interp.models.branch_stack import BranchStack
from diffmamba_interp.models.diff_s6_mixer import DiffS6Mixer
from diffmamba_interp.models.differential_mixer import DifferentialMixer, OpenNorm
from diffmamba_interp.models.mixer import BlockState, new_mixer
from diffmamba_interp.models.rms_norm import RMSNorm
from diffmamba_interp.ops import fused as kernels


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
        resid: Float[Tensor, "batch pos d_model"] | OpenSum,
        state: BlockState | None = None,
        valid: Bool[Tensor, "batch pos"] | None = None,
        *,
        fused: bool = False,
        keep_state: bool = True,
        leave_sum: bool = False,
    ) -> tuple[Float[Tensor, "batch pos d_model"] | OpenSum, BlockState | None]:
        """resid_post, and the mixer's state after the last valid position; arguments as in `Mixer`.

        `leave_sum`: leave resid_post to the block that comes next, as a sum that it makes in its norm's launch.
        """
        if isinstance(resid, OpenSum):
            resid, u = resid.normed(self)
        else:
            resid = self.hook_resid_pre(resid)
            u = self.norm(resid, fused=fused)
        options = {"leave_norm": True} if leave_sum and self._may_leave_norm() else {}
        u = self.hook_mixer_in(u)
        mixer_out, state = self.mixer(u, state, valid, fused=fused, keep_state=keep_state, **options)
        if not isinstance(mixer_out, OpenNorm):
            mixer_out = self.hook_mixer_out(mixer_out)
        after = OpenSum(resid, mixer_out, self.hook_resid_post)
        return after if leave_sum else after.made(), state

    def _may_leave_norm(self) -> bool:
        """Whether nobody looks at mixer_out, so that its sub-norm may be made where it is added to the stream."""
        mixer = self.mixer
        return isinstance(mixer, DifferentialMixer) and not (self.hook_mixer_out.is_hooked or _is_watched(mixer))


@dataclass(frozen=True)
class OpenSum:
    """A block's resid_post before it is made: the stream that entered, what the mixer adds, and where it is shown."""

    resid: Tensor
    mixer_out: Tensor | OpenNorm
    point: HookPoint

    def made(self) -> Float[Tensor, "batch pos d_model"]:
        added = self.mixer_out.made() if isinstance(self.mixer_out, OpenNorm) else self.mixer_out
        return self.point(self.resid + added)

    def normed(self, following: Block) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
        """resid_pre of the block that follows and its norm, in one launch."""
        norm, left = following.norm, self.mixer_out
        added, first = (left.m, left.norm) if isinstance(left, OpenNorm) else (left, None)
        resid, normed = kernels.add_rms_norm(self.resid, added, norm.weight, norm.eps, first=first)
        return following.hook_resid_pre(self.point(resid)), normed


def may_leave_sum(block: nn.Module, following: nn.Module | None) -> bool:
    """Whether nobody who could tell looks between the two, and both are blocks as they are here.

    Recorders may look: they are shown the sum when it is made. torch's own module hooks, or a forward put in place of a
    block's, would be shown no tensor.
    """
    if torch.is_grad_enabled() or not (isinstance(block, Block) and isinstance(following, Block)):
        return False
    is_replaceable = block.hook_resid_post.may_replace or following.hook_resid_pre.may_replace
    is_watched = _is_watched(block) or bool(following._forward_pre_hooks) or "forward" in following.__dict__
    return not (is_watched or is_replaceable or following.norm.is_hooked)


def _is_watched(module: nn.Module) -> bool:
    """Whether torch's own hooks, or a forward in the place of the class's, may see what the module returns."""
    every_module = nn.modules.module
    every_hook = every_module._global_forward_hooks or every_module._global_forward_pre_hooks
    return bool(module._forward_hooks or every_hook or "forward" in module.__dict__)


def make_mixer(cfg: HookedMambaConfig, index: int) -> nn.Module:
    """The mixer of block `index`, a `Mixer` or a differential one over two of them."""
    kind = cfg.block_kind(index)
    sizes, differential = cfg.mixer_sizes(kind), cfg.differential
    if kind == "plain":
        return new_mixer(cfg, sizes)
    assert differential is not None
    if differential.subtract_at != "mixer":
        return DiffS6Mixer(cfg, block=index)
    return DifferentialMixer(
        lambda branch: new_mixer(cfg, sizes), differential, block=index, stack=BranchStack.of(cfg, sizes)
    )


def residual_dtype(cfg: HookedMambaConfig, dtype: torch.dtype) -> torch.dtype:
    """dtype of the residual stream of a model whose weights have `dtype`."""
    return torch.promote_types(dtype, torch.float32) if cfg.residual_in_fp32 else dtype
