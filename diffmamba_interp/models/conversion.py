"""Turning blocks of a trained Mamba-2 into differential ones, each branch starting from half of the mixer.

published: the published code's halves. The first half of the rows of in_proj, conv1d and norm (columns of
    out_proj) goes to the minuend and the last half to the subtrahend, whatever component (z, x, B, C, dt) a row
    belongs to; A_log, D and dt_bias go to both. Exact, for comparison with published models.
by_component: each branch gets its own half of z, x, norm and out_proj, and all of B, C and dt. With
    head_division "d_head" every head is split: the branches' scans side by side are then the plain scan.
    With "n_heads" each branch gets half of the heads of every group.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.config import Alignment, DifferentialConfig, HookedMambaConfig, Placement
from diffmamba_interp.hook_names import BRANCHES
from diffmamba_interp.mixer_sizes import Mamba2Sizes
from diffmamba_interp.models.checkpoints import parameter_dtype
from diffmamba_interp.models.language_model import HookedMamba

PER_HEAD = ("A_log", "D", "dt_bias")


@checked
def convert_to_differential(
    model: HookedMamba,
    placement: Placement,
    alignment: Alignment = "published",
    *,
    differential: DifferentialConfig | None = None,
    seed: int = 0,
) -> HookedMamba:
    """A new model whose blocks at `placement` are differential; the given model is left as it is.

    `differential` chooses lambda form, normalisation and head division (its own placement is not used). Lambda
    parameters are drawn with `seed` (they are new), sub-norm gains are 1. The new model has the device and the
    dtypes of the old one.

    Raises ValueError if the model has differential blocks already, or if the alignment cannot serve the sizes, and
    TypeError for what is no model or no seed.
    """
    if not isinstance(model, HookedMamba):
        raise TypeError(f"model is {type(model).__name__}: give a HookedMamba.")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed is {seed!r}: it must be a whole number.")
    if alignment not in ("published", "by_component"):
        raise ValueError(f"alignment is {alignment!r}: it must be 'published' or 'by_component'.")
    if model.cfg.differential_blocks:
        raise ValueError(
            f"blocks {list(model.cfg.differential_blocks)} are differential already: convert a plain Mamba-2 model."
        )
    if model.cfg.mixer != "mamba2":
        raise ValueError(f"the model's mixers are {model.cfg.mixer!r}: only a 'mamba2' model can be converted.")
    if differential is not None and differential.subtract_at != "mixer":
        raise ValueError(
            f"differential has subtract_at {differential.subtract_at!r}: halves of a mixer make a Diff-Mamba, whose "
            "branches are whole mixers. Use subtract_at 'mixer'."
        )
    cfg = _converted_config(model.cfg, placement, differential)
    if alignment == "published" and cfg.differential is not None and cfg.differential.head_division != "d_head":
        raise ValueError("alignment 'published' halves d_head: use head_division='d_head', or 'by_component'.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        converted = HookedMamba(cfg)
    state = dict(model.state_dict())
    for block in cfg.differential_blocks:
        prefix = f"blocks.{block}.mixer."
        mixer = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
        for branch in BRANCHES:
            half = _branch_tensors(mixer, branch == "minuend", alignment, cfg)
            state |= {f"{prefix}{branch}.{name}": tensor for name, tensor in half.items()}
    new = {name: tensor for name, tensor in converted.state_dict().items() if name not in state}
    # The halves are scaled as trained weights are: their sub-norms need no new model's small gain.
    new |= {name: torch.ones_like(tensor) for name, tensor in new.items() if ".subnorm." in name}
    reference = state["embed.weight"]
    state |= {name: tensor.to(reference.device, parameter_dtype(name, reference.dtype)) for name, tensor in new.items()}
    converted.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, strict=True, assign=True)
    converted.tie_embeddings()
    converted.impl = model.impl
    return converted.train(model.training)


def _converted_config(
    cfg: HookedMambaConfig, placement: Placement, differential: DifferentialConfig | None
) -> HookedMambaConfig:
    values = (differential or DifferentialConfig()).__dict__ | {"placement": placement}
    return HookedMambaConfig(**{**cfg.__dict__, "differential": DifferentialConfig(**values)})


def _branch_tensors(
    mixer: dict[str, Tensor], is_minuend: bool, alignment: Alignment, cfg: HookedMambaConfig
) -> dict[str, Tensor]:
    """The branch's tensors, named as in a mixer, from those of the plain mixer."""
    branch = cast(Mamba2Sizes, cfg.mixer_sizes("differential"))
    if alignment == "published":
        return {name: _blind_half(name, tensor, is_minuend, branch) for name, tensor in mixer.items()}
    assert cfg.differential is not None
    plain = cast(Mamba2Sizes, cfg.mixer_sizes("plain"))
    split = _ComponentSplit(plain, branch, is_minuend, by_heads=cfg.differential.head_division == "n_heads")
    return {name: split.tensor(name, tensor) for name, tensor in mixer.items()}


def _blind_half(name: str, tensor: Tensor, is_minuend: bool, branch: Mamba2Sizes) -> Tensor:
    sizes = {
        "in_proj.weight": branch.d_in_proj,
        "in_proj.bias": branch.d_in_proj,
        "conv1d.weight": branch.d_conv_channels,
        "conv1d.bias": branch.d_conv_channels,
        "inner_norm.weight": branch.d_inner,
    }
    if name == "out_proj.weight":
        return tensor[:, : branch.d_inner] if is_minuend else tensor[:, -branch.d_inner :]
    if name in sizes:
        return tensor[: sizes[name]] if is_minuend else tensor[-sizes[name] :]
    return tensor


class _ComponentSplit:
    """Picks a branch's channels and heads out of a plain mixer's tensors, component by component."""

    def __init__(self, plain: Mamba2Sizes, branch: Mamba2Sizes, is_minuend: bool, *, by_heads: bool) -> None:
        self.plain, self.by_heads = plain, by_heads
        channels = torch.arange(plain.d_inner)
        shape = {"g": plain.n_groups, "p": plain.d_head}
        grid = rearrange(channels, "(g r p) -> g r p", **shape)
        half = 0 if is_minuend else 1
        if by_heads:
            grid = grid.chunk(2, dim=1)[half]
            self.heads = rearrange(torch.arange(plain.n_heads), "(g r) -> g r", g=plain.n_groups).chunk(2, dim=1)[half]
        else:
            grid = grid.chunk(2, dim=2)[half]
            self.heads = torch.arange(plain.n_heads)
        self.channels, self.heads = grid.flatten(), self.heads.flatten()

    def tensor(self, name: str, tensor: Tensor) -> Tensor:
        d_bc = 2 * self.plain.n_groups * self.plain.d_state
        shared = torch.arange(self.plain.d_inner, self.plain.d_inner + d_bc)
        conv_rows = torch.cat([self.channels, shared])
        dt_rows = self.plain.d_inner + self.plain.d_conv_channels + self.heads
        rows = {
            "in_proj": torch.cat([self.channels, self.plain.d_inner + conv_rows, dt_rows]),
            "conv1d": conv_rows,
            "inner_norm": self.channels,
        }
        if name == "out_proj.weight":
            return tensor[:, self.channels.to(tensor.device)]
        if name in PER_HEAD:
            return tensor[self.heads.to(tensor.device)]
        chosen = rows.get(name.partition(".")[0])
        return tensor if chosen is None else tensor[chosen.to(tensor.device)]
