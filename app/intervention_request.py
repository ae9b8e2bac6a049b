"""What is asked of the interventions page: what is changed, which answer is read; run, clean and with the changes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from app import loading
from app.lens_request import TOP_K, LensRequest
from app.loading import ModelKey
from app.prompts import Prompt
from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.hook_names import BRANCHES, Branch
from diffmamba_interp.interventions import (
    AblateBranch,
    AblateHead,
    AnswerReading,
    Intervention,
    InterventionRecord,
    KnockOut,
    ScaleLambda,
    SetLambda,
    SwapBranches,
    compare,
    intervene,
)
from diffmamba_interp.interventions.knock_out import Level
from diffmamba_interp.lens import LensTrajectory, LogitLens, TunedLens, lens_trajectory, load_lens

LENS = "lens"
"""What the readings call the lens."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is read at the last position. token: the answer's first. labels: first tokens of all labels, the answer's
    among them; empty where there are none to compare with."""

    token: int
    labels: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is changed in the model; nothing by default.

    lambda_factor: of every differential block without a lambda of its own in `lambdas`, (block, value).
    branches_off, heads_off: set to zero; swapped: blocks whose branches exchange their roles.
    knocked: positions; level, knock_blocks (first, last), knock_branch (None for all): how and where.
    """

    lambda_factor: float = 1.0
    lambdas: tuple[tuple[int, float], ...] = ()
    branches_off: tuple[tuple[int, Branch], ...] = ()
    swapped: tuple[int, ...] = ()
    heads_off: tuple[tuple[int, Branch | None, tuple[int, ...]], ...] = ()
    knocked: tuple[int, ...] = ()
    level: Level = "write"
    knock_blocks: tuple[int, int] = (0, 0)
    knock_branch: Branch | None = None

    def interventions(self, cfg: HookedMambaConfig, free: Collection[int] = ()) -> list[Intervention]:
        """In the order in which they act; lambda of the `free` blocks stays as it is.

        Raises ValueError for a branch of blocks that have none.
        """
        found: list[Intervention] = []
        scaled = tuple(b for b in differential_blocks(cfg) if b not in {*dict(self.lambdas), *free})
        if self.lambda_factor != 1 and scaled:
            found.append(ScaleLambda(factor=self.lambda_factor, blocks=scaled))
        found += [SetLambda(value=value, blocks=(block,)) for block, value in self.lambdas if block not in free]
        for branch in BRANCHES:
            blocks = tuple(block for block, off in self.branches_off if off == branch)
            found += [AblateBranch(branch=branch, blocks=blocks)] if blocks else []
        found += [SwapBranches(blocks=self.swapped)] if self.swapped else []
        found += [AblateHead(block=block, heads=heads, branch=branch) for block, branch, heads in self.heads_off]
        if self.knocked:
            found.append(self._knock_out(cfg))
        return found

    def _knock_out(self, cfg: HookedMambaConfig) -> KnockOut:
        first, last = self.knock_blocks
        allowed = range(cfg.n_layers) if self.knock_branch is None else differential_blocks(cfg)
        blocks = tuple(block for block in allowed if first <= block <= last)
        if not blocks:
            raise ValueError(
                f"no block from {first} to {last} has a {self.knock_branch}: knock the tokens out of both branches, "
                "or choose other blocks."
            )
        return KnockOut(positions=self.knocked, level=self.level, blocks=blocks, branch=self.knock_branch)


def differential_blocks(cfg: HookedMambaConfig) -> list[int]:
    return [block for block in range(cfg.n_layers) if cfg.block_kind(block) == "differential"]


def loaded_lens(model: HookedMamba, request: LensRequest) -> LogitLens | TunedLens:
    """Raises ValueError for the lens of another model."""
    return LogitLens.from_model(model) if request.lens is None else load_lens(request.lens, model)


def readings(key: ModelKey, prompt: Prompt, answer: Answer, lens: LensRequest, changes: Changes) -> InterventionRecord:
    """The answer at the output and through the lens, clean and changed, from the cache if it was read before."""

    def make(model: HookedMamba) -> InterventionRecord:
        reading = AnswerReading(
            tokens=torch.tensor([prompt.tokens]),
            answers=[answer.token],
            labels=list(answer.labels) or None,
            lenses={LENS: loaded_lens(model, lens)},
        )
        return compare(reading, model, changes.interventions(model.cfg))

    what = ("readings", prompt, answer, lens.lens, lens.revision, changes)
    return loading.result(key, what, make, lambda _: 20_000)


def changed_trajectory(key: ModelKey, prompt: Prompt, lens: LensRequest, changes: Changes) -> LensTrajectory:
    """As `lens_request.trajectory`, with the changes in force."""

    def make(model: HookedMamba) -> LensTrajectory:
        targets = lens.targets(prompt)
        with intervene(model, changes.interventions(model.cfg)):
            return lens_trajectory(
                model,
                loaded_lens(model, lens),
                torch.tensor([prompt.tokens], device=key.device),
                positions=slice(lens.first, lens.last + 1),
                top_k=TOP_K,
                targets=None if targets is None else torch.tensor([targets]),
            )

    return loading.result(key, ("changed", prompt, lens, changes), make, lambda found: 20 * found.top_tokens.nbytes)
