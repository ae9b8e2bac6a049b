"""What a checkpoint holds, told without building the model: blocks, lambdas, conventions, keys that do not fit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffmamba_interp.config import DifferentialConfig, lambda_init
from diffmamba_interp.mixer_sizes import BlockKind
from diffmamba_interp.models.checkpoints import Checkpoint, load_model, open_checkpoint
from diffmamba_interp.models.lambda_forms import FORMS, lambda_from_parameters
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.loading_options import named_device
from diffmamba_interp.ops.select import Impl, choose_impl

SATURATED_SIGMOID = 0.01
"""A sigmoid within this distance of 0 or 1 counts as saturated: its slope is below 1 % of its range."""


@dataclass(frozen=True, kw_only=True)
class BlockReport:
    """One block. lambda_ and lambda_init are None in a plain block, and lambda_ where every token has its
    own or its tensors do not fit.

    saturated: whether the sigmoid in lambda is within 0.01 of its ends; None for lambda without a sigmoid.
    """

    index: int
    kind: BlockKind
    n_parameters: int
    lambda_: float | None = None
    lambda_init: float | None = None
    saturated: bool | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """A checkpoint as `inspect_checkpoint` found it.

    n_parameters counts a tied matrix once. dtypes: of the stored tensors. conventions: one sentence each.
    missing_keys, unexpected_keys, misshapen_keys: empty if the checkpoint loads. not_finite_keys: tensors that hold
    NaN or infinity; None if the values were not read. layout: whose files they are, where not the format's own.
    scan: the implementation that will run here, and why. self_check: norm of (fused - reference) over that of the
    reference, of the float32 logits of 256 random tokens with the loaded weights; None where the kernels do not run.
    """

    path: str
    format: str
    n_parameters: int
    dtypes: tuple[str, ...]
    blocks: tuple[BlockReport, ...]
    conventions: tuple[str, ...]
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    misshapen_keys: tuple[str, ...]
    scan: str
    layout: str = ""
    not_finite_keys: tuple[str, ...] | None = None
    self_check: float | None = None

    @property
    def loads(self) -> bool:
        """Whether `HookedMamba.from_pretrained` accepts the weights."""
        return not (self.missing_keys or self.unexpected_keys or self.misshapen_keys)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"loads": self.loads}


def inspect_checkpoint(
    path: str | Path, *, device: str | None = None, revision: str | None = None, check_values: bool = True
) -> CheckpointReport:
    """Look into a checkpoint folder or hub id.

    `device`: where the model would run; None means a GPU if there is one. `check_values`: read every tensor, one at a
    time, to say which hold NaN or infinity; otherwise only lambda's parameters are read. Where the GPU kernels run, the
    model is loaded and they are checked against the reference.
    Raises as `HookedMamba.from_pretrained` for what cannot be understood at all; keys that do not fit are
    reported, not raised.
    """
    target = None if device is None else named_device(device)
    checkpoint = open_checkpoint(path, revision)
    cfg, files = checkpoint.cfg, checkpoint.files
    choice = choose_impl("auto", target)
    report = CheckpointReport(
        path=str(path),
        format=checkpoint.format,
        n_parameters=_n_parameters(checkpoint, ""),
        dtypes=tuple(sorted(set(files.dtypes.values()))),
        blocks=tuple(_block_report(checkpoint, index) for index in range(cfg.n_layers)),
        conventions=_conventions(checkpoint),
        missing_keys=checkpoint.missing,
        unexpected_keys=checkpoint.unexpected,
        misshapen_keys=tuple(name for name, _, _ in checkpoint.misshapen),
        scan=f"{choice.impl} ({choice.reason})",
        layout=checkpoint.layout,
        not_finite_keys=_not_finite(checkpoint) if check_values else None,
    )
    if choice.impl == "fused" and report.loads:
        report = replace(report, self_check=fused_error(load_model(path, device=target or "cuda", revision=revision)))
    return report


@torch.no_grad()
def fused_error(model: HookedMamba, n_tokens: int = 256) -> float:
    """Relative difference of the model's logits by the kernels and by the reference, on random tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.cfg.d_vocab, (1, n_tokens), generator=generator).to(model.embed.weight.device)
    logits: dict[Impl, torch.Tensor] = {}
    before = model.impl
    try:
        for model.impl in ("reference", "fused"):
            logits[model.impl] = model(tokens)
    finally:
        model.impl = before
    return float((logits["fused"] - logits["reference"]).norm() / logits["reference"].norm())


def _block_report(checkpoint: Checkpoint, index: int) -> BlockReport:
    kind = checkpoint.cfg.block_kind(index)
    count = _n_parameters(checkpoint, f"blocks.{index}.")
    if kind == "plain":
        return BlockReport(index=index, kind=kind, n_parameters=count)
    differential = checkpoint.cfg.differential or DifferentialConfig()
    form = FORMS[differential.lambda_form]
    names = {name: checkpoint.table[f"blocks.{index}.mixer.{name}"] for name in form.parameters}
    unfit = {*checkpoint.missing, *(name for name, _, _ in checkpoint.misshapen)}
    lambda_, saturated = None, None
    if form.scope == "block" and not unfit & set(names.values()):
        tensors = checkpoint.files.read(list(names.values()))
        lambda_ = float(lambda_from_parameters({ours: tensors[names[ours]] for ours in names}, lambda_init(index)))
        if form.has_sigmoid and math.isfinite(lambda_):
            saturated = is_saturated(lambda_ - lambda_init(index))
    return BlockReport(
        index=index,
        kind=kind,
        n_parameters=count,
        lambda_=lambda_,
        lambda_init=lambda_init(index),
        saturated=saturated,
    )


def _not_finite(checkpoint: Checkpoint) -> tuple[str, ...]:
    return tuple(name for name, tensor in checkpoint.files.each() if not bool(torch.isfinite(tensor).all()))


def is_saturated(sigmoid: float) -> bool:
    """Whether a sigmoid's value is so near to 0 or 1 that training hardly moves it."""
    return not SATURATED_SIGMOID < sigmoid < 1 - SATURATED_SIGMOID


def _n_parameters(checkpoint: Checkpoint, prefix: str) -> int:
    """Stored entries below our name `prefix`; the stored copy of a tied unembedding is not counted."""
    skipped = {"unembed.weight"} if checkpoint.cfg.tie_embeddings else set()
    shapes = checkpoint.files.shapes
    return sum(
        math.prod(shapes[theirs])
        for ours, theirs in checkpoint.table.items()
        if ours.startswith(prefix) and ours not in skipped and theirs in shapes
    )


def _conventions(checkpoint: Checkpoint) -> tuple[str, ...]:
    cfg = checkpoint.cfg
    plain = cfg.mixer_sizes("plain")
    lines = [
        f"d_model {cfg.d_model}, d_state {cfg.d_state}, d_conv {cfg.d_conv}, expand {cfg.expand}, {plain.heads}",
        *plain.conventions,
        f"vocabulary {cfg.d_vocab}"
        + (f", the last {cfg.d_vocab_padding} rows padding" if cfg.d_vocab_padding else "")
        + (", unembedding tied to the embedding" if cfg.tie_embeddings else ""),
        f"residual stream in {'float32' if cfg.residual_in_fp32 else 'the dtype of the weights'}",
        f"norm_eps {cfg.norm_eps}, dt clamped to {cfg.dt_limit}",
    ]
    if cfg.scan_norm_eps is not None:
        lines.append(f"B, C and dt divided by their root mean square, eps {cfg.scan_norm_eps}")
    if cfg.differential_blocks and cfg.differential is not None:
        d = cfg.differential
        sizes = cfg.mixer_sizes("differential")
        if d.subtract_at == "mixer":
            branches = f"each branch {sizes.heads} (half the {d.head_division if sizes.d_head > 1 else 'channels'})"
        else:
            branches = f"Diff-S6, two scans of {sizes.heads} in one mixer, subtract_at {d.subtract_at}"
        lines.append(
            f"differential blocks: {d.placement}; lambda form {d.lambda_form}; normalisation {d.normalisation}; "
            + branches
        )
    return tuple(lines)
