"""The kinds of model that are compared: the nine of the paper's Table 2, two placements (Fig. 10), two gates.

    Diff-Mamba   (1 - lambda_init) N(M1(u) - lambda M2(u)),  M a whole mixer
    Diff-S6      out_proj(gate((1 - lambda_init) N(S1(u) - lambda S2(u)), z)),  S a scan (the paper's Fig. 1)

Without normalisation N and the factor fall away. lambda is sigmoid(sum of q) + lambda_init (Eq. 16: of one number in
Diff-S6, of d_model in Diff-Mamba, as published), or re-parameterised, exp(q1 . k1) - exp(q2 . k2) + lambda_init
(Eq. 10).

Parameters are matched by what does not touch the differential state. A Diff-Mamba block has two branches with half of
a plain mixer's heads and with B and C of their own, so the plain mixer gets two groups of B and C. A Diff-S6 block has
two scans as wide as a plain mixer's, so its stream is narrower (`d_model_of_scans`; `d_head_of_scans` is the width of
its heads). A plain block between differential ones has one group, as published, which leaves those models smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from diffmamba_interp import DifferentialConfig, HookedMambaConfig

Group = Literal["table 2", "placement", "gates"]
GROUPS: tuple[Group, ...] = ("table 2", "placement", "gates")
"""In the order in which they are trained."""
BASELINE, REFERENCE = "mamba", "diff-mamba"
SCANS = {"subtract_at": "scan"}
WHOLE_MIXERS = {"head_division": "n_heads"}


class Sizes(Protocol):
    """What of a recipe a model is made of. d_model_of_scans, d_head_of_scans: those of Diff-S6."""

    @property
    def d_model(self) -> int: ...

    @property
    def d_model_of_scans(self) -> int: ...

    @property
    def d_state(self) -> int: ...

    @property
    def d_head(self) -> int: ...

    @property
    def d_head_of_scans(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A kind of model. label: its name on the page. differential: fields of `DifferentialConfig`; None: plain."""

    label: str
    group: Group = "table 2"
    differential: Mapping[str, Any] | None

    @property
    def has_scans_subtracted(self) -> bool:
        return self.differential is not None and "subtract_at" in self.differential


CELLS: dict[str, Cell] = {
    "mamba": Cell(label="Mamba", differential=None),
    "diff-s6-bare": Cell(
        label="Diff-S6, no norm", differential={**SCANS, "lambda_form": "sigmoid", "normalisation": "none"}
    ),
    "diff-s6": Cell(label="Diff-S6", differential={**SCANS, "lambda_form": "sigmoid"}),
    "diff-s6-exp-bare": Cell(
        label="Diff-S6 re-parameterised, no norm",
        differential={**SCANS, "lambda_form": "exp_dot", "normalisation": "none"},
    ),
    "diff-s6-exp": Cell(label="Diff-S6 re-parameterised", differential={**SCANS, "lambda_form": "exp_dot"}),
    "diff-mamba-bare": Cell(label="Diff-Mamba, no norm", differential={**WHOLE_MIXERS, "normalisation": "none"}),
    "diff-mamba": Cell(label="Diff-Mamba", differential=WHOLE_MIXERS),
    "diff-mamba-exp-bare": Cell(
        label="Diff-Mamba re-parameterised, no norm",
        differential={**WHOLE_MIXERS, "lambda_form": "exp_dot", "normalisation": "none"},
    ),
    "diff-mamba-exp": Cell(
        label="Diff-Mamba re-parameterised", differential={**WHOLE_MIXERS, "lambda_form": "exp_dot"}
    ),
    "alternate": Cell(
        label="Diff-Mamba in every other block",
        group="placement",
        differential={**WHOLE_MIXERS, "placement": "alternate"},
    ),
    "quarter": Cell(
        label="Diff-Mamba in the last quarter", group="placement", differential={**WHOLE_MIXERS, "placement": "quarter"}
    ),
    "token-gate": Cell(
        label="Diff-Mamba, lambda of each token",
        group="gates",
        differential={**WHOLE_MIXERS, "lambda_form": "token_gate"},
    ),
    "token-head-gate": Cell(
        label="lambda of each token and head",
        group="gates",
        differential={**SCANS, "lambda_form": "token_head_gate", "normalisation": "none"},
    ),
}

Unit = tuple[str, int, int]
"""A run: the name of a cell, the number of blocks, the seed."""


def config_of(cell: str, sizes: Sizes, *, n_layers: int, d_vocab: int) -> HookedMambaConfig:
    """The model of a cell. Raises ValueError for an unknown one."""
    if cell not in CELLS:
        raise ValueError(f"there is no cell {cell!r}: choose of {', '.join(CELLS)}.")
    kind = CELLS[cell]
    return HookedMambaConfig(
        d_model=sizes.d_model_of_scans if kind.has_scans_subtracted else sizes.d_model,
        n_layers=n_layers,
        d_vocab=d_vocab,
        d_state=sizes.d_state,
        d_head=sizes.d_head_of_scans if kind.has_scans_subtracted else sizes.d_head,
        n_groups=2 if kind.differential is None else 1,
        tie_embeddings=True,
        differential=None if kind.differential is None else DifferentialConfig(**kind.differential),
    )


def runs_of(cells: Sequence[str], n_layers: Sequence[int], seeds: Sequence[int]) -> list[Unit]:
    """All runs in the order in which they are trained: a group after the other and within it seed by seed, so that a
    cut leaves whole seeds."""
    groups = [group for group in GROUPS if any(CELLS[cell].group == group for cell in cells)]
    return [
        (cell, blocks, seed)
        for group in groups
        for seed in seeds
        for blocks in n_layers
        for cell in cells
        if CELLS[cell].group == group
    ]
