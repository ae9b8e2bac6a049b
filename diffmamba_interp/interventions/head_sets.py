"""Sets of heads: those of the largest score, and others to compare with what an ablation of them does.

Heads are matched by block, branch and the size of their output: were the chosen ones replaced by such others, as many
heads of the same scans would be gone that write about as much.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffmamba_interp.argument_checks import Count, Share, checked
from diffmamba_interp.hook_names import Branch, Scan
from diffmamba_interp.interventions.ablation import AblateHead, Means
from diffmamba_interp.interventions.knock_out import KnockOut
from diffmamba_interp.interventions.targets import AtTokens, Positions
from diffmamba_interp.text.stable_random import StableRandom


class Head(NamedTuple):
    """One head of one scan. branch: None in a plain block."""

    block: int
    branch: Branch | None
    head: int

    @property
    def scan(self) -> Scan:
        return self.block, self.branch


ByHead = Mapping[Scan, Float[np.ndarray, " head"]]
"""A number for each head of each scan."""


@checked
def largest_heads(scores: ByHead, share: Share = 0.05) -> tuple[Head, ...]:
    """The heads of the largest scores, the largest first: a share of all heads, rounded, and at least one.

    A head whose score is NaN is none of them. Raises ValueError if no head has a score.
    """
    every = [(float(score), Head(*scan, head)) for scan, row in scores.items() for head, score in enumerate(row)]
    known = sorted((pair for pair in every if not math.isnan(pair[0])), key=lambda pair: -pair[0])
    if not known:
        raise ValueError("no head has a score: give scores that are not NaN.")
    return tuple(head for _, head in known[: max(1, round(share * len(every)))])


@checked
def matched_heads(chosen: Collection[Head], sizes: ByHead, *, seed: int = 0, nearest: Count = 3) -> tuple[Head, ...]:
    """As many other heads: for each one of the same scan, drawn from the `nearest` in size of those that are left.

    Where none is left in the scan, the other branch's heads of its block stand in, then all heads of the model.

    Args:
        chosen: heads to find matches of. sizes: of every head's output, above 0, in any unit. seed: of the draw.

    Raises ValueError for no heads, for one without a size, and if fewer heads are left than were chosen.
    """
    if not chosen:
        raise ValueError("chosen is empty, so there is nothing to match: name at least one head.")
    left = {Head(*scan, head): float(size) for scan, row in sizes.items() for head, size in enumerate(row)}
    unknown = [head for head in chosen if head not in left]
    if unknown:
        raise ValueError(f"sizes has no number for {unknown[0]}: give one for every head of the model.")
    size_of = {head: left.pop(head) for head in chosen}
    if len(left) < len(size_of):
        raise ValueError(f"{len(size_of)} heads are chosen and {len(left)} are left to match them: choose fewer.")
    random = StableRandom("matched heads", seed, *sorted(map(str, chosen)))
    matches = []
    for head in random.shuffled(sorted(chosen, key=str)):
        candidates = next(
            group
            for group in (
                [other for other in left if other.scan == head.scan],
                [other for other in left if other.block == head.block],
                list(left),
            )
            if group
        )
        near = sorted(candidates, key=lambda other: (_distance(left[other], size_of[head]), str(other)))
        match = random.pick(near[:nearest])
        del left[match]
        matches.append(match)
    return tuple(matches)


@checked
def ablate_heads(heads: Collection[Head], *, means: Means | None = None) -> tuple[AblateHead, ...]:
    """What the heads add to the stream becomes zero, or its mean (`collect_means`): an intervention for each scan."""
    return tuple(
        AblateHead(block=block, branch=branch, heads=of_scan, at="gated", means=means)
        for (block, branch), of_scan in _by_scan(heads).items()
    )


@checked
def knock_out_heads(heads: Collection[Head], positions: Positions | AtTokens) -> tuple[KnockOut, ...]:
    """The heads' writes at the positions go, and so all that they read there: an intervention for each scan."""
    return tuple(
        KnockOut(positions=positions, blocks=block, branch=branch, heads=of_scan)
        for (block, branch), of_scan in _by_scan(heads).items()
    )


def _by_scan(heads: Collection[Head]) -> dict[Scan, Sequence[int]]:
    if not heads:
        raise ValueError("heads is empty, so nothing would change: name at least one.")
    scans: dict[Scan, list[int]] = defaultdict(list)
    for head in sorted(heads, key=str):
        scans[head.scan].append(head.head)
    return dict(scans)


def _distance(size: float, wanted: float) -> float:
    """Between logarithms; a head that writes nothing is as far as can be from one that writes."""
    if size <= 0 or wanted <= 0:
        return 0.0 if size <= 0 and wanted <= 0 else math.inf
    return abs(math.log(size / wanted))
