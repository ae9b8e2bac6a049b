"""What is changed on the interventions page, and which answer is read; before and after, and in a sweep of doses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from app.shell import loading
from app.shell.folders import ModelKey
from app.shell.lens_reading import LensRequest, lens_step, read_step, run_lens
from app.shell.prompts import Prompt
from app.shell.steps import Ref, Step, Within, as_python, run_steps, tokens_step
from diffmamba_interp import HookedMambaConfig
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
from diffmamba_interp.interventions.compare import dosed
from diffmamba_interp.interventions.knock_out import Level
from diffmamba_interp.interventions.records import with_probability
from diffmamba_interp.lens import LensTrajectory

Swept = Literal["lambda", "noise"]
FACTORS = tuple(step / 4 for step in range(9))
SNRS_DB = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0)
NOTHING = "nothing"
SWEPT = {NOTHING: "nothing", "lambda": "λ, times 0 to 2", "noise": "noise in the residual stream"}
POINTS = {
    NOTHING: "nothing",
    "resid_pre": "what enters each block",
    "mixer_out": "what each block writes",
    "branch_out": "what each branch writes",
    "gated": "what each head writes",
}
DOSE_NAMES: dict[Swept, str] = {
    "lambda": "λ of the chosen blocks, times",
    "noise": "power of the residual stream over that of the noise, dB",
}


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
        changes: list[Intervention] = []
        scaled = tuple(b for b in differential_blocks(cfg) if b not in {*dict(self.lambdas), *free})
        if self.lambda_factor != 1 and scaled:
            changes.append(ScaleLambda(factor=self.lambda_factor, blocks=scaled))
        changes += [SetLambda(value=value, blocks=(block,)) for block, value in self.lambdas if block not in free]
        for branch in BRANCHES:
            blocks = tuple(block for block, off in self.branches_off if off == branch)
            changes += [AblateBranch(branch=branch, blocks=blocks)] if blocks else []
        changes += [SwapBranches(blocks=self.swapped)] if self.swapped else []
        changes += [AblateHead(block=block, heads=heads, branch=branch) for block, branch, heads in self.heads_off]
        if self.knocked:
            changes.append(self._knock_out(cfg))
        return changes

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


def probability_step(of: str) -> Step:
    return Step("record", with_probability, Ref(of))


def reading_steps(
    key: ModelKey, prompt: Prompt, answer: Answer, lens: LensRequest, changes: Sequence[Intervention]
) -> list[Step]:
    """What is read at the output and through the lens, clean and changed."""
    labels = {"labels": list(answer.labels)} if answer.labels else {}
    given = {"tokens": Ref("tokens"), "answers": [answer.token], **labels, "lenses": {lens.name: Ref("lens")}}
    reading = Step("reading", AnswerReading, **given)
    compared = Step("compared", compare, Ref("reading"), Ref("model"), list(changes))
    return [tokens_step(key, prompt), lens_step(lens), reading, compared, probability_step("compared")]


def readings(key: ModelKey, prompt: Prompt, answer: Answer, lens: LensRequest, changes: Changes) -> InterventionRecord:
    """The readings, from the cache if they were made before. Raises ValueError for the lens of another model."""
    steps = reading_steps(key, prompt, answer, lens, changes.interventions(loading.config(key)))
    what = ("readings", as_python(steps), lens.revision)
    return loading.result(key, what, lambda model: run_steps(steps, {"model": model})["record"], lambda _: 20_000)


def changed_steps(prompt: Prompt, lens: LensRequest, changes: Sequence[Intervention]) -> Within:
    """The trajectory with the changes in force."""
    return Within(intervene, Ref("model"), list(changes), steps=[read_step(prompt, lens, "after")])


def changed_trajectory(key: ModelKey, prompt: Prompt, lens: LensRequest, changes: Changes) -> LensTrajectory:
    """As `trajectory`, with the changes in force."""
    changed = changed_steps(prompt, lens, changes.interventions(loading.config(key)))
    return run_lens(key, lens, [tokens_step(key, prompt), lens_step(lens), changed], "after")


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


def present_factor(key: ModelKey, changes: Changes, blocks: Sequence[int]) -> float | None:
    """What the widgets multiply lambda of these blocks with; None where that differs or a block's own is 0."""
    by_block = dict(changes.lambdas)
    factors = set()
    for block in blocks:
        lambda_ = loading.report(key).blocks[block].lambda_
        if block in by_block and not lambda_:
            return None
        factors.add(by_block[block] / (lambda_ or 1.0) if block in by_block else changes.lambda_factor)
    return factors.pop() if len(factors) == 1 else None


def sweep_steps(key: ModelKey, prompt: Prompt, answer: Answer, changes: Changes, request: DoseRequest) -> list[Step]:
    """The answer at the output at every dose; everything but what is swept is as `changes` says."""
    cfg, of_lambda = loading.config(key), request.swept == "lambda"
    labels = {"labels": list(answer.labels)} if answer.labels else {}
    how = {"doses": request.doses, "groups": list(request.groups), "dose": DOSE_NAMES[request.swept]}
    # Lambda of the blocks is not changed where it is swept.
    others = {group: changes.interventions(cfg, free=group if of_lambda else ()) for group in request.groups}
    dose = (ScaleLambda, "factor") if of_lambda else (AddNoise, "snr_db")
    return [
        tokens_step(key, prompt),
        Step("reading", AnswerReading, tokens=Ref("tokens"), answers=[answer.token], **labels),
        Step("changed", dosed, *dose, after=others, **({} if of_lambda else {"seed": request.seed})),
        Step("swept", sweep, Ref("reading"), Ref("model"), Ref("changed"), **how),
        probability_step("swept"),
    ]


def swept_record(
    key: ModelKey, prompt: Prompt, answer: Answer, changes: Changes, request: DoseRequest,
    on_progress: Callable[[int], None] | None = None,
) -> SweepRecord:  # fmt: skip
    """What is swept, from the cache if it was read before; a curve of lambda passes through what the other widgets
    give."""
    steps = sweep_steps(key, prompt, answer, changes, request)
    saving = {"swept": {"on_progress": loading.giving_way(key, on_progress)}}
    return loading.result(
        key,
        ("sweep", as_python(steps)),
        lambda model: run_steps(steps, {"model": model}, saving)["record"],
        lambda _: 20_000,
    )
