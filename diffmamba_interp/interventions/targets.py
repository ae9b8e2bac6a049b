"""Which blocks, scans, heads and positions an intervention means, checked against the model or the prompt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor

from diffmamba_interp.argument_checks import checked_fields
from diffmamba_interp.hook_names import BRANCHES, Branch, Scan, mixer_prefix
from diffmamba_interp.mixer_sizes import BlockKind
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.mixer import Mixer

Blocks = int | Sequence[int] | None
"""One block, several, or None for every block that has what is changed."""

Positions = int | Sequence[int] | Bool[Tensor, "batch pos"]
"""One or more positions that are changed in every sample, or a mask which says for each sample where."""


@checked_fields
@dataclass(frozen=True, kw_only=True)
class AtTokens:
    """Wherever a text has one of these tokens, also in what is read or written later on.

    They are known by their embeddings, which is all that a model sees of them. ids: one or more token ids.
    """

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError("ids is empty, so nothing would change: name at least one token.")

    def mask(self, embedded: Tensor, weight: Tensor) -> Bool[Tensor, "batch pos"]:
        """True at these tokens. embedded: [batch, pos, d_model]. weight: of the embedding, [d_vocab, d_model]."""
        require_tokens("ids", self.ids, len(weight))
        rows = weight[list(self.ids)]
        return torch.stack([(embedded == row).all(dim=-1) for row in rows]).any(dim=0)


def chosen_blocks(model: HookedMamba, blocks: Blocks, kind: BlockKind | None = None) -> tuple[int, ...]:
    """The blocks that are meant, each of the given kind; None stands for all of that kind.

    Raises ValueError for a block that the model lacks or that is of the other kind, and if none is left.
    """
    n_layers = model.cfg.n_layers
    of_kind = tuple(block for block in range(n_layers) if kind in (None, model.cfg.block_kind(block)))
    if blocks is None:
        if not of_kind:
            raise ValueError(f"this model has no {kind} block, so there is nothing to change.")
        return of_kind
    chosen = _as_tuple(blocks)
    if not chosen:
        raise ValueError("blocks is empty, so nothing would change: name a block, or give None for all.")
    for block in chosen:
        if not 0 <= block < n_layers:
            raise ValueError(f"block {block} is out of range: the model has blocks 0 to {n_layers - 1}.")
        if block not in of_kind:
            raise ValueError(_wrong_kind(block, of_kind))
    return chosen


def chosen_scans(model: HookedMamba, blocks: Blocks, branch: Branch | None) -> list[Scan]:
    """All scans of the chosen blocks, or those of one branch. Raises ValueError as `chosen_blocks` does."""
    require_branch(branch)
    if branch is not None:
        return [(block, branch) for block in chosen_blocks(model, blocks, "differential")]
    scans: list[Scan] = []
    for block in chosen_blocks(model, blocks):
        is_plain = model.cfg.block_kind(block) == "plain"
        scans += [(block, None)] if is_plain else [(block, one) for one in BRANCHES]
    return scans


def one_scan(model: HookedMamba, block: int, branch: Branch | None) -> Scan:
    """The scan of a plain block (`branch=None`), or of a branch, which must be named.

    Raises ValueError for a block that the model lacks, a missing branch, or a branch of a plain block.
    """
    scans = chosen_scans(model, block, branch)
    if len(scans) > 1:
        raise ValueError(
            f"block {block} is differential: head 3, say, of its minuend has no tie to head 3 of its subtrahend. "
            "Say which is meant by branch='minuend' or branch='subtrahend'."
        )
    return scans[0]


def gated_point(model: HookedMamba, block: int, branch: Branch | None) -> str:
    """The hook point of the scan's output behind its gate: what enters out_proj.

    Raises ValueError for a branch that has none of its own, since the scans are subtracted before the gate.
    """
    if not has_gate(model, block, branch):
        raise ValueError(
            f"block {block} subtracts its scans before the gate (subtract_at 'scan'), so what enters out_proj is not "
            f"the {branch}'s alone: take its heads at 'ssm_y', the scan's output."
        )
    prefix = mixer_prefix(block, branch)
    mixer = cast(Mixer, model.get_submodule(prefix))
    return f"{prefix}.{mixer.gated_point}"


def has_gate(model: HookedMamba, block: int, branch: Branch | None) -> bool:
    """Whether what enters the block's out_proj holds this scan's output apart from the other branch's."""
    differential = model.cfg.differential
    return branch is None or differential is None or differential.subtract_at != "scan"


def chosen_heads(model: HookedMamba, block: int, heads: int | Sequence[int], name: str = "heads") -> tuple[int, ...]:
    """The heads that are meant. Raises ValueError for one that the block's scans lack, and if there are none."""
    n_heads = model.cfg.mixer_sizes(model.cfg.block_kind(block)).n_heads
    chosen = _as_tuple(heads)
    if not chosen:
        raise ValueError("heads is empty, so nothing would change: name at least one.")
    for head in chosen:
        if not 0 <= head < n_heads:
            raise ValueError(
                f"{name}: head {head} is out of range: a scan of block {block} has heads 0 to {n_heads - 1}."
            )
    return chosen


def require_branch(branch: str | None) -> None:
    """Raise ValueError unless it is one of the two, or None."""
    if branch is not None and branch not in BRANCHES:
        raise ValueError(f"branch is {branch!r}: it must be {' or '.join(map(repr, BRANCHES))}, or None.")


def require_positions(positions: Positions) -> None:
    """Raise ValueError for no position, or one that counts from the end, where a padded batch holds padding."""
    if isinstance(positions, Tensor):
        return
    named = _as_tuple(positions)
    if not named:
        raise ValueError("positions is empty, so nothing would change: name at least one.")
    if min(named) < 0:
        raise ValueError(f"position {min(named)} is negative: positions count from 0 at the prompt's beginning.")


def require_tokens(name: str, ids: Collection[int], d_vocab: int) -> None:
    """Raise ValueError for a token id outside the vocabulary, which a GPU would not survive."""
    if ids and not 0 <= min(ids) <= max(ids) < d_vocab:
        raise ValueError(f"{name} holds token ids from {min(ids)} to {max(ids)}: the vocabulary is 0 to {d_vocab - 1}.")


def position_mask(positions: Positions, value: Tensor) -> Bool[Tensor, "samples pos"]:
    """True where `value`, [batch, pos, ...], is to be changed; one row for all samples, or one for each.

    Raises ValueError for a position beyond the prompt, and a mask of another shape than the batch.
    """
    n_batch, n_pos = value.shape[:2]
    if isinstance(positions, Tensor):
        if positions.shape != (n_batch, n_pos):
            raise ValueError(
                f"positions is a mask of shape {tuple(positions.shape)}, but the forward pass has {n_batch} samples of "
                f"{n_pos} positions: give it that shape, with the samples in the order in which they are run."
            )
        return positions.to(value.device)
    named = _as_tuple(positions)
    if max(named) >= n_pos:
        raise ValueError(
            f"position {max(named)} is beyond the prompt, which has positions 0 to {n_pos - 1} (of one that is read in "
            "pieces, the first piece has: make the pieces longer)."
        )
    mask = torch.zeros(1, n_pos, dtype=torch.bool)
    mask[0, list(named)] = True
    return mask.to(value.device)


def _as_tuple(numbers: int | Sequence[int]) -> tuple[int, ...]:
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)


def _wrong_kind(block: int, of_kind: tuple[int, ...]) -> str:
    have = f"The differential blocks are {', '.join(map(str, of_kind))}" if of_kind else "This model has none that do"
    return f"block {block} is plain: it has no lambda and no branches. {have}."
