"""Attribution patching: the whole grid of patches estimated to first order, by one backward pass.

    estimate[row, pos] = sum_i (clean - corrupted)[row, pos, i] * d logit(corrupted) / d value[row, pos, i]
    error              = estimate - exact                           exact: what `patch_grid` finds

A patch moves one value from its corrupted to its clean one; the logit is taken for a plane on the way there. So the
estimate is exact where the logit is linear in the value, and misses most where a gate or a norm saturates. Several
positions that are patched together have the sum of their estimates. (Nanda 2023, "Attribution patching"; Kramár et al.
2024, arXiv 2403.00745.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.hook_names import EMBED
from diffmamba_interp.interventions.patching import (
    ROWS,
    AskedGrid,
    PatchGrid,
    PointOfBlock,
    ask,
    clean_run,
    positions_of,
)
from diffmamba_interp.interventions.targets import Blocks
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.ops.precision import upcast


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimateError(JsonRecord):
    """What an estimated grid misses of the exact one, pair of prompts by pair.

    error: estimate minus exact, logits. rank_correlation: Spearman's over a pair's cells; NaN where one of the two is
    the same everywhere. missed: sum |error| / sum |exact change|, without unit; NaN where no patch changes anything.
    """

    error: Float[np.ndarray, "sample row pos"]
    rank_correlation: Float[np.ndarray, " sample"]
    missed: Float[np.ndarray, " sample"]


@checked
def attribution_patching(
    model: HookedMamba,
    clean: Int[Tensor, "batch pos"],
    corrupted: Int[Tensor, "batch other_pos"],
    *,
    answers: Sequence[int],
    against: Sequence[int] | None = None,
    point: PointOfBlock = "resid_pre",
    blocks: Blocks = None,
    positions: Sequence[int | Sequence[int]] | None = None,
    batch_size: Count = ROWS,
    on_progress: Callable[[int], None] | None = None,
) -> PatchGrid:
    """What `patch_grid` would find, estimated by one forward pass of each prompt and one backward pass.

    The arguments are those of `patch_grid`, and so is the record, with `estimated` set; its axes are the same.

    Args:
        batch_size: pairs in one backward pass, which keeps what every block has computed.
        on_progress: called with the number of pairs done since the last call.

    Raises:
        ValueError: as `patch_grid` does.
    """
    asked = ask(model, clean, corrupted, answers, against, point, blocks, positions)
    parts = []
    for first in range(0, len(clean), batch_size):
        samples = range(first, min(first + batch_size, len(clean)))
        parts.append(_estimate(asked, samples))
        if on_progress is not None:
            on_progress(len(samples))
    clean_logits, corrupted_logits, changes = (torch.cat(column) for column in zip(*parts, strict=True))
    patched = corrupted_logits.double()[:, None, None] + changes
    return asked.grid(clean_logits, corrupted_logits, patched.cpu().numpy(), estimated=True)


@checked
def estimate_error(estimate: PatchGrid, exact: PatchGrid) -> EstimateError:
    """How far the estimate is off, where the exact grid was made, too. Raises ValueError for grids of other cells."""
    from scipy.stats import rankdata

    for name in ("point", "blocks", "branches", "heads", "positions", "answers", "against"):
        if getattr(estimate, name) != getattr(exact, name):
            raise ValueError(
                f"estimate and exact differ in {name}, {getattr(estimate, name)!r} and {getattr(exact, name)!r}: make "
                "both with the same arguments."
            )
    error = estimate.patched - exact.patched
    size = np.abs(exact.change).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        ranks = [
            rankdata(grid.change.reshape(len(size), -1), axis=1) - (grid.change[0].size + 1) / 2
            for grid in (estimate, exact)
        ]
        spread = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
        missed = np.abs(error).sum(axis=(1, 2)) / np.where(size > 0, size, np.nan)
        return EstimateError(
            error=error,
            rank_correlation=(ranks[0] * ranks[1]).sum(axis=1) / np.where(spread > 0, spread, np.nan),
            missed=missed,
        )


def _estimate(asked: AskedGrid, samples: range) -> tuple[Tensor, Tensor, Float[Tensor, "sample row pos"]]:
    """Clean and corrupted logits of some pairs, and the estimated changes in float64."""
    values, clean_logits = clean_run(asked, samples)
    seen: dict[str, Tensor] = {}

    def leaf(embedded: Tensor, name: str) -> Tensor:
        # Whether or not parameters want gradients: all that depends on the prompt gets one, and nothing else.
        return embedded.detach().requires_grad_()

    def keep(value: Tensor, name: str) -> Tensor | None:
        # Where a hook put a constant in the value's place, nothing before it counts.
        seen[name] = value if value.requires_grad else value.detach().requires_grad_()
        return None if value.requires_grad else seen[name]

    with torch.inference_mode(False), torch.enable_grad(), asked.model.hooks([(EMBED, leaf), (asked.names, keep)]):
        logits = asked.read("corrupted", samples)
        gradients = torch.autograd.grad(logits.sum(), list(seen.values()), allow_unused=True, materialize_grads=True)
    by_entry = {}
    for (name, corrupted), gradient in zip(seen.items(), gradients, strict=True):
        products = (upcast(values[name]) - upcast(corrupted.detach())).double() * gradient.double()
        by_entry[name] = products.flatten(3).sum(-1) if products.ndim > 3 else products
    by_row = torch.stack([by_entry[row.name][:, :, row.part].sum(dim=-1) for row in asked.rows], dim=1)
    changes = torch.stack([by_row[..., list(positions_of(place))].sum(dim=-1) for place in asked.places], dim=-1)
    return clean_logits.detach(), logits.detach(), changes
