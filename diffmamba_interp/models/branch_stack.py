"""Both branches of a differential Mamba-2 mixer as one mixer: one pass, at the price of one plain mixer.

    in_proj  = [z1 z2 | x1 x2 | B1 B2 | C1 C2 | dt1 dt2]     rows of the two projections, component by component
    conv, A, D, norm: side by side;  heads and groups: twice as many, branch 1's first
    out_proj = [W1 | -lambda W2]                              so that the product is m = M1(u) - lambda M2(u)

Head h reads group h // (heads per group), so branch 1's heads read branch 1's groups, and the gated norm is per
group: the stacked mixer is an ordinary `Mamba2Mixer`, and its kernels need not know of branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.mixer_sizes import Mamba2Sizes, MixerSizes
from diffmamba_interp.models.mamba2_mixer import Mamba2Mixer, run_whole
from diffmamba_interp.models.mixer import BranchStates, MixerState
from diffmamba_interp.ops import fused as kernels
from diffmamba_interp.ops.precision import upcast


@dataclass(frozen=True)
class _Cached:
    """Stacked tensors, and what they were made from: addresses and versions of the branches' parameters.

    sources: those parameters' memory, kept so that no other tensor can come to have the same address.
    """

    key: tuple[object, ...]
    tensors: dict[str, Tensor]
    sources: tuple[Tensor, ...]


class BranchStack:
    """Runs two branches of the given sizes in one pass of the GPU kernels. Holds no parameters of its own.

    Without gradients the stacked tensors are kept (as large as the branches' weights) until a parameter changes.
    A write through `parameter.data` leaves no trace to see: call `forget` after one.
    """

    def __init__(self, cfg: HookedMambaConfig, sizes: Mamba2Sizes) -> None:
        self.sizes = sizes
        wide = replace(sizes, d_inner=2 * sizes.d_inner, n_groups=2 * sizes.n_groups)
        with torch.device("meta"):
            self.mixer = Mamba2Mixer(cfg, wide)
        self._cached: _Cached | None = None

    @classmethod
    def of(cls, cfg: HookedMambaConfig, sizes: MixerSizes) -> BranchStack | None:
        """The stack of branches of these sizes; None for branches that are no Mamba-2 mixers."""
        return cls(cfg, sizes) if isinstance(sizes, Mamba2Sizes) else None

    def serves(self, n_pos: int) -> bool:
        """Whether the one kernel call behind `run` can take this many positions at these sizes."""
        sizes = self.mixer.sizes
        return kernels.serves_whole_mixer(n_pos, sizes.d_in_proj, sizes.d_conv)

    def run(
        self,
        minuend: Mamba2Mixer,
        subtrahend: Mamba2Mixer,
        lambda_: Callable[[], Float[Tensor, ""]],
        u: Float[Tensor, "batch pos d_model"],
        *,
        lambda_key: tuple[object, ...] | None,
        keep_state: bool,
    ) -> tuple[Float[Tensor, "batch pos d_model"], BranchStates | None]:
        """m = M1(u) - lambda M2(u) from zero states, and each branch's state after the last position.

        `lambda_` is called only if the stacked tensors must be made anew. `lambda_key` changes whenever lambda
        does; None for a lambda that a hook may have made.
        """
        tensors = self.tensors(minuend, subtrahend, lambda_, lambda_key)
        projected = F.linear(u, tensors["in_proj.weight"], tensors.get("in_proj.bias"))
        m, state = run_whole(projected, tensors, self.mixer, keep_state)
        return m, None if state is None else self.split_state(state)

    def tensors(
        self,
        minuend: Mamba2Mixer,
        subtrahend: Mamba2Mixer,
        lambda_: Callable[[], Tensor],
        lambda_key: tuple[object, ...] | None,
    ) -> dict[str, Tensor]:
        """The stacked parameters; made once and kept while no gradient is wanted and no parameter changes."""
        first, second = minuend.parameters_by_name(), subtrahend.parameters_by_name()
        versions = parameter_versions([*first.values(), *second.values()])
        if torch.is_grad_enabled() or lambda_key is None or versions is None:
            return self._stack(first, second, lambda_())
        key, before = (*lambda_key, *versions), self._cached
        if before is not None and before.key == key:
            return before.tensors
        # Ordinary tensors even in inference mode, so that whoever comes next can use and overwrite them.
        with torch.inference_mode(False), torch.no_grad():
            tensors = self._stack(first, second, lambda_())
            if first["in_proj.weight"].is_cuda and torch.cuda.is_current_stream_capturing():
                return tensors  # Nothing is in them before the graph is replayed.
            if before is not None and _fit(before.tensors, tensors):
                for name, tensor in tensors.items():
                    before.tensors[name].copy_(tensor)
                tensors = before.tensors
        sources = tuple(parameter.detach() for parameter in (*first.values(), *second.values()))
        self._cached = _Cached(key, tensors, sources)
        return tensors

    @property
    def kept(self) -> dict[str, Tensor] | None:
        """The stacked tensors that are kept now: the same object, with other values, after a parameter's edit."""
        return None if self._cached is None else self._cached.tensors

    def forget(self) -> None:
        """Drop the kept tensors."""
        self._cached = None

    def _stack(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], lambda_: Tensor) -> dict[str, Tensor]:
        stacked = {}
        for name in first:
            if name.startswith("out_proj"):
                scaled = (upcast(second[name]) * -lambda_).to(second[name].dtype)
                is_matrix = name == "out_proj.weight"
                stacked[name] = torch.cat([first[name], scaled], dim=1) if is_matrix else first[name] + scaled
            else:
                stacked[name] = _interleave(first[name], second[name], self._row_sizes(name))
        return stacked

    def _row_sizes(self, name: str) -> list[int]:
        """How the rows of a parameter divide into components."""
        sizes = self.sizes
        d_bc = sizes.n_groups * sizes.d_state
        if name.startswith("in_proj"):
            return [sizes.d_inner, sizes.d_inner, d_bc, d_bc, sizes.n_heads]
        if name.startswith("conv1d"):
            return [sizes.d_inner, d_bc, d_bc]
        return [sizes.d_inner if name == "inner_norm.weight" else sizes.n_heads]

    def split_state(self, state: MixerState) -> BranchStates:
        """The stacked mixer's state as the two branches' own."""
        doubled = [size for size in self._row_sizes("conv1d") for _ in range(2)]
        parts = state.conv.split(doubled, dim=1)
        convs = (torch.cat(parts[0::2], dim=1), torch.cat(parts[1::2], dim=1))
        ssms = state.ssm.split(self.sizes.n_heads, dim=1)
        return BranchStates(MixerState(conv=convs[0], ssm=ssms[0]), MixerState(conv=convs[1], ssm=ssms[1]))


def parameter_versions(parameters: Sequence[Tensor]) -> tuple[object, ...] | None:
    """Changes whenever one of the parameters is replaced or written to; None where that cannot be seen."""
    if any(parameter.is_inference() for parameter in parameters):
        return None
    return tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)


def _fit(kept: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> bool:
    """Whether the one's values can be written over the other's."""
    return kept.keys() == made.keys() and all(
        (kept[name].shape, kept[name].dtype, kept[name].device) == (tensor.shape, tensor.dtype, tensor.device)
        for name, tensor in made.items()
    )


def _interleave(first: Tensor, second: Tensor, sizes: list[int]) -> Tensor:
    """Component by component along the first axis: the first branch's rows, then the second's."""
    pairs = zip(first.split(sizes), second.split(sizes), strict=True)
    return torch.cat([part for pair in pairs for part in pair])
