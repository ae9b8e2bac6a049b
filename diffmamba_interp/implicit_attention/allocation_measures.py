"""An `Allocation` as shares, block by block, along one of its directions.

cancelled_S = 1 - sum_S |K1 - lambda K2| / (sum_S |K1| + sum_S |lambda K2|)       0 if nothing cancels
over_allocation = sum over distractors and filler of |K| / sum of |K|             the paper's hypothesis
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.implicit_attention.allocation import CLASSES, PICTURES, Allocation

NOISE = ("distractors", "filler")
"""The classes that over-allocation counts."""


@dataclass(frozen=True, kw_only=True)
class AllocationMeasures:
    """Float64; NaN where a block or a prompt has no such number, as in plain blocks for the branches.

    snr_db: needle over all other visible tokens by picture (`PICTURES`), dB.
    cancelled: share that the subtraction cancels by class of sources (`CLASSES`), in [0, 1] up to round-off.
    over_allocation: share on `NOISE` by picture, in [0, 1].
    """

    snr_db: Mapping[str, Float[Tensor, "prompt block"]]
    cancelled: Mapping[str, Float[Tensor, "prompt block"]]
    over_allocation: Mapping[str, Float[Tensor, "prompt block"]]


def allocation_measures(allocation: Allocation, direction: int = 0) -> AllocationMeasures:
    """The measures along one direction; of `allocate_prompts`, 0 is the answer's logit.

    Raises IndexError for a direction that the allocation does not have.
    """
    n_directions = allocation.mass.shape[1]
    if not 0 <= direction < n_directions:
        raise IndexError(f"direction is {direction}: the allocation has directions 0 to {n_directions - 1}.")
    mass = allocation.mass[:, direction].double()
    snr = allocation.snr_db[:, direction].double()
    net, minuend, scaled = (mass[:, :, PICTURES.index(name)] for name in ("net", "minuend", "lambda_subtrahend"))
    cancelled = 1 - net / (minuend + scaled)
    noise = mass[..., [CLASSES.index(name) for name in NOISE]].sum(dim=-1)
    over = noise / mass.sum(dim=-1)
    return AllocationMeasures(
        snr_db=dict(zip(PICTURES, snr.unbind(-1), strict=True)),
        cancelled=dict(zip(CLASSES, cancelled.unbind(-1), strict=True)),
        over_allocation=dict(zip(PICTURES, over.unbind(-1), strict=True)),
    )
