"""What is changed on the interventions page, and which answer is read; before and after, and in a sweep of doses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch

from app.shell import loading
from app.shell.folders import ModelKey
from app.shell.lens_reading import TOP_K, LensRequest
from app.shell.prompts import Prompt
from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.hook_names import BRANCHES, Branch
from diffmamba_interp.interventions import (
    AblateBranch,
    AblateHead,
    AddNoise,
    AnswerReading,
    Intervention,
    InterventionRecord,
    KnockOut,
    ScaleLambda,
    SetLambda,
    SwapBranches,
    SweepRecord,
    compare,
    intervene,
    sweep,
)
from diffmamba_interp.interventions.knock_out import Level
from diffmamba_interp.lens import LensTrajectory, LogitLens, TunedLens, lens_trajectory, load_lens

LENS = "lens"
"""What the readings call the lens."""

Swept = Literal["lambda", "noise"]
FACTORS = tuple(step / 4 for step in range(9))
SNRS_DB = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0)
DOSE_NAMES: dict[Swept, str] = {
    "lambda": "λ of the chosen blocks, times",
    "noise": "power of the residual stream over that of the noise, dB",
}
PROBABILITY = "answer_probability"


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


@dataclass(frozen=True, kw_only=True)
class DoseRequest:
    """swept: what. groups: blocks that are changed together, one curve each. present: for each group the factor that
    the other widgets give it, among the doses; None where its blocks have several. seed: of the noise."""

    swept: Swept
    groups: tuple[tuple[int, ...], ...]
    present: tuple[float | None, ...]
    seed: int = 0

    @property
    def doses(self) -> tuple[float, ...]:
        if self.swept == "noise":
            return SNRS_DB
        return tuple(sorted({*FACTORS, *(factor for factor in self.present if factor is not None)}))

    @property
    def n_passes(self) -> int:
        """Forward passes that the sweep takes."""
        return len(self.doses) * len(self.groups) + 1

    def interventions(
        self, cfg: HookedMambaConfig, changes: Changes, dose: float, blocks: tuple[int, ...]
    ) -> list[Intervention]:
        """One dose in one group, after what else is changed."""
        if self.swept == "noise":
            return [*changes.interventions(cfg), AddNoise(snr_db=dose, blocks=blocks, seed=self.seed)]
        return [*changes.interventions(cfg, free=blocks), ScaleLambda(factor=dose, blocks=blocks)]


def present_factor(key: ModelKey, changes: Changes, blocks: Sequence[int]) -> float | None:
    """What the widgets multiply lambda of these blocks with; None where that differs or a block's own is 0."""
    own = dict(changes.lambdas)
    factors = set()
    for block in blocks:
        lambda_ = loading.report(key).blocks[block].lambda_
        if block in own and not lambda_:
            return None
        factors.add(own[block] / (lambda_ or 1.0) if block in own else changes.lambda_factor)
    return factors.pop() if len(factors) == 1 else None


def swept_record(
    key: ModelKey, prompt: Prompt, answer: Answer, changes: Changes, request: DoseRequest,
    on_progress: Callable[[int], None] | None = None,
) -> SweepRecord:  # fmt: skip
    """The answer at the output at every dose, from the cache if it was read before.

    Everything but what is swept is as `changes` says, so that a curve of lambda passes through what they give.
    """

    def run(model: HookedMamba) -> SweepRecord:
        reading = AnswerReading(
            tokens=torch.tensor([prompt.tokens]), answers=[answer.token], labels=list(answer.labels) or None
        )
        record = sweep(
            reading,
            model,
            lambda dose, blocks: request.interventions(model.cfg, changes, dose, cast(tuple[int, ...], blocks)),
            doses=request.doses,
            groups=request.groups,
            dose=DOSE_NAMES[request.swept],
            on_progress=on_progress,
        )
        return with_probability(record)

    return loading.result(key, ("sweep", prompt, answer, changes, request), run, lambda _: 20_000)


def with_probability(record: SweepRecord) -> SweepRecord:
    """With the probability of the answer beside its logarithm."""
    clean, intervened = (
        {**values, PROBABILITY: np.exp(values["answer_log_probability"])}
        for values in (record.clean, record.intervened)
    )
    return replace(record, clean=clean, intervened=intervened)
