"""What a run of the needle page found, and how it is drawn: all that the page's figures need, without a model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffmamba_interp.implicit_attention.allocation import Allocation
from diffmamba_interp.needle.trajectory_records import Measure, NeedleTrajectory
from diffmamba_interp.statistics import Statistic


@dataclass(frozen=True, kw_only=True)
class NeedleFound:
    """What one model makes of the prompts that were read so far. allocation: None if it was not asked for."""

    trajectory: NeedleTrajectory
    allocation: Allocation | None

    @property
    def nbytes(self) -> int:
        """Of the arrays."""
        arrays = [value for value in vars(self.trajectory).values() if isinstance(value, np.ndarray)]
        tensors = [] if self.allocation is None else [*vars(self.allocation).values()]
        return sum(getattr(value, "nbytes", 0) for value in [*arrays, *tensors])

    def joined(self, other: NeedleFound) -> NeedleFound:
        """This and then the other's prompts."""
        both = self.allocation, other.allocation
        return replace(
            self,
            trajectory=NeedleTrajectory.join([self.trajectory, other.trajectory]),
            allocation=None if both[0] is None or both[1] is None else Allocation.cat([both[0], both[1]]),
        )


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the curves are drawn. log: a logarithmic axis for `measure`; the SNR is in dB."""

    measure: Measure
    statistic: Statistic
    log: bool


@dataclass(frozen=True, kw_only=True)
class NeedleRun:
    """found: one per model, of the same prompts in the same order."""

    found: tuple[NeedleFound, ...]
    drawing: Drawing

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.found)

    @property
    def n_prompts(self) -> int:
        return len(self.found[0].trajectory.samples)
