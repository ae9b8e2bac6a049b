"""Activation patching: values of one prompt's run put into another's, block by block and place by place.

    patched[block, pos] = answer logit of the corrupted prompt, with value[block][pos] taken from the clean one
    change              = patched - corrupted
    recovered           = (patched - corrupted) / (clean - corrupted)         0: no effect, 1: all of it

A grid's rows are blocks, or what is patched of them: their branches, or the heads of their scans. Each cell is one row
of a batch, which runs from the patched block on: one pass serves many of them. `attribution_patching` estimates the
same grid by one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, checked, fitting
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.hook_names import BRANCHES, Branch, ResidualPoint, block_point, branch_out, mixer_point
from diffmamba_interp.interventions.ablation import HEAD_VALUES, HeadValue
from diffmamba_interp.interventions.intervention import Hook
from diffmamba_interp.interventions.targets import (
    Blocks,
    Scan,
    chosen_blocks,
    chosen_scans,
    gated_point,
    require_positions,
    require_tokens,
)
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.ops.select import choose_impl

PointOfBlock = ResidualPoint | Literal["branch_out"] | HeadValue | Callable[[int], str]
"""What is patched of a block: a point of the residual stream; "branch_out", the output of each branch; "ssm_y" or
"gated", the value of each head of its scans (see `AblateHead`); or a function from a block to a hook's name."""

Place = int | tuple[int, ...]
"""A position, or several that are patched together."""

ROWS = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchGrid(JsonRecord):
    """What patching one value at a time does to the answer's logit (minus `against`'s, where that was given).

    point: hook point, with {} for the block, or the word for all branches or heads. blocks: of each row. branches,
    heads: of each row, where rows are branches or heads; a plain block has no branch. positions: one for each column,
    or several that were patched together. answers, against: token ids, one per sample. estimated: by one backward
    pass, `attribution_patching`. Logits, without unit:
    clean, corrupted: of the unpatched runs. patched: of each cell.
    """

    point: str
    blocks: tuple[int, ...]
    positions: tuple[Place, ...]
    answers: tuple[int, ...]
    against: tuple[int, ...] | None
    clean: Float[np.ndarray, " sample"]
    corrupted: Float[np.ndarray, " sample"]
    patched: Float[np.ndarray, "sample row pos"]
    branches: tuple[Branch | None, ...] | None = None
    heads: tuple[int, ...] | None = None
    estimated: bool = False

    @property
    def change(self) -> Float[np.ndarray, "sample row pos"]:
        """Change of the logit by the patch."""
        return self.patched - self.corrupted[:, None, None]

    @property
    def recovered(self) -> Float[np.ndarray, "sample row pos"]:
        """The change as a share of the distance between the two prompts; NaN where they do not differ."""
        distance = (self.clean - self.corrupted)[:, None, None]
        return np.divide(self.change, distance, out=np.full_like(self.patched, np.nan), where=distance != 0)

    @property
    def row_names(self) -> tuple[str, ...]:
        """`3`, `3 minuend` or `3 minuend, head 1`: what is patched in each row."""
        names = [str(block) for block in self.blocks]
        if self.branches is not None:
            names = [f"{name} {branch}" if branch else name for name, branch in zip(names, self.branches, strict=True)]
        if self.heads is not None:
            names = [f"{name}, head {head}" for name, head in zip(names, self.heads, strict=True)]
        return tuple(names)


@checked
@torch.no_grad()
def patch_grid(
    model: HookedMamba,
    clean: Int[Tensor, "batch pos"],
    corrupted: Int[Tensor, "batch other_pos"],
    *,
    answers: Sequence[int],
    against: Sequence[int] | None = None,
    point: PointOfBlock = "resid_pre",
    blocks: Blocks = None,
    positions: Sequence[int | Sequence[int]] | None = None,
    rows: Count = ROWS,
    on_progress: Callable[[int], None] | None = None,
) -> PatchGrid:
    """Run the corrupted prompts, each time with one position of one block's value taken from the clean ones.

    Args:
        model: hooks that are attached to it take effect on every run.
        clean, corrupted: pairs of prompts of equal length, without padding (`needle.swapped_needles` makes such).
        answers: one token id per pair, whose logit is read at the last position.
        against: token ids whose logit is subtracted, such as the corrupted prompts' own answers.
        point: a point of the residual stream; "branch_out" for a row per branch; "ssm_y" or "gated" for a row per
            head; or a function from a block to a hook's name, `lambda block: branch_out(block, "minuend")`.
        blocks: which to patch; None for all that have it.
        positions: which to patch; None for each on its own. Several in a tuple, such as those of a whole fact
            (`positions_in`), are patched together and make one column.
        rows: cells, each a whole prompt, in one forward pass.
        on_progress: called with the number of cells done since the last call.

    Raises:
        ValueError: prompts of different lengths, a block or position that there is not, or a point whose value
            has no position axis.
    """
    asked = ask(model, clean, corrupted, answers, against, point, blocks, positions)
    values, clean_logits = clean_run(asked, range(len(clean)))
    n_rows, n_places = len(asked.rows), len(asked.places)
    patched = np.zeros((len(clean), n_rows, n_places))
    runs = _CorruptedRuns(asked)
    for block in sorted({row.block for row in asked.rows}):
        runs.advance(block)
        cells = [
            _Cell(sample, row, column)
            for sample in range(len(clean))
            for row in range(n_rows)
            for column in range(n_places)
            if asked.rows[row].block == block
        ]
        for first in range(0, len(cells), rows):
            batch = cells[first : first + rows]
            with model.hooks(_hooks_of_cells(asked, batch, values)):
                logits = runs.from_block(block, [cell.sample for cell in batch])
            patched[tuple(zip(*batch, strict=True))] = logits.double().cpu().numpy()
            if on_progress is not None:
                on_progress(len(batch))
    return asked.grid(clean_logits, asked.read("corrupted", range(len(clean))), patched)


class GridRow(NamedTuple):
    """What one row of a grid patches: the hook point, and of its value's third axis the part that is one head's."""

    block: int
    name: str
    branch: Branch | None = None
    head: int | None = None
    part: slice = slice(None)


@dataclass(frozen=True, kw_only=True)
class AskedGrid:
    """A grid's question, checked: which cells, and how a prompt is read."""

    model: HookedMamba
    point: PointOfBlock
    rows: tuple[GridRow, ...]
    places: tuple[Place, ...]
    prompts: dict[Literal["clean", "corrupted"], Tensor]
    answers: Tensor
    against: Tensor | None

    @property
    def names(self) -> list[str]:
        """The hook points, each once."""
        return list(dict.fromkeys(row.name for row in self.rows))

    def read(self, which: Literal["clean", "corrupted"], samples: Sequence[int]) -> Float[Tensor, " sample"]:
        """Answer logits at the last position of these samples, minus `against`'s; hooks in force take effect."""
        index = torch.tensor(list(samples), device=self.answers.device)
        return self.of_logits(self.model(self.prompts[which][index], positions=[-1])[:, 0], index)

    def of_logits(self, logits: Float[Tensor, "sample d_vocab"], index: Tensor) -> Float[Tensor, " sample"]:
        """The answers' logits minus `against`'s. index: the samples that they are of."""
        read = logits.gather(-1, self.answers[index, None])[:, 0]
        return read if self.against is None else read - logits.gather(-1, self.against[index, None])[:, 0]

    def grid(self, clean: Tensor, corrupted: Tensor, patched: np.ndarray, *, estimated: bool = False) -> PatchGrid:
        """The record of what came out. clean, corrupted: logits, [sample]. patched: [sample, row, pos]."""
        first = self.rows[0]
        in_words = isinstance(self.point, str) and self.point not in get_args(ResidualPoint)
        has_heads = first.head is not None
        return PatchGrid(
            point=str(self.point) if in_words else first.name.replace(f"blocks.{first.block}.", "blocks.{}."),
            blocks=tuple(row.block for row in self.rows),
            branches=tuple(row.branch for row in self.rows) if in_words else None,
            heads=tuple(row.head for row in self.rows if row.head is not None) if has_heads else None,
            positions=self.places,
            answers=tuple(self.answers.tolist()),
            against=None if self.against is None else tuple(self.against.tolist()),
            clean=clean.double().cpu().numpy(),
            corrupted=corrupted.double().cpu().numpy(),
            patched=patched,
            estimated=estimated,
        )


def ask(
    model: HookedMamba,
    clean: Tensor,
    corrupted: Tensor,
    answers: Sequence[int],
    against: Sequence[int] | None,
    point: PointOfBlock,
    blocks: Blocks,
    positions: Sequence[int | Sequence[int]] | None,
) -> AskedGrid:
    """What `patch_grid` and `attribution_patching` are asked. Raises ValueError as they do."""
    _check_pairs(clean, corrupted, answers, against)
    require_tokens("answers and against", [*answers, *(against or ())], model.cfg.d_vocab)
    n_pos = clean.shape[1]
    places = _as_places(range(n_pos) if positions is None else positions)
    _check_places(places, n_pos)
    device = model.embed.weight.device
    return AskedGrid(
        model=model,
        point=point,
        rows=tuple(_grid_rows(model, point, blocks)),
        places=places,
        prompts={"clean": clean.to(device), "corrupted": corrupted.to(device)},
        answers=torch.tensor(list(answers), device=device),
        against=None if against is None else torch.tensor(list(against), device=device),
    )


@torch.no_grad()
def clean_run(asked: AskedGrid, samples: Sequence[int]) -> tuple[dict[str, Tensor], Float[Tensor, " sample"]]:
    """The clean prompts' values by hook point, and their answer logits.

    Raises ValueError for a point whose value has no position axis.
    """
    by_name: dict[str, Tensor] = {}
    n_pos = asked.prompts["clean"].shape[1]

    def keep(value: Tensor, name: str) -> None:
        if value.ndim < 3 or value.shape[1] != n_pos or name.endswith("hook_hidden_attention"):
            raise ValueError(
                f"{name!r} has shape {tuple(value.shape)}, not [batch, pos, ...]: it cannot be patched by position."
            )
        by_name[name] = value

    with asked.model.hooks([(asked.names, keep)]):
        logits = asked.read("clean", samples)
    return by_name, logits


class _Cell(NamedTuple):
    """Indices into a grid's axes."""

    sample: int
    row: int
    column: int


class _CorruptedRuns:
    """Runs of the corrupted prompts that start where the patch is: what comes before it is the same in every cell.

    Where the caller's hooks are in force they may carry something from one block to the next, so all blocks run; and so
    they do for a point that is not its block's own.
    """

    def __init__(self, asked: AskedGrid) -> None:
        self.asked, self.block = asked, 0
        elsewhere = any(not row.name.startswith(f"blocks.{row.block}.") for row in asked.rows)
        self.from_start = elsewhere or any(point.is_hooked for point in asked.model.hook_points.values())
        self.resid = torch.empty(0) if self.from_start else asked.model(asked.prompts["corrupted"], stop_at_block=0)

    def from_block(self, block: int, samples: Sequence[int]) -> Float[Tensor, " sample"]:
        """What is read with the hooks in force, none of them before this block; blocks are asked for in their order."""
        if self.from_start:
            return self.asked.read("corrupted", samples)
        index = torch.tensor(list(samples), device=self.resid.device)
        resid, model = self.resid[index], self.asked.model
        for later in range(block, model.cfg.n_layers):
            resid = self._run(resid, later)
        logits = upcast(model.unembed(model.ln_final(resid[:, -1:])))[:, 0]
        return self.asked.of_logits(logits, index)

    def advance(self, block: int) -> None:
        """Run the unpatched prompts up to the entrance of a block."""
        while not self.from_start and self.block < block:
            self.resid = self._run(self.resid, self.block)
            self.block += 1

    def _run(self, resid: Tensor, block: int) -> Tensor:
        model = self.asked.model
        fused = choose_impl(model.impl, resid.device, model.embed.weight.dtype).impl == "fused"
        return model.blocks[block](resid, None, None, fused=fused, keep_state=False)[0]


def _hooks_of_cells(asked: AskedGrid, cells: Sequence[_Cell], values: dict[str, Tensor]) -> list[Hook]:
    """One function per hook point, which patches those rows of the batch that are cells of this point."""

    def hook(at: str) -> Hook:
        clean = values[at][[cell.sample for cell in cells]]
        mask = torch.zeros(clean.shape[:3], dtype=torch.bool)
        for number, cell in enumerate(cells):
            row = asked.rows[cell.row]
            if row.name == at:
                mask[number, list(positions_of(asked.places[cell.column])), row.part] = True
        mask = mask.to(clean.device).reshape(*mask.shape, *[1] * (clean.ndim - 3))
        return at, lambda value, name: torch.where(mask, clean.to(value), value)

    return [hook(name) for name in dict.fromkeys(asked.rows[cell.row].name for cell in cells)]


def _grid_rows(model: HookedMamba, point: PointOfBlock, blocks: Blocks) -> list[GridRow]:
    """Raises ValueError for a point or a block that there is not."""
    if point == "branch_out":
        differential = chosen_blocks(model, blocks, "differential")
        return [GridRow(block, branch_out(block, branch), branch) for block in differential for branch in BRANCHES]
    if isinstance(point, str) and point in HEAD_VALUES:
        return [row for scan in chosen_scans(model, blocks, None) for row in _head_rows(model, scan, point)]
    return [GridRow(block, _hook_name(point, block)) for block in chosen_blocks(model, blocks)]


def _head_rows(model: HookedMamba, scan: Scan, point: str) -> list[GridRow]:
    block, branch = scan
    sizes = model.cfg.mixer_sizes(model.cfg.block_kind(block))
    name = mixer_point(block, "ssm_y", branch) if point == "ssm_y" else gated_point(model, block, branch)
    width = 1 if point == "ssm_y" else sizes.d_head
    heads = range(sizes.n_heads)
    return [GridRow(block, name, branch, head, slice(head * width, (head + 1) * width)) for head in heads]


def _hook_name(point: PointOfBlock, block: int) -> str:
    if not isinstance(point, str):
        return fitting("what point returned", point(block), str)
    if point not in get_args(ResidualPoint):
        known = ", ".join([*get_args(ResidualPoint), "branch_out", *HEAD_VALUES])
        raise ValueError(f"point is {point!r}: it must be one of {known}, or a function from a block to a hook's name.")
    return block_point(block, cast(ResidualPoint, point))


def _check_pairs(clean: Tensor, corrupted: Tensor, answers: Sequence[int], against: Sequence[int] | None) -> None:
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"the clean prompts have shape {tuple(clean.shape)}, the corrupted ones {tuple(corrupted.shape)} (samples, "
            "tokens): a value is moved to the same position, so make the pair equally long, by replacing words with "
            "others of as many tokens."
        )
    for name, ids in (("answers", answers), ("against", against)):
        if ids is not None and len(ids) != len(clean):
            raise ValueError(f"{name} holds {len(ids)} token ids for {len(clean)} pairs of prompts: give one for each.")


def positions_of(place: Place) -> tuple[int, ...]:
    """The positions of one column of a grid."""
    return (place,) if isinstance(place, int) else place


def _as_places(places: Sequence[int | Sequence[int]]) -> tuple[Place, ...]:
    return tuple(place if isinstance(place, int) else tuple(place) for place in places)


def _check_places(places: tuple[Place, ...], n_pos: int) -> None:
    if not places:
        raise ValueError("positions is empty, so nothing would be patched: name at least one, or give None for all.")
    for place in places:
        require_positions(place)
        if max(positions_of(place)) >= n_pos:
            last = max(positions_of(place))
            raise ValueError(f"position {last} is beyond the prompts, which have positions 0 to {n_pos - 1}.")
