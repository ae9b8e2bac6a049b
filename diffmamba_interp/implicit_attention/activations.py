"""What implicit attention needs of one block: the activations that really ran, and the weights behind them.

Everything is frozen at its value in that run: gates, norm scales, B, C, dt and lambda. With that,

    branch_out[t] = W_out (gate[t] * y[t]) + b_out            gate: of a Mamba-2 mixer SiLU(z) w_norm / rms(y SiLU(z))
    mixer_out[t]  = sum_branches sign * out_gain[t] * branch_out[t]          sign: 1, and -lambda

out_gain is the norm on what is subtracted (`DifferentialMixer.freeze_branch`), 1 in plain blocks. In a Diff-S6 the
subtraction comes before out_proj, so that norm is a factor of the gate, and out_gain is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.activation_cache import ActivationCache
from diffmamba_interp.argument_checks import checked
from diffmamba_interp.config import Normalisation
from diffmamba_interp.hook_names import (
    BRANCHES,
    Branch,
    block_point,
    differential_point,
    mixer_point,
    mixer_prefix,
)
from diffmamba_interp.hook_points import HookFunction, Recorder, attached
from diffmamba_interp.implicit_attention.branch_parts import ShortRepr
from diffmamba_interp.mixer_sizes import BlockKind
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.mixer import FrozenMixer, Mixer
from diffmamba_interp.models.token_checks import Lengths, counted, take_rows, valid_positions
from diffmamba_interp.ops.frozen_scan import WeightedScan
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.ops.select import choose_impl


@dataclass(frozen=True, kw_only=True, repr=False)
class BranchActivations(FrozenMixer, ShortRepr):
    """One mixer of a block, plain or a branch, as it ran: a `FrozenMixer`, and its way into the block's output.

    out_gain: factor from the branch's output to mixer_out, without lambda; None for 1.
    out: the branch's `hook_out`, without lambda; None in a plain block, where it is mixer_out.
    What the scan was made of (of a Mamba-2 mixer dt, log_decay, B, C) can be read here, too.
    """

    out_gain: Float[Tensor, "batch pos d_model"] | None
    out: Float[Tensor, "batch pos width"] | None

    def __getattr__(self, name: str) -> Any:
        if name in ("dt", "log_decay", "A", "B", "C", "D"):
            return getattr(self.scan, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    @property
    def n_heads(self) -> int:
        return self.x.shape[2]

    def gate_at(self, rows: Int[Tensor, "batch row"] | None) -> Float[Tensor, "batch row head d_head"]:
        """Frozen factor from the scan's output to out_proj's input."""
        return take_rows(self.gate, rows)


@dataclass(frozen=True, kw_only=True, repr=False)
class BlockActivations(ShortRepr):
    """One block of one run.

    block: its index. kind: plain or differential. normalisation: of a differential block.
    branches: one mixer, or (minuend, subtrahend). lambda_: the weight of the subtrahend in this run, a scalar
    or, of a gate or where a hook made it so, [batch or 1, pos or 1, 1 or head]. mixer_out: the block's mixer output.
    lengths: tokens per sample; positions behind have no meaning.
    """

    block: int
    kind: BlockKind
    normalisation: Normalisation | None
    branches: tuple[BranchActivations, ...]
    lambda_: Tensor | None
    mixer_out: Float[Tensor, "batch pos d_model"]
    lengths: Int[Tensor, " batch"]

    @property
    def n_pos(self) -> int:
        return self.mixer_out.shape[1]

    def lambda_at(self, rows: Int[Tensor, "batch row"] | None) -> Tensor | None:
        """lambda for each destination: a scalar, [batch, row], or [batch, row, head] where each head has its own."""
        if self.lambda_ is None:
            return None
        if self.lambda_.numel() == 1:
            return self.lambda_.reshape(())
        everywhere = self.lambda_.expand(self.lengths.shape[0], self.n_pos, -1)
        return take_rows(everywhere if self._has_lambda_per_head else everywhere[..., 0], rows)

    @property
    def scaled_subtrahend(self) -> BranchActivations | None:
        """The subtrahend times lambda, where each head has a lambda of its own: what is summed over heads has none."""
        if not self._has_lambda_per_head:
            return None
        assert self.lambda_ is not None
        subtrahend = self.branches[1]
        return replace(subtrahend, scan=WeightedScan(subtrahend.scan, self.lambda_))

    @property
    def _has_lambda_per_head(self) -> bool:
        return self.lambda_ is not None and self.lambda_.ndim > 2 and self.lambda_.shape[2] > 1


@checked
def capture_block(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    block: int,
    *,
    lengths: Lengths | None = None,
) -> BlockActivations:
    """Run the model up to and with `block`, and keep what the block did, hooks in force included.

    Raises ValueError for a block that the model lacks.
    """
    if not 0 <= block < model.cfg.n_layers:
        raise ValueError(f"block is {block}: the model has blocks 0 to {model.cfg.n_layers - 1}.")
    return run_to_block(model, tokens, block, lengths)[1]


def run_to_block(
    model: HookedMamba, tokens: Int[Tensor, "batch pos"], block: int, lengths: Lengths | None
) -> tuple[Float[Tensor, "batch pos d_model"], BlockActivations]:
    """The residual stream after `block`, and what the block did, of a run that ends there. Raises as `run_block`."""
    recorder = Recorder(widen=True)
    with attached(model.hook_points, [(_points_read(model, block), recorder)]):
        resid = model(tokens, lengths=lengths, stop_at_block=block + 1)
    return resid, _activations(model, ActivationCache(recorder.seen), block, valid_positions(tokens, lengths))


def run_block(
    model: HookedMamba, resid: Float[Tensor, "batch pos d_model"], block: int, valid: Tensor | None
) -> tuple[Float[Tensor, "batch pos d_model"], BlockActivations]:
    """The residual stream after `block`, and what the block did.

    Raises ValueError where a hook sits on `hook_write`, `hook_state` or `hook_hidden_attention`: the scan may then
    not have been the one that dt, B and C describe.
    """
    recorder = Recorder(widen=True)
    fused = choose_impl(model.impl, resid.device, model.embed.weight.dtype).impl == "fused"
    with attached(model.hook_points, [(_points_read(model, block), recorder)]):
        resid, _ = model.blocks[block](resid, None, valid, fused=fused, keep_state=False)
    return resid, _activations(model, ActivationCache(recorder.seen), block, valid)


@contextmanager
def seen_blocks(model: HookedMamba, see: Callable[[BlockActivations], None], valid: Tensor | None) -> Iterator[None]:
    """Inside the `with` block, `see` is given what each block of a forward pass did, as soon as the block has run.

    Nothing of a block is kept after that, so a pass takes one block's memory more. Raises as `run_block`.
    """
    recorder = Recorder(widen=True)

    def at_end(block: int, value: Tensor, name: str) -> None:
        recorder(value, name)
        see(_activations(model, ActivationCache(recorder.seen), block, valid))
        recorder.seen = {}

    hooks: list[tuple[list[str], HookFunction]] = []
    for block in range(model.cfg.n_layers):
        last, *points = _points_read(model, block)
        hooks += [(points, recorder), ([last], partial(at_end, block))]
    with attached(model.hook_points, hooks):
        yield


def _points_read(model: HookedMamba, block: int) -> list[str]:
    """Attached last, a function at these sees what the other hooks have left. Raises for replaced scans."""
    kind = model.cfg.block_kind(block)
    _refuse_replaced_scans(model, block, _branches(kind))
    return _names(model, block)


def _branches(kind: BlockKind) -> tuple[Branch | None, ...]:
    return BRANCHES if kind == "differential" else (None,)


def _activations(model: HookedMamba, cache: ActivationCache, block: int, valid: Tensor | None) -> BlockActivations:
    kind = model.cfg.block_kind(block)
    return BlockActivations(
        block=block,
        kind=kind,
        normalisation=_normalisation(model, kind),
        branches=tuple(_branch(model, cache, block, branch) for branch in _branches(kind)),
        lambda_=cache[differential_point(block, "lambda")] if kind == "differential" else None,
        mixer_out=upcast(cache[block_point(block, "mixer_out")]),
        lengths=counted(cache[block_point(block, "mixer_out")], valid),
    )


def _normalisation(model: HookedMamba, kind: BlockKind) -> Normalisation | None:
    return model.cfg.differential.normalisation if kind == "differential" and model.cfg.differential else None


def _names(model: HookedMamba, block: int) -> list[str]:
    """The hook points that a block's activations are read from, the first of which the block comes to last."""
    mixer: Any = model.blocks[block].mixer
    return [block_point(block, "mixer_out"), *(f"{mixer_prefix(block, None)}.{point}" for point in mixer.frozen_points)]


def _branch(model: HookedMamba, cache: ActivationCache, block: int, branch: Branch | None) -> BranchActivations:
    mixer = model.blocks[block].mixer

    def seen(point: str) -> Tensor:
        return upcast(cache[f"{mixer_prefix(block, None)}.{point}"])

    if branch is None:
        return BranchActivations(**vars(cast(Mixer, mixer).freeze(seen)), out_gain=None, out=None)
    frozen = cast(DifferentialMixer, mixer).freeze_branch(branch, seen)
    return BranchActivations(**vars(frozen.mixer), out_gain=frozen.out_gain, out=frozen.out)


def _refuse_replaced_scans(model: HookedMamba, block: int, which: tuple[Branch | None, ...]) -> None:
    names = [mixer_point(block, p, branch) for branch in which for p in ("write", "state", "hidden_attention")]
    hooked = [name for name in names if name in model.hook_points and model.hook_points[name].is_hooked]
    if hooked:
        raise ValueError(
            f"a hook is attached to {', '.join(hooked)}: the scan that ran may not be the one that dt, B and C "
            "describe, so its implicit attention would be wrong. Remove the hook, or patch dt, log_decay, B, C "
            "or x instead."
        )
