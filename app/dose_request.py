"""A sweep on the interventions page: lambda's factor or noise at several doses, with the other changes in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch

from app import loading
from app.intervention_request import Answer, Changes
from app.loading import ModelKey
from app.prompts import Prompt
from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.interventions import (
    AddNoise,
    AnswerReading,
    Intervention,
    ScaleLambda,
    SweepRecord,
    sweep,
)

Swept = Literal["lambda", "noise"]
FACTORS = tuple(step / 4 for step in range(9))
SNRS_DB = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0)
DOSE_NAMES: dict[Swept, str] = {
    "lambda": "λ of the chosen blocks, times",
    "noise": "power of the residual stream over that of the noise, dB",
}
PROBABILITY = "answer_probability"


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
