"""Activation patching: values of one prompt's run put into another's, by hand or block by block and place by place.

    patched[block, pos] = answer logit of the corrupted prompt, with value[block][pos] taken from the clean one
    change              = patched - corrupted
    recovered           = (patched - corrupted) / (clean - corrupted)         0: no effect, 1: all of it

Each cell is one row of a batch: one forward pass serves many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, checked, checked_fields, fitting
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.hook_names import ResidualPoint, block_point
from diffmamba_interp.hook_points import select_names
from diffmamba_interp.interventions.intervention import Hook, OnPrompt
from diffmamba_interp.interventions.targets import (
    Blocks,
    Positions,
    chosen_blocks,
    position_mask,
    require_positions,
    require_tokens,
)
from diffmamba_interp.models.language_model import HookedMamba

PointOfBlock = ResidualPoint | Callable[[int], str]
"""A point of the residual stream, or a function from a block to a hook's name, for any other point."""

Place = int | tuple[int, ...]
"""A position, or several that are patched together."""

ROWS = 32


@checked_fields
@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """A hook point's value is replaced by a given one, everywhere or at some positions.

    name: of the hook point, by `hook_names`. value: [batch, pos, ...], or [1, pos, ...] for all samples; what
    `run_with_cache` gave for another prompt. A scalar, such as lambda has, holds at every position of every sample,
    those of a call that continues from a recurrent state included. positions: None for all.
    """

    name: str
    value: Tensor
    positions: Positions | None = None

    def __post_init__(self) -> None:
        if self.positions is not None:
            require_positions(self.positions)
            if self.value.ndim == 0:
                raise ValueError(
                    f"value is a scalar and positions is given: what {self.name!r} holds for a whole prompt cannot be "
                    "patched at some of its positions. Leave positions out."
                )

    def hooks(self, model: HookedMamba) -> list[Hook]:
        select_names(model.hook_points, [self.name], "name")
        return [(self.name, self._replace if self.value.ndim == 0 else OnPrompt(self._replace))]

    def _replace(self, value: Tensor, name: str) -> Tensor:
        if self.value.ndim == 0:
            return self._everywhere(value, name)
        if value.ndim == 0 and self.positions is None:
            # One lambda for each sample, as a hook may give it: the hook point says what fits.
            return self.value
        if value.ndim < 2 or self.value.shape[1:] != value.shape[1:] or self.value.shape[0] not in (1, value.shape[0]):
            raise ValueError(
                f"the patch for {name!r} has shape {tuple(self.value.shape)}, the value there {tuple(value.shape)}: "
                "take it from a prompt of the same length."
            )
        given = self.value.to(value).expand(value.shape)
        if self.positions is None:
            return given
        mask = position_mask(self.positions, value)
        return torch.where(mask.reshape(*mask.shape, *[1] * (value.ndim - 2)), given, value)

    def _everywhere(self, value: Tensor, name: str) -> Tensor:
        if not name.endswith("hook_lambda"):
            raise ValueError(f"value is a scalar, but {name!r} has shape {tuple(value.shape)}: give one of that shape.")
        return self.value.to(value).expand(value.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchGrid(JsonRecord):
    """What patching one value at a time does to the answer's logit (minus `against`'s, where that was given).

    point: hook point, with {} for the block. blocks: what was patched. positions: one for each column, or several
    that were patched together. answers, against: token ids, one per sample. Logits, without unit:
    clean, corrupted: of the unpatched runs. patched: of each cell.
    """

    point: str
    blocks: tuple[int, ...]
    positions: tuple[Place, ...]
    answers: tuple[int, ...]
    against: tuple[int, ...] | None
    clean: Float[np.ndarray, " sample"]
    corrupted: Float[np.ndarray, " sample"]
    patched: Float[np.ndarray, "sample block pos"]

    @property
    def change(self) -> Float[np.ndarray, "sample block pos"]:
        """Change of the logit by the patch."""
        return self.patched - self.corrupted[:, None, None]

    @property
    def recovered(self) -> Float[np.ndarray, "sample block pos"]:
        """The change as a share of the distance between the two prompts; NaN where they do not differ."""
        distance = (self.clean - self.corrupted)[:, None, None]
        return np.divide(self.change, distance, out=np.full_like(self.patched, np.nan), where=distance != 0)


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
        clean, corrupted: pairs of prompts of equal length, without padding.
        answers: one token id per pair, whose logit is read at the last position.
        against: token ids whose logit is subtracted, such as the corrupted prompts' own answers.
        point: a point of the residual stream, or a function from a block to a hook's name, for example
            `lambda block: branch_out(block, "minuend")`.
        blocks: which to patch; None for all.
        positions: which to patch; None for each on its own. Several in a tuple, such as those of a whole fact
            (`positions_in`), are patched together and make one column.
        rows: cells, each a whole prompt, in one forward pass.
        on_progress: called with the number of cells done since the last call.

    Raises:
        ValueError: prompts of different lengths, a block or position that there is not, or a point whose value
            has no position axis.
    """
    _check_pairs(clean, corrupted, answers, against)
    require_tokens("answers and against", [*answers, *(against or ())], model.cfg.d_vocab)
    n_pos = clean.shape[1]
    chosen = chosen_blocks(model, blocks)
    places = _as_places(range(n_pos) if positions is None else positions)
    _check_places(places, n_pos)
    names = {block: _hook_name(point, block) for block in chosen}
    device = model.embed.weight.device
    clean, corrupted = clean.to(device), corrupted.to(device)
    read = _Reader(model, answers, against)
    values, clean_logits = _clean_run(model, clean, names, read)
    cells = [_Cell(s, b, positions_of(p)) for s in range(len(clean)) for b in chosen for p in places]
    patched: list[float] = []
    for first in range(0, len(cells), rows):
        batch = cells[first : first + rows]
        samples = torch.tensor([cell.sample for cell in batch], device=device)
        with model.hooks(_hooks_of_cells(batch, names, values)):
            patched += read(corrupted[samples], samples)
        if on_progress is not None:
            on_progress(len(batch))
    everyone = torch.arange(len(clean), device=device)
    return PatchGrid(
        point=names[chosen[0]].replace(f"blocks.{chosen[0]}.", "blocks.{}."),
        blocks=chosen,
        positions=places,
        answers=tuple(answers),
        against=None if against is None else tuple(against),
        clean=np.array(clean_logits),
        corrupted=np.array(read(corrupted, everyone)),
        patched=np.array(patched).reshape(len(clean), len(chosen), len(places)),
    )


class _Cell(NamedTuple):
    sample: int
    block: int
    positions: tuple[int, ...]


class _Reader:
    """Answer logits at the last position, minus `against`'s."""

    def __init__(self, model: HookedMamba, answers: Sequence[int], against: Sequence[int] | None) -> None:
        device = model.embed.weight.device
        self.model = model
        self.answers = torch.tensor(list(answers), device=device)
        self.against = None if against is None else torch.tensor(list(against), device=device)

    def __call__(self, tokens: Tensor, samples: Tensor) -> list[float]:
        logits = self.model(tokens, positions=[-1])[:, 0]
        read = logits.gather(-1, self.answers[samples, None])[:, 0]
        if self.against is not None:
            read = read - logits.gather(-1, self.against[samples, None])[:, 0]
        return read.double().tolist()


def _clean_run(
    model: HookedMamba, clean: Tensor, names: dict[int, str], read: _Reader
) -> tuple[dict[int, Tensor], list[float]]:
    """The clean prompts' values by block, and their answer logits."""
    by_name: dict[str, Tensor] = {}

    def keep(value: Tensor, name: str) -> None:
        if value.ndim < 3 or value.shape[1] != clean.shape[1] or name.endswith("hook_hidden_attention"):
            raise ValueError(
                f"{name!r} has shape {tuple(value.shape)}, not [batch, pos, ...]: it cannot be patched by position."
            )
        by_name[name] = value

    with model.hooks([(list(names.values()), keep)]):
        logits = read(clean, torch.arange(len(clean), device=clean.device))
    return {block: by_name[name] for block, name in names.items()}, logits


def _hooks_of_cells(cells: Sequence[_Cell], names: dict[int, str], values: dict[int, Tensor]) -> list[Hook]:
    """One function per block, which patches those rows of the batch that are cells of this block."""

    def hook(block: int) -> Hook:
        patched = [
            (row, cell.sample, at) for row, cell in enumerate(cells) if cell.block == block for at in cell.positions
        ]
        rows, samples, places = (list(numbers) for numbers in zip(*patched, strict=True))

        def replace(value: Tensor, name: str) -> Tensor:
            edited = value.clone()
            edited[rows, places] = values[block][samples, places]
            return edited

        return names[block], replace

    return [hook(block) for block in dict.fromkeys(cell.block for cell in cells)]


def _hook_name(point: PointOfBlock, block: int) -> str:
    if not isinstance(point, str):
        return fitting("what point returned", point(block), str)
    if point not in get_args(ResidualPoint):
        raise ValueError(
            f"point is {point!r}: it must be one of {', '.join(get_args(ResidualPoint))}, or a function from a block "
            "to a hook's name."
        )
    return block_point(block, point)


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
